"""PISC, the physics-informed spatial-consistency loss.

Takamoto, Zaverkin, Niepert, "Physics-Informed Weakly Supervised Learning for Interatomic
Potentials", ICML 2025 (arXiv 2408.05215).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from finetune.data.graphs import GraphBatch
from finetune.losses.base import Loss, Request, Site
from finetune.losses.context import LossContext
from finetune.losses.options import SpatialOptions


class SpatialLoss(Loss):
    """Mean over structures of ℓ(E(r+δ) − E(r+δ′) + Σ_i (δ_i−δ′_i)·F_i(r+δ′))."""

    Options = SpatialOptions
    options: SpatialOptions

    def __init__(self, options: SpatialOptions) -> None:
        super().__init__(options)
        self.site = Site(options.displaced, copy=0)
        self.other = Site(options.displaced, copy=1)

    def requests(self, batch: GraphBatch) -> Sequence[Request]:
        """See `Loss.requests`."""
        return [Request(self.site), Request(self.other, forces=True)]

    def __call__(self, context: LossContext) -> torch.Tensor:
        """See `Loss.__call__`."""
        moved, other = context.prediction(self.site), context.prediction(self.other)
        assert other.forces is not None
        step = context.displacement(self.site) - context.displacement(self.other)
        work = context.batch.sum_atoms((step * other.forces).sum(dim=1))
        residual = moved.energy - other.energy + work
        if self.options.normalise == "per_atom":
            residual = residual / context.batch.atoms
        return self.measure(residual).mean()
