"""MACE as a `Potential`: settings, construction, heads; the only caller of MACE models."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import torch

from finetune.core.errors import FoundationError
from finetune.data.graphs import GraphBatch
from finetune.potentials.equivariant import (
    REFUSALS,
    Patterns,
    default_dtype,
    import_later,
    path_weights,
    quiet_import,
)
from finetune.potentials.mace.settings import MaceSettings
from finetune.potentials.potential import HeadedPotential, Interaction, as_trained, choose_head

_LIGHT = {"mace.tools": "mace.tools.torch_tools", "e3nn.io": "e3nn.io._cartesian_tensor"}
"""Packages of which MACE's models need one module, and that module.

The others import torchmetrics, transformers, pandas and scipy.signal, which takes seconds.
"""


def mace_modules() -> ModuleType:
    """Return `mace.modules`."""
    for package, light in _LIGHT.items():
        import_later(package, light)
    return quiet_import("mace.modules")


class MacePotential(HeadedPotential):
    """A MACE model with one of its heads chosen.

    ``model`` is of the class and shape that ``settings`` describe; its own reference energies are
    set to zero, as the potential adds them in double precision. ``head`` may be left out where
    there is one; a `FoundationError` where it is unknown or missing. ``acceleration`` says whose
    layers the model has: ``none`` for MACE's own, ``cueq`` or ``oeq``. The layers that see the
    heads are the readouts.
    """

    family = "mace"
    per_head = ("atomic_energies", "atomic_inter_scale", "atomic_inter_shift")

    def __init__(
        self,
        settings: MaceSettings,
        model: torch.nn.Module,
        head: str | None = None,
        acceleration: str = "none",
    ) -> None:
        chosen = choose_head(settings.heads, head)
        energies = settings.atomic_energies[chosen]
        super().__init__(
            cutoff=settings.r_max,
            reference_energies=dict(zip(settings.atomic_numbers, energies, strict=True)),
        )
        self.heads, self.head = settings.heads, chosen
        self.acceleration = acceleration
        self._settings = settings
        self.model = model
        model.atomic_energies_fn.atomic_energies.zero_()  # type: ignore[union-attr,operator]

    @classmethod
    def build(
        cls, settings: MaceSettings, dtype: torch.dtype = torch.float64, head: str | None = None
    ) -> MacePotential:
        """Construct the model with fresh weights drawn from torch's global generator."""
        return cls(settings, construct(settings, dtype), head)

    @property
    def settings(self) -> MaceSettings:
        """Settings that rebuild the model, with the reference energies as they are now."""
        energies = list(self._settings.atomic_energies)
        references = self.references()
        energies[self.head] = tuple(references[n] for n in self._settings.atomic_numbers)
        return self._settings.model_copy(update={"atomic_energies": tuple(energies)})

    @property
    def further_inputs(self) -> frozenset[str]:
        """See `Potential.further_inputs`."""
        return frozenset(
            name.removeprefix("total_") for name in self._settings.embedding_specs or {}
        )

    def with_settings(self, settings: MaceSettings, head: str) -> MacePotential:
        """See `HeadedPotential.with_settings`."""
        return MacePotential(settings, construct(settings, self.dtype).to(self.device), head)

    def widen(self, model: torch.nn.Module) -> dict[str, torch.Tensor]:
        """See `HeadedPotential.widen`."""
        masks: dict[str, torch.Tensor] = {}
        for path, layer in model.named_modules():
            if type(layer).__name__ == "Linear" and "readout" in path:
                old = self.model.get_submodule(path)
                masks.update(_extend(path, old, layer, len(self.heads), self.head))
        return masks

    def interaction(self, batch: GraphBatch, element: torch.Tensor, strain: bool) -> Interaction:
        """See `Potential.interaction`."""
        return self._evaluate(batch, element, strain)[:3]

    def interaction_and_features(
        self, batch: GraphBatch, element: torch.Tensor, strain: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor]:
        """See `Potential.interaction_and_features`: the scalars of every layer's node features."""
        *found, features = self._evaluate(batch, element, strain)
        return (*found, features[:, self._scalars().to(features.device)])  # type: ignore[return-value]

    def interaction_and_node_features(
        self, batch: GraphBatch, element: torch.Tensor, strain: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor]:
        """See `FamilyPotential.interaction_and_node_features`."""
        return self._evaluate(batch, element, strain)

    @property
    def node_irreps(self) -> str:
        """See `FamilyPotential.node_irreps`."""
        products: Any = self.model.products
        return "+".join(str(item.symmetric_contractions.irreps_out) for item in products)

    @property
    def feature_size(self) -> int:
        """See `Potential.feature_size`."""
        return int(self._scalars().sum())

    def _scalars(self) -> torch.Tensor:
        """Return which of the concatenated node features of all layers are invariant."""
        products: Any = self.model.products
        scalar = [
            irrep.l == 0 and irrep.p == 1
            for product in products
            for multiple, irrep in product.symmetric_contractions.irreps_out
            for _ in range(multiple * irrep.dim)
        ]
        return torch.tensor(scalar)

    def _evaluate(
        self, batch: GraphBatch, element: torch.Tensor, strain: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor]:
        """Run the model; return energies, what they can be differentiated by, and node features."""
        positions = batch.positions.detach().requires_grad_(torch.is_grad_enabled())
        counts = torch.cumsum(batch.atoms, dim=0)
        cell = batch.cell[batch.structure[batch.edge_index[0]]]
        inputs = {
            "positions": positions,
            "cell": batch.cell.reshape(-1, 3),
            "node_attrs": torch.nn.functional.one_hot(element, len(self.elements)).to(self.dtype),
            "edge_index": batch.edge_index,
            "unit_shifts": batch.unit_shifts,
            "shifts": torch.einsum("ei,eij->ej", batch.unit_shifts, cell),
            "batch": batch.structure,
            "ptr": torch.cat([counts.new_zeros(1), counts]),
            "head": torch.full_like(batch.atoms, self.head),
            **self._further_inputs(batch),
        }
        options = {"compute_force": False, "compute_displacement": strain}
        output: dict[str, Any] = self.model(inputs, training=self.training, **options)
        node_energy = output["node_energy"]
        if self._settings.use_embedding_readout:  # MACE counts it in the structure's energy alone
            missing = output["energy"] - batch.sum_atoms(node_energy)
            node_energy = node_energy + (missing / batch.atoms)[batch.structure]
        displacement = output["displacement"] if strain else None
        return node_energy, positions, displacement, output["node_feats"]

    def _further_inputs(self, batch: GraphBatch) -> dict[str, torch.Tensor]:
        """Return charge and spin ``[B]`` for a model that embeds them, once it knows the values."""
        values = {"total_charge": batch.charge, "total_spin": batch.spin}
        inputs = {}
        for name, spec in (self._settings.embedding_specs or {}).items():
            value, offset = values[name], int(spec.get("offset", 0))
            if spec["type"] == "categorical":
                low, high = -offset, int(spec["num_classes"]) - offset - 1
                outside = (value < low) | (value > high)
                if bool(outside.any()):
                    index = int(outside.nonzero()[0])
                    raise FoundationError(
                        f"{batch.where[index]} has a {name.replace('_', ' ')} of "
                        f"{int(value[index])}; the potential knows {low} to {high}."
                    )
            inputs[name] = value.to(self.dtype)
        return inputs

    def plain_model(self, dtype: torch.dtype) -> torch.nn.Module:
        """Return a new plain MACE model with these weights and the reference energies inside it.

        Raises FoundationError if an adapter has added parameters that a plain MACE does not have.
        """
        model = unfilled(self.settings, dtype)
        self.fill(model)
        return model.eval()


