"""The second-difference loss: PITC's remainder from energies alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from finetune.losses.base import BASE, Request, Site
from finetune.losses.consistency import ConsistencyLoss
from finetune.losses.context import LossContext
from finetune.losses.options import SecondDifferenceOptions


class SecondDifferenceLoss(ConsistencyLoss):
    """Mean over structures of ℓ(½ [E(r+δ) + E(r−δ)] − E(r)).

    For a conservative potential this is ½ δᵀHδ + O(δ⁴), PITC's one-sided remainder to leading
    order, without forces and so without differentiating twice.
    """

    Options = SecondDifferenceOptions
    options: SecondDifferenceOptions

    def needs(self, copy: int) -> Sequence[Request]:
        """See `ConsistencyLoss.needs`."""
        return [Request(BASE), *(Request(site) for site in self._sites(copy))]

    def residual(self, context: LossContext, copy: int) -> torch.Tensor:
        """See `ConsistencyLoss.residual`."""
        site, mirrored = (self.at(context, site).energy for site in self._sites(copy))
        return 0.5 * (site + mirrored) - self.at(context, BASE).energy

    def _sites(self, copy: int) -> tuple[Site, Site]:
        displaced = self.options.displaced
        return Site(displaced, copy=copy), Site(displaced, copy=copy, sign=-1)
