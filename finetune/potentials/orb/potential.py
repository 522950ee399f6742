"""ORB as a `Potential`; the only caller of the orb-models package.

The network is the package's own. Its graph comes from the batch's edges. B. Rhodes et al.,
Orb-v3: atomistic simulation at scale, arXiv:2504.06231 (2025).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch

from finetune.core.errors import FoundationError
from finetune.data.graphs import GraphBatch
from finetune.potentials.equivariant import REFUSALS, default_dtype, quiet_import
from finetune.potentials.orb.settings import CUTOFF, DEGREE, EMBEDDED, RADIAL, OrbSettings
from finetune.potentials.potential import (
    UNUSED,
    Edges,
    ElementPotential,
    balanced,
    choose_head,
    edges_within,
)


class Network(torch.nn.Module):
    """The layers that energies and forces depend on, under their names in orb-models."""

    def __init__(self, model: torch.nn.Module, heads: torch.nn.Module, repulsion: Any) -> None:
        super().__init__()
        self.model = model
        self.heads = heads
        self.repulsion = repulsion  # Ziegler, Biersack and Littmark; it has no weights


class OrbPotential(ElementPotential):
    """An ORB v3 with the heads for energies and, if it is direct, for forces.

    ``unused`` are weights that neither depends on, by their names in a checkpoint: those of the
    decoder, of the heads for confidence and stress, and numbers of normalisers. They are no
    parameters, but are stored and exported. Stress is the derivative of the energy.

    The symmetry under rotations is learnt: energies and `descriptors` change somewhat when a
    molecule turns. The energy is a function of the mean features of all atoms, so that of two
    molecules far apart is not exactly the sum of both; `Prediction.node_energy` shares it equally.
    """

    family = "orb"
    model: Network

    @classmethod
    def build(
        cls,
        settings: OrbSettings,
        dtype: torch.dtype = torch.float64,
        head: str | None = None,
    ) -> OrbPotential:
        """Construct the network with fresh weights drawn from torch's global generator.

        Raises FoundationError if the package is missing or refuses the settings, or for an unknown
        head.
        """
        choose_head(cls.heads, head)
        model = construct(settings).to(dtype)
        return cls(settings, CUTOFF, model, take_unused(model))

    @property
    def direct_forces(self) -> bool:
        """See `Potential.direct_forces`."""
        return self._settings.direct

    @property
    def further_inputs(self) -> frozenset[str]:
        """See `Potential.further_inputs`."""
        return frozenset({"charge", "spin"} if self._settings.charge_and_spin else ())

    @property
    def feature_size(self) -> int:
        """See `Potential.feature_size`."""
        return self._settings.latent_dim

    def interaction_and_features(
        self, batch: GraphBatch, element: torch.Tensor, strain: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor]:
        """See `Potential.interaction_and_features`: what the heads are given."""
        energy, edges, features, _ = self._evaluate(batch, strain)
        return energy, edges.positions, edges.strain, features

    def interaction_and_forces(
        self, batch: GraphBatch, element: torch.Tensor, strain: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor]:
        """See `Potential.interaction_and_forces`."""
        energy, edges, features, repulsion = self._evaluate(batch, strain)
        heads: Any = self.model.heads
        own = self._settings
        forces = balanced(heads["forces"]["mlp"](features), edges.positions, batch, torque=True)
        forces = own.forces_mean + own.forces_std * forces + repulsion["forces"]
        return energy, edges.positions, edges.strain, forces

    def _evaluate(
        self, batch: GraphBatch, strain: bool
    ) -> tuple[torch.Tensor, Edges, torch.Tensor, dict[str, torch.Tensor]]:
        """Return energies of atoms, the edges, features of atoms, and the repulsion of nuclei."""
        edges = edges_within(self.cutoff, batch, strain)
        graph = self._graph(batch, edges)
        network: Any = self.model
        features = network.model(graph)["node_features"]
        repulsion = network.repulsion(graph)
        atoms = batch.atoms.to(features.dtype)
        mean = batch.sum_atoms(features) / atoms[:, None]
        own = self._settings
        each = own.energy_mean + own.energy_std * network.heads["energy"]["mlp"](mean)[:, 0]
        energy = each + repulsion["energy"] / atoms
        return energy[batch.structure], edges, features, repulsion

    def _graph(self, batch: GraphBatch, edges: Edges) -> SimpleNamespace:
        """Return a batch as the layers of orb-models read it."""
        kept = nearest(edges, self._settings.max_neighbours)
        sender, receiver = edges.sender[kept], edges.receiver[kept]
        one_hot = torch.nn.functional.one_hot(batch.numbers, EMBEDDED + 1).to(self.dtype)
        edge_counts = torch.bincount(batch.structure[sender], minlength=len(batch))
        return SimpleNamespace(
            senders=sender,
            receivers=receiver,
            n_node=batch.atoms.long(),
            n_edge=edge_counts,
            node_features={"atomic_numbers": batch.numbers, "atomic_numbers_embedding": one_hot},
            edge_features={"vectors": edges.vectors[kept]},
            system_features={
                "cell": batch.cell,
                "total_charge": batch.charge.to(self.dtype),
                "total_spin": batch.spin.to(self.dtype),
            },
        )


def nearest(edges: Edges, most: int) -> torch.Tensor:
    """Return the places of the edges ``[E']`` to the ``most`` nearest neighbours of each sender."""
    order = edges.lengths.detach().argsort(stable=True)
    order = order[edges.sender[order].argsort(stable=True)]
    sender = edges.sender[order]
    first = torch.searchsorted(sender, sender)  # place of the sender's shortest edge
    rank = torch.arange(len(sender), device=sender.device) - first
    return order[rank < most]


def assemble(
    settings: OrbSettings,
    weights: Mapping[str, torch.Tensor],
    dtype: torch.dtype,
    head: str | None,
) -> tuple[OrbPotential, dict[str, torch.Tensor]]:
    """Return a potential with the stored ``unused`` weights, and the weights to fill in."""
    with torch.random.fork_rng(devices=[]):
        potential = OrbPotential.build(settings, dtype, head)
    unused = {n.removeprefix(UNUSED): t for n, t in weights.items() if n.startswith(UNUSED)}
    potential.unused |= {name: item.detach().to("cpu", dtype) for name, item in unused.items()}
    return potential, {name: item for name, item in weights.items() if not name.startswith(UNUSED)}


def construct(settings: OrbSettings) -> Network:
    """Return an ORB with fresh weights in float64: its base with the decoder, and the heads.

    Raises FoundationError if the package is missing or refuses the settings.
    """
    room = "orb_models.forcefield"
    try:
        gns, layers = quiet_import(f"{room}.gns"), quiet_import(f"{room}.nn_util")
        radial, angular = quiet_import(f"{room}.rbf"), quiet_import(f"{room}.angular")
        repulsion = quiet_import(f"{room}.pair_repulsion")
    except ImportError as error:
        raise FoundationError(
            f"an ORB needs the package orb-models ({error}): pip install 'piwsl-finetune[orb]'"
        ) from error
    width = settings.latent_dim
    conditioner = layers.ChargeSpinConditioner if settings.charge_and_spin else None
    try:
        with default_dtype(torch.float64):
            model = gns.MoleculeGNS(
                latent_dim=width,
                num_message_passing_steps=settings.message_passing_steps,
                num_mlp_layers=settings.base_mlp_depth,
                mlp_hidden_dim=settings.base_mlp_hidden_dim,
                rbf_transform=radial.BesselBasis(r_max=CUTOFF, num_bases=RADIAL),
                angular_transform=angular.SphericalHarmonics(
                    lmax=DEGREE, normalize=True, normalization="component"
                ),
                outer_product_with_cutoff=True,
                use_embedding=True,
                interaction_params={"distance_cutoff": True, "attention_gate": "sigmoid"},
                conditioner=conditioner and conditioner(width),
                activation="silu",
                mlp_norm="rms_norm",
            )
            hidden = [settings.head_mlp_hidden_dim] * settings.head_mlp_depth
            sizes = {"energy": 1, **({"forces": 3} if settings.direct else {})}
            heads = {
                name: torch.nn.ModuleDict(
                    {"mlp": layers.build_mlp(width, hidden, size, activation="silu")}
                )
                for name, size in sizes.items()
            }
            zbl = repulsion.ZBLBasis(  # a conservative ORB has the mean of the atoms' repulsion
                p=6,
                node_aggregation="sum" if settings.direct else "mean",
                compute_gradients=settings.direct,
            )
    except REFUSALS as error:
        raise FoundationError(
            f"orb-models cannot build a network of these settings: {type(error).__name__}: {error}"
        ) from error
    return Network(model, torch.nn.ModuleDict(heads), zbl)


def take_unused(network: Network) -> dict[str, torch.Tensor]:
    """Remove the decoder, whose output nothing reads, and return its weights."""
    model: Any = network.model
    found = {f"model._decoder.{n}": t.detach() for n, t in model._decoder.named_parameters()}
    model._decoder = torch.nn.Identity()
    return found
