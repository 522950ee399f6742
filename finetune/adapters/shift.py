"""Train the reference energies alone: one number for each element."""

from __future__ import annotations

from copy import deepcopy

import torch

from finetune.adapters.base import AdaptedPotential, Adapter
from finetune.adapters.options import ShiftOptions
from finetune.data.graphs import GraphBatch
from finetune.foundation.potential import Potential
from finetune.foundation.wrapped import WrappedPotential
from finetune.quantities import ENERGY_DTYPE


class ShiftedPotential(WrappedPotential):
    """A potential with a trainable change of its reference energies: E + Σ_i s(element of i).

    Args:
        base: The potential, whose forces stay as they are.
    """

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


class AdaptedShift(AdaptedPotential):
    """A potential of which the reference energies are trained.

    Args:
        potential: The potential with its shift.
    """

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
