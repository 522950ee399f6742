"""PITC, the physics-informed Taylor-expansion-based consistency loss.

Takamoto, Zaverkin, Niepert, "Physics-Informed Weakly Supervised Learning for Interatomic
Potentials", ICML 2025 (arXiv 2408.05215).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from finetune.data.graphs import GraphBatch
from finetune.losses.base import BASE, Loss, Request, Site
from finetune.losses.context import LossContext
from finetune.losses.options import TaylorOptions


class TaylorLoss(Loss):
    """Mean over structures of ℓ(E(r+δ) − E(r) + Σ_i δ_i·F_i(r)), the residual per atom or whole."""

    Options = TaylorOptions
    options: TaylorOptions

    def __init__(self, options: TaylorOptions) -> None:
        super().__init__(options)
        self.site = Site(options.displaced)

    def requests(self, batch: GraphBatch) -> Sequence[Request]:
        """See `Loss.requests`."""
        return [Request(BASE, forces=True), Request(self.site)]

    def __call__(self, context: LossContext) -> torch.Tensor:
        """See `Loss.__call__`."""
        base, moved = context.prediction(BASE), context.prediction(self.site)
        assert base.forces is not None
        work = context.batch.sum_atoms((context.displacement(self.site) * base.forces).sum(dim=1))
        residual = moved.energy - base.energy + work
        if self.options.normalise == "per_atom":
            residual = residual / context.batch.atoms
        return self.measure(residual).mean()
