"""Potentials with closed forms, to hold losses and training against hand calculations."""

from __future__ import annotations

import torch

from finetune.data.graphs import GraphBatch
from finetune.foundation.potential import Potential


class HarmonicPotential(Potential):
    """Every atom in a well at the origin: E = ½ k Σ_i |r_i|², F_i = −k r_i.

    Args:
        stiffness: k, eV/Å²; the only parameter.
    """

    def __init__(self, stiffness: float = 3.0) -> None:
        super().__init__(cutoff=1.0, reference_energies={1: 0.0, 6: 0.0, 8: 0.0})
        self.stiffness = torch.nn.Parameter(torch.tensor(stiffness, dtype=torch.float64))

    def interaction(
        self, batch: GraphBatch, element: torch.Tensor, strain: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """See `Potential.interaction`."""
        positions = batch.positions.detach().requires_grad_(torch.is_grad_enabled())
        return 0.5 * self.stiffness * positions.square().sum(dim=1), positions, None
