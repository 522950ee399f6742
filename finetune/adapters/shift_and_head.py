"""Adapters that add parameters: reference energies (`shift`), heads (`head`, `force_head`)."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy

import torch

from finetune.adapters.adapter import AdaptedPotential, Adapter
from finetune.core.errors import RecipeError
from finetune.data.graphs import ENERGY_DTYPE, GraphBatch
from finetune.potentials.direct.potential import DirectPotential
from finetune.potentials.potential import (
    FamilyPotential,
    Potential,
    WrappedPotential,
    plain_name,
)
from finetune.recipe.adapter_options import ForceHeadOptions, HeadOptions, ShiftOptions


class ShiftedPotential(WrappedPotential):
    """A potential with a trainable change of its reference energies: E + Σ_i s(element of i)."""

    def __init__(self, base: Potential) -> None:
        super().__init__(base)
        zeros = torch.zeros(len(base.elements), dtype=ENERGY_DTYPE, device=base.device)
        self.shift = torch.nn.Parameter(zeros)

    def interaction(
        self, batch: GraphBatch, element: torch.Tensor, strain: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """See `Potential.interaction`; the energies are float64."""
        energy, positions, displacement = self.base.interaction(batch, element, strain)
        return energy.to(ENERGY_DTYPE) + self.shift[element], positions, displacement

    def interaction_and_forces(
        self, batch: GraphBatch, element: torch.Tensor, strain: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor]:
        """See `Potential.interaction_and_forces`."""
        energy, *others = self.base.interaction_and_forces(batch, element, strain)
        return (energy.to(ENERGY_DTYPE) + self.shift[element], *others)  # type: ignore[return-value]


class AdaptedShift(AdaptedPotential):
    """A potential of which the reference energies are trained."""

    potential: ShiftedPotential

    def __init__(self, potential: ShiftedPotential) -> None:
        super().__init__(potential, frozenset({"shift"}))

    def merge(self) -> Potential:
        """Return the potential inside, its reference energies changed."""
        plain = deepcopy(self.potential.base)
        energies = (self.potential.reference_energies + self.potential.shift).tolist()
        plain.set_references(dict(zip(self.potential.elements, energies, strict=True)))
        return plain.requires_grad_(True)


class ShiftAdapter(Adapter):
    """The reference energies alone are trainable."""

    Options = ShiftOptions

    def attach(self, potential: Potential) -> AdaptedShift:
        """See `Adapter.attach`."""
        return AdaptedShift(ShiftedPotential(potential))


class HeadPotential(AdaptedPotential):
    """A potential with a new head, whose own entries (masks ``own`` by parameter) are trained."""

    def __init__(self, potential: Potential, own: Mapping[str, torch.Tensor]) -> None:
        super().__init__(potential, frozenset(own))
        self._own = dict(own)
        self._before = {
            name: parameter.detach().clone()
            for name, parameter in self.trainable_parameters().items()
        }

    def count_trained(self, name: str, parameter: torch.Tensor) -> int:
        """See `AdaptedPotential.count_trained`: the new head's own entries."""
        return int(self._own[name].sum()) if name in self._own else 0

    def merge(self) -> Potential:
        """Return the potential, with the entries of other heads restored.

        Weight decay may have changed them; they do not contribute to the new head's energies.
        """
        with torch.no_grad():
            for name, parameter in self.trainable_parameters().items():
                own = self._own[name].to(parameter.device)
                parameter.copy_(torch.where(own, parameter, self._before[name]))
        return self.potential


class HeadAdapter(Adapter):
    """A new head that starts as a copy of the foundation's."""

    Options = HeadOptions
    options: HeadOptions

    def attach(self, potential: Potential) -> HeadPotential:
        """Return an adapted copy; refuses a name that exists, and potentials without heads."""
        return HeadPotential(*potential.add_head(self.options.name))


class ForceHeadAdapter(Adapter):
    """A head that predicts forces directly, on the foundation's equivariant features."""

    Options = ForceHeadOptions
    options: ForceHeadOptions

    def attach(self, potential: Potential) -> AdaptedPotential:
        """See `Adapter.attach`; refuses what has direct forces, or no features that are vectors."""
        if not isinstance(potential, FamilyPotential):
            raise RecipeError(
                f"force_head reads the features of a family's network; a "
                f"{type(potential).__name__} has none. Choose another adapter."
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.options.seed)
            direct = DirectPotential(potential, self.options.channels, self.options.removed)
        names = [name for name, _ in direct.named_parameters()]
        if not self.options.train_all:
            names = [name for name in names if plain_name(name).startswith("force_head.")]
        return AdaptedPotential(direct, frozenset(names))
