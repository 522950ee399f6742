"""Replay: the frozen foundation as the teacher wherever there are no labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from finetune.data.graphs import GraphBatch
from finetune.losses.base import BASE, Loss, Request, Site
from finetune.losses.context import LossContext
from finetune.losses.options import ReplayOptions


class ReplayLoss(Loss):
    """Mean of ℓ over the residuals against the foundation's energies (per atom) and forces.

    Keeps the fine-tuned potential near the foundation where labels say nothing: a first-order
    anchor, well posed for any number of labels and biased towards the foundation.
    """

    Options = ReplayOptions
    options: ReplayOptions

    def requests(self, batch: GraphBatch) -> Sequence[Request]:
        """See `Loss.requests`."""
        asked = [Request(site, forces=self.options.forces > 0) for site in self._sites()]
        return [*asked, *(replace(request, of="foundation") for request in asked)]

    def count(self, batch: GraphBatch) -> int:
        """Count atoms, or structures where only energies are compared."""
        return int(batch.numbers.numel()) if self.options.forces > 0 else len(batch)

    def __call__(self, context: LossContext) -> torch.Tensor:
        """See `Loss.__call__`."""
        corrections = [context.correction(site) for site in self._sites()]
        total = torch.zeros_like(corrections[0].energy.sum())
        if self.options.energy > 0:
            per_atom = torch.stack([c.energy / context.batch.atoms for c in corrections])
            total = total + self.options.energy * self.measure(per_atom).mean()
        if self.options.forces > 0:
            forces = torch.stack([c.forces for c in corrections if c.forces is not None])
            total = total + self.options.forces * self.measure(forces.double()).mean()
        return total

    def _sites(self) -> list[Site]:
        displaced = self.options.displaced
        if displaced is None:
            return [BASE]
        return [Site(displaced, copy=copy) for copy in range(self.options.copies)]
