"""Replay: the frozen foundation as the teacher wherever there are no labels."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from finetune.data.graphs import GraphBatch
from finetune.losses.base import Loss, Request, Site
from finetune.losses.context import LossContext
from finetune.losses.options import ReplayOptions


class ReplayLoss(Loss):
    """Mean of ℓ over the residuals against the foundation's energies (per atom) and forces.

    Keeps the fine-tuned potential near the foundation where labels say nothing: a first-order
    anchor, well posed for any number of labels and biased towards the foundation.
    """

    Options = ReplayOptions
    options: ReplayOptions

    def __init__(self, options: ReplayOptions) -> None:
        super().__init__(options)
        self.site = Site(options.displaced)

    def requests(self, batch: GraphBatch) -> Sequence[Request]:
        """See `Loss.requests`."""
        forces = self.options.forces > 0
        return [
            Request(self.site, forces=forces),
            Request(self.site, forces=forces, of="foundation"),
        ]

    def count(self, batch: GraphBatch) -> int:
        """Count atoms, or structures where only energies are compared."""
        return int(batch.numbers.numel()) if self.options.forces > 0 else len(batch)

    def __call__(self, context: LossContext) -> torch.Tensor:
        """See `Loss.__call__`."""
        correction = context.correction(self.site)
        total = torch.zeros_like(correction.energy.sum())
        if self.options.energy > 0:
            per_atom = correction.energy / context.batch.atoms
            total = total + self.options.energy * self.measure(per_atom).mean()
        if self.options.forces > 0 and correction.forces is not None:
            forces = self.measure(correction.forces.double()).mean()
            total = total + self.options.forces * forces
        return total
