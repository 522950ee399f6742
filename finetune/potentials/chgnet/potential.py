"""CHGNet as a `Potential`; the only caller of the chgnet package.

The network is the package's own module. Its layers are applied here to a whole batch: the graph
comes from the batch's edges, in the precision of the weights, and every structure is evaluated as
if it were alone. B. Deng et al., Nature Machine Intelligence 5, 1031 (2023).
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from contextlib import redirect_stdout
from importlib import import_module
from typing import Any

import torch

from finetune.core.errors import FoundationError
from finetune.data.graphs import GraphBatch
from finetune.potentials.chgnet.graph import angles, bonds
from finetune.potentials.chgnet.settings import ChgnetSettings
from finetune.potentials.equivariant import REFUSALS
from finetune.potentials.potential import (
    UNUSED,
    Edges,
    ElementPotential,
    choose_head,
    edges_within,
)


class ChgnetPotential(ElementPotential):
    """A CHGNet without its composition model, whose energies are the reference energies.

    ``unused`` are weights that no energy depends on, by their names in CHGNet: those of magnetic
    moments and of the last update of angles. They are no parameters, so that nothing trains them,
    but are stored and exported.

    Energies and forces are smooth at both cutoffs. But CHGNet takes angles from the arccosine of
    (1 − 10⁻⁶) times the cosine, and its frequencies are trained, so angles within about 10⁻³ of
    180° have curvatures of their own. In a perfect crystal every atom has such angles: copper
    (0.3.0) pulls a displaced atom back with 1.4 eV/Å² at 10⁻⁴ Å but 3.1 eV/Å² at 10⁻² Å. Second
    derivatives there mean little; displacements of 10⁻² Å and more average over it. Networks with
    ``mlp_out_bias`` (0.2.0) jump where the first angle in a structure appears, as in chgnet.
    """

    family = "chgnet"

    @classmethod
    def build(
        cls,
        settings: ChgnetSettings,
        dtype: torch.dtype = torch.float64,
        head: str | None = None,
    ) -> ChgnetPotential:
        """Construct the network with fresh weights drawn from torch's global generator.

        Raises FoundationError if the package is missing or refuses the settings, or for an unknown
        head.
        """
        choose_head(cls.heads, head)
        model = construct(settings)
        unused = take_unused(settings, model)
        return cls(settings, settings.atom_graph_cutoff, model.to(dtype), unused)

    def interaction_and_features(
        self, batch: GraphBatch, element: torch.Tensor, strain: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor]:
        """See `Potential.interaction_and_features`: what the readout perceptron is given."""
        edges = edges_within(self.cutoff, batch, strain)
        features = self._features(batch, edges)
        model: Any = self.model
        return model.mlp(features)[:, 0], edges.positions, edges.strain, features

    @property
    def feature_size(self) -> int:
        """See `Potential.feature_size`."""
        return self._settings.atom_fea_dim

    def _features(self, batch: GraphBatch, edges: Edges) -> torch.Tensor:
        """Return the features of the atoms after all convolutions ``[N, atom_fea_dim]``."""
        model: Any = self.model
        bond, first = bonds(edges.sender, edges.receiver, edges.unit_shifts, len(batch.numbers))
        lengths = edges.lengths[first]
        radial = model.bond_basis_expansion.rbf_expansion_ag(lengths)
        atom_features = model.atom_embedding(batch.numbers - 1)
        bond_features = model.bond_embedding(radial)
        weights = model.bond_weights_ag(radial)[bond]
        owner = batch.structure[edges.sender[first]]
        angular = _Angles(self._settings, model, edges, bond, lengths, owner)
        for step, layer in enumerate(model.atom_conv_layers):
            parts = [atom_features[edges.sender], bond_features[bond]]
            messages = layer.twoBody_atom(torch.cat([*parts, atom_features[edges.receiver]], dim=1))
            change = torch.zeros_like(atom_features).index_add(0, edges.sender, messages * weights)
            atom_features = layer.mlp_out(change) + atom_features
            if layer.atom_norm is not None:
                atom_features = layer.atom_norm(atom_features)
            if step < angular.updates:
                bond_features = angular.update(step, atom_features, bond_features)
        if model.readout_norm is not None:
            atom_features = model.readout_norm(atom_features)
        return atom_features


class _Angles:
    """The angles of a batch: they carry features, and update those of the bonds.

    ``bond`` is that of each edge; ``lengths`` (Å) and ``owner``, the structure, those of each bond.
    A structure without angles keeps its bonds' features, whatever else is in the batch.
    """

    def __init__(
        self,
        settings: ChgnetSettings,
        model: Any,
        edges: Edges,
        bond: torch.Tensor,
        lengths: torch.Tensor,
        owner: torch.Tensor,
    ) -> None:
        self.updates = settings.angle_updates
        if not self.updates:
            return
        self._model = model
        short = lengths < settings.bond_graph_cutoff
        first, second = angles(edges.sender, short[bond])
        self._atom, self._bonds = edges.sender[first], (bond[first], bond[second])
        directions = edges.vectors / edges.lengths[:, None]
        angular = model.angle_basis_expansion(directions[first], directions[second])
        self._features = model.angle_embedding(angular)
        weights = model.bond_weights_bg(model.bond_basis_expansion.rbf_expansion_bg(lengths))
        self._weights = weights[self._bonds[0]] * weights[self._bonds[1]]
        self._updated = torch.isin(owner, owner[self._bonds[0]])[:, None]

    def update(
        self, step: int, atom_features: torch.Tensor, bond_features: torch.Tensor
    ) -> torch.Tensor:
        """Return the bonds' features after an update; the angles' follow, if used again."""
        layer = self._model.bond_conv_layers[step]
        messages = layer.twoBody_bond(self._joined(atom_features, bond_features))
        change = torch.zeros_like(bond_features).index_add(
            0, self._bonds[0], messages * self._weights
        )
        updated = layer.mlp_out(change) + bond_features
        if layer.bond_norm is not None:
            updated = layer.bond_norm(updated)
        bond_features = torch.where(self._updated, updated, bond_features)
        if step < len(self._model.angle_layers):
            layer = self._model.angle_layers[step]
            change = layer.twoBody_bond(self._joined(atom_features, bond_features))
            self._features = change + self._features
            if layer.angle_norm is not None:
                self._features = layer.angle_norm(self._features)
        return bond_features

    def _joined(self, atom_features: torch.Tensor, bond_features: torch.Tensor) -> torch.Tensor:
        one, other = (bond_features[bond] for bond in self._bonds)
        return torch.cat([one, other, self._features, atom_features[self._atom]], dim=1)


def assemble(
    settings: ChgnetSettings,
    weights: Mapping[str, torch.Tensor],
    dtype: torch.dtype,
    head: str | None,
) -> tuple[ChgnetPotential, dict[str, torch.Tensor]]:
    """Return a potential with the stored ``unused`` weights, and the weights to fill in."""
    with torch.random.fork_rng(devices=[]):
        potential = ChgnetPotential.build(settings, dtype, head)
    for name, tensor in potential.unused.items():
        stored = weights.get(f"{UNUSED}{name}", torch.zeros_like(tensor))
        if stored.shape != tensor.shape:
            raise FoundationError(
                f"the stored weight '{UNUSED}{name}' has the shape {tuple(stored.shape)}, not "
                f"{tuple(tensor.shape)}. Get a fresh copy."
            )
        potential.unused[name] = stored.detach().to("cpu", dtype, copy=True)
    own = {name: item for name, item in weights.items() if not name.startswith(UNUSED)}
    return potential, own


def construct(settings: ChgnetSettings) -> torch.nn.Module:
    """Return a complete CHGNet with fresh weights in float32, but without a composition model.

    Raises FoundationError if the package is missing or refuses the settings.
    """
    arguments = {**settings.network_arguments(), "conv_dropout": 0, "mlp_dropout": 0}
    try:
        with redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            network = import_module("chgnet.model.model").CHGNet
            model: torch.nn.Module = network(
                **arguments, composition_model=None, graph_converter_algorithm="legacy"
            )
    except ImportError as error:
        raise FoundationError(
            f"a CHGNet needs the package chgnet ({error}): pip install 'piwsl-finetune[chgnet]'"
        ) from error
    except (*REFUSALS, NotImplementedError) as error:
        raise FoundationError(
            f"chgnet cannot build a network from these settings: {type(error).__name__}: {error}"
        ) from error
    return model


def take_unused(settings: ChgnetSettings, model: Any) -> dict[str, torch.Tensor]:
    """Remove the weights from a complete network that no energy depends on, and return them."""
    everything = {name: item.detach() for name, item in model.named_parameters()}
    del model.site_wise
    if not isinstance(model.angle_layers, torch.nn.ModuleList):
        model.angle_layers = torch.nn.ModuleList()
    del model.angle_layers[max(settings.angle_updates - 1, 0) :]
    if not settings.angle_updates:
        del model.bond_weights_bg, model.angle_embedding, model.angle_basis_expansion
        del model.bond_basis_expansion.rbf_expansion_bg
    kept = dict(model.named_parameters())
    return {name: item for name, item in everything.items() if name not in kept}