def _arguments(settings: MaceSettings, modules: Any) -> dict[str, Any]:
    """Return keyword arguments for the class named by ``architecture`` in `mace.modules`."""
    import numpy as np

    o3 = quiet_import("e3nn.o3")
    scale_shift = {"atomic_inter_scale", "atomic_inter_shift"}
    arguments = settings.model_dump(mode="json", exclude={"architecture", *scale_shift})
    for name in ("interaction_cls", "interaction_cls_first"):
        arguments[name] = modules.interaction_classes[arguments[name]]
    arguments["readout_cls"] = modules.readout_classes[arguments["readout_cls"]]
    arguments["gate"] = modules.gate_dict[arguments["gate"]]
    for name in ("hidden_irreps", "MLP_irreps", "edge_irreps"):
        arguments[name] = None if arguments[name] is None else o3.Irreps(arguments[name])
    arguments["atomic_energies"] = np.array(settings.atomic_energies)
    arguments["num_elements"] = len(settings.atomic_numbers)
    if settings.architecture == "ScaleShiftMACE":
        for name in scale_shift:
            values = getattr(settings, name)
            arguments[name] = values[0] if len(values) == 1 else np.array(values)
    return arguments


def construct(settings: MaceSettings, dtype: torch.dtype, **configs: Any) -> torch.nn.Module:
    """Return a MACE model with fresh weights; a `FoundationError` if MACE refuses the settings.

    ``configs``: ``cueq_config`` or ``oeq_config`` for layers of other packages.
    """
    modules = mace_modules()
    try:
        with default_dtype(dtype), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # e3nn's TorchScript notices are not for the user
            arguments = _arguments(settings, modules)
            model: torch.nn.Module = getattr(modules, settings.architecture)(**arguments, **configs)
    except REFUSALS as error:
        raise FoundationError(
            f"MACE cannot build a model from these settings: {type(error).__name__}: {error}"
        ) from error
    return model


