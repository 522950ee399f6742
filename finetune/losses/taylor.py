"""PITC, the physics-informed Taylor-expansion-based consistency loss.

Takamoto, Zaverkin, Niepert, "Physics-Informed Weakly Supervised Learning for Interatomic
Potentials", ICML 2025 (arXiv 2408.05215).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from finetune.data.graphs import GraphBatch
from finetune.losses.base import BASE, Request, Site
from finetune.losses.context import LossContext
from finetune.losses.options import TaylorOptions
from finetune.losses.weak import WeakLoss, work


class TaylorLoss(WeakLoss):
    """Mean over structures of ℓ(E(r+δ) − [E(r) − Σ_i δ_i·F_i(r)]).

    The symmetric form is ℓ(½ [E(r+δ) − E(r−δ)] + Σ_i δ_i·F_i(r)). For a conservative potential the
    one-sided residual is the Taylor remainder ½ δᵀHδ + O(δ³), the symmetric one O(δ³).
    """

    Options = TaylorOptions
    options: TaylorOptions

    def __init__(self, options: TaylorOptions) -> None:
        super().__init__(options)
        self.site = Site(options.displaced)
        self.mirrored = Site(options.displaced, sign=-1)

    def requests(self, batch: GraphBatch) -> Sequence[Request]:
        """See `Loss.requests`."""
        asked = [Request(BASE, forces=True), Request(self.site)]
        if self.options.form == "symmetric":
            asked.append(Request(self.mirrored))
        return self.ask(*asked)

    def __call__(self, context: LossContext) -> torch.Tensor:
        """See `Loss.__call__`."""
        base, moved = self.at(context, BASE), self.at(context, self.site).energy
        expected = -work(context, context.displacement(self.site), base)
        if self.options.form == "symmetric":
            moved = 0.5 * (moved - self.at(context, self.mirrored).energy)
        else:
            expected = expected + self._base_energy(context, base.energy)
        if self.options.hold_extrapolation:
            expected = expected.detach()
        return self.reduce(moved - expected, context)

    def _base_energy(self, context: LossContext, predicted: torch.Tensor) -> torch.Tensor:
        if self.options.base == "prediction":
            return predicted
        return torch.where(context.batch.has_energy, context.batch.energy, predicted)
