"""The second-difference loss: PITC's remainder from energies alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from finetune.data.graphs import GraphBatch
from finetune.losses.base import BASE, Request, Site
from finetune.losses.context import LossContext
from finetune.losses.options import SecondDifferenceOptions
from finetune.losses.weak import WeakLoss


class SecondDifferenceLoss(WeakLoss):
    """Mean over structures of ℓ(½ [E(r+δ) + E(r−δ)] − E(r)).

    For a conservative potential this is ½ δᵀHδ + O(δ⁴), PITC's one-sided remainder to leading
    order, without forces and so without differentiating twice.
    """

    Options = SecondDifferenceOptions

    def __init__(self, options: SecondDifferenceOptions) -> None:
        super().__init__(options)
        self.site = Site(options.displaced)
        self.mirrored = Site(options.displaced, sign=-1)

    def requests(self, batch: GraphBatch) -> Sequence[Request]:
        """See `Loss.requests`."""
        return self.ask(Request(BASE), Request(self.site), Request(self.mirrored))

    def __call__(self, context: LossContext) -> torch.Tensor:
        """See `Loss.__call__`."""
        mean = 0.5 * (self.at(context, self.site).energy + self.at(context, self.mirrored).energy)
        return self.reduce(mean - self.at(context, BASE).energy, context)