def unfilled(settings: MaceSettings, dtype: torch.dtype) -> torch.nn.Module:
    """Return a model as `construct` does, with weights that the caller must fill in."""
    zeros = tuple((0.0,) * len(energies) for energies in settings.atomic_energies)
    alike = settings.model_copy(update={"atomic_energies": zeros})
    model: Any = _patterns.copy(alike.model_dump_json(), dtype)
    energies = torch.tensor(settings.atomic_energies, dtype=torch.float64)
    model.atomic_energies_fn.atomic_energies.copy_(energies)
    return model


_patterns = Patterns(
    lambda settings, dtype: construct(MaceSettings.model_validate_json(settings), dtype)
)


def assemble(
    settings: MaceSettings,
    weights: Mapping[str, torch.Tensor],
    dtype: torch.dtype,
    head: str | None,
) -> tuple[MacePotential, dict[str, torch.Tensor]]:
    """Return a stored MACE as it was when ``head`` was trained, and the weights to fill in."""
    settings, own, kept = as_trained(settings, weights, head, MacePotential.per_head)
    potential = MacePotential(settings, unfilled(settings, dtype), head)
    potential.stored_heads = kept
    return potential, own


def _extend(path: str, old: Any, new: Any, heads: int, source: int) -> dict[str, torch.Tensor]:
    """Fill a longer linear layer, in blocks by head, from the shorter one; return new entries."""
    new_entries = []
    for (narrow, weight), (wide, target) in zip(path_weights(old), path_weights(new), strict=True):
        rows, columns = (
            _blocks(before, after, heads, source, weight.device)
            for before, after in zip(weight.shape, target.shape, strict=True)
        )
        ratio = narrow / wide  # e3nn divides by the root of the fan-in
        target.copy_(weight[rows[0]][:, columns[0]] * ratio)
        new_entries.append((rows[1][:, None] & columns[1][None, :]).flatten())
    masks = {f"{path}.weight": torch.cat(new_entries)}
    if new.bias.numel():
        origin, is_new = _blocks(len(old.bias), len(new.bias), heads, source, new.bias.device)
        new.bias.copy_(old.bias[origin])
        masks[f"{path}.bias"] = is_new
    return masks


def _blocks(
    before: int, after: int, heads: int, source: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the origin of entries of the longer axis, and which the new head has or shares."""
    index = torch.arange(before, device=device)
    if before == after:
        return index, torch.ones_like(index, dtype=torch.bool)
    width = before // heads
    index = torch.cat([index, index[source * width : (source + 1) * width]])
    return index, torch.arange(after, device=device) >= before


HIGHEST = "weights_max"
"""MACE's name for a contraction's weights of the highest order."""


def contraction_class() -> Any:
    """Return MACE's class of one symmetric contraction."""
    return quiet_import("mace.modules.symmetric_contraction").Contraction


def contraction_weights(contraction: Any) -> dict[str, torch.nn.Parameter]:
    """Return the weights of a contraction by name, without those that MACE keeps at zero.

    Each is ``[elements, paths, channels]``; the highest order comes first.
    """
    found = {HIGHEST: contraction.weights_max}
    found |= {f"weights.{index}": item for index, item in enumerate(contraction.weights)}
    return {
        name: item
        for name, item in found.items()
        if not getattr(contraction, f"{name.replace('.', '_')}_zeroed", False)
    }
