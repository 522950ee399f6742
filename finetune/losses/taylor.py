"""PITC, the physics-informed Taylor-expansion-based consistency loss.

Takamoto, Zaverkin, Niepert, "Physics-Informed Weakly Supervised Learning for Interatomic
Potentials", ICML 2025 (arXiv 2408.05215).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from finetune.losses.base import BASE, Request, Site
from finetune.losses.consistency import ConsistencyLoss, work
from finetune.losses.context import LossContext
from finetune.losses.options import TaylorOptions


class TaylorLoss(ConsistencyLoss):
    """Mean over structures of ℓ(E(r+δ) − [E(r) − Σ_i δ_i·F_i(r)]).

    The symmetric form is ℓ(½ [E(r+δ) − E(r−δ)] + Σ_i δ_i·F_i(r)). For a conservative potential the
    one-sided residual is the Taylor remainder ½ δᵀHδ + O(δ³), the symmetric one O(δ³).
    """

    Options = TaylorOptions
    options: TaylorOptions

    def needs(self, copy: int) -> Sequence[Request]:
        """See `ConsistencyLoss.needs`."""
        asked = [Request(BASE, forces=True), Request(self._site(copy))]
        if self.options.form == "symmetric":
            asked.append(Request(self._site(copy, mirrored=True)))
        return asked

    def residual(self, context: LossContext, copy: int) -> torch.Tensor:
        """See `ConsistencyLoss.residual`."""
        site = self._site(copy)
        base, moved = self.at(context, BASE), self.at(context, site).energy
        expected = -work(context, context.displacement(site), base)
        if self.options.form == "symmetric":
            moved = 0.5 * (moved - self.at(context, self._site(copy, mirrored=True)).energy)
        else:
            expected = expected + self._base_energy(context, base.energy)
        return moved - (expected.detach() if self.options.hold_extrapolation else expected)

    def _site(self, copy: int, mirrored: bool = False) -> Site:
        return Site(self.options.displaced, copy=copy, sign=-1 if mirrored else 1)

    def _base_energy(self, context: LossContext, predicted: torch.Tensor) -> torch.Tensor:
        if self.options.base == "prediction":
            return predicted
        return torch.where(context.batch.has_energy, context.batch.energy, predicted)
