"""PISC, the physics-informed spatial-consistency loss.

Takamoto, Zaverkin, Niepert, "Physics-Informed Weakly Supervised Learning for Interatomic
Potentials", ICML 2025 (arXiv 2408.05215).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from finetune.losses.base import Request, Site
from finetune.losses.consistency import ConsistencyLoss, work
from finetune.losses.context import LossContext
from finetune.losses.options import SpatialOptions


class SpatialLoss(ConsistencyLoss):
    """Mean over structures of ℓ(E(r+δ) − [E(r+δ′) − Σ_i (δ_i−δ′_i)·F_i(r+δ′)])."""

    Options = SpatialOptions
    options: SpatialOptions

    def needs(self, copy: int) -> Sequence[Request]:
        """See `ConsistencyLoss.needs`."""
        site, other = self._sites(copy)
        return [Request(site), Request(other, forces=True)]

    def residual(self, context: LossContext, copy: int) -> torch.Tensor:
        """See `ConsistencyLoss.residual`."""
        site, other = self._sites(copy)
        there = self.at(context, other)
        step = context.displacement(site) - context.displacement(other)
        expected = there.energy - work(context, step, there)
        if self.options.hold_extrapolation:
            expected = expected.detach()
        return self.at(context, site).energy - expected

    def _sites(self, copy: int) -> tuple[Site, Site]:
        """The first of each pair are the copies that PITC takes."""
        displaced, copies = self.options.displaced, self.options.copies
        return Site(displaced, copy=copy), Site(displaced, copy=copies + copy)
