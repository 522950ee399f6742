"""PISC, the physics-informed spatial-consistency loss.

Takamoto, Zaverkin, Niepert, "Physics-Informed Weakly Supervised Learning for Interatomic
Potentials", ICML 2025 (arXiv 2408.05215).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from finetune.data.graphs import GraphBatch
from finetune.losses.base import Request, Site
from finetune.losses.context import LossContext
from finetune.losses.options import SpatialOptions
from finetune.losses.weak import WeakLoss, work


class SpatialLoss(WeakLoss):
    """Mean over structures of ℓ(E(r+δ) − [E(r+δ′) − Σ_i (δ_i−δ′_i)·F_i(r+δ′)])."""

    Options = SpatialOptions
    options: SpatialOptions

    def __init__(self, options: SpatialOptions) -> None:
        super().__init__(options)
        self.site = Site(options.displaced, copy=0)
        self.other = Site(options.displaced, copy=1)

    def requests(self, batch: GraphBatch) -> Sequence[Request]:
        """See `Loss.requests`."""
        return self.ask(Request(self.site), Request(self.other, forces=True))

    def __call__(self, context: LossContext) -> torch.Tensor:
        """See `Loss.__call__`."""
        other = self.at(context, self.other)
        step = context.displacement(self.site) - context.displacement(self.other)
        expected = other.energy - work(context, step, other)
        if self.options.hold_extrapolation:
            expected = expected.detach()
        return self.reduce(self.at(context, self.site).energy - expected, context)
