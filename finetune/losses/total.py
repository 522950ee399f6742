"""The weighted sum of a recipe's losses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from finetune.data.graphs import GraphBatch
from finetune.foundation.potential import Potential
from finetune.losses import losses as registry
from finetune.losses.base import Loss
from finetune.losses.context import LossContext
from finetune.losses.options import LossOptions, ReplayOptions, WeakLossOptions
from finetune.perturbation import reach


@dataclass(frozen=True)
class LossValue:
    """The total of one step, and its parts before their weights by the recipe's names."""

    total: torch.Tensor
    parts: dict[str, torch.Tensor]


class TotalLoss:
    """Σ weight · loss over the losses with a weight above zero.

    Args:
        options: The recipe's losses by name.
    """

    def __init__(self, options: Mapping[str, LossOptions]) -> None:
        self.losses: dict[str, Loss] = {
            name: registry.get(chosen.kind)(chosen)
            for name, chosen in options.items()
            if chosen.weight > 0
        }

    @property
    def skin(self) -> float:
        """Å by which neighbour lists must reach beyond the cutoff for every displaced copy."""
        displacements = [
            loss.options.displaced
            for loss in self.losses.values()
            if isinstance(loss.options, WeakLossOptions | ReplayOptions)
        ]
        return max((reach(item) for item in displacements if item is not None), default=0.0)

    def counts(self, batch: GraphBatch) -> dict[str, int]:
        """Return what each loss averages over in the batch, by name; 0 where it does not apply."""
        return {
            name: loss.count(batch) if loss.requests(batch) else 0
            for name, loss in self.losses.items()
        }

    def __call__(
        self,
        batch: GraphBatch,
        potential: Potential,
        generator: torch.Generator,
        foundation: Potential | None = None,
        shares: Mapping[str, float] | None = None,
    ) -> LossValue | None:
        """Evaluate the losses that apply to the batch; None if no loss does.

        Args:
            batch: The structures.
            potential: The potential in training.
            generator: Draws the displacements.
            foundation: The frozen foundation.
            shares: Factors of the losses in the total beside their weights, by name: the batch's
                shares of a step that is made of several; 1 by default.
        """
        wanted = {name: loss.requests(batch) for name, loss in self.losses.items()}
        requests = [request for asked in wanted.values() for request in asked]
        if not requests:
            return None
        context = LossContext(batch, potential, requests, generator, foundation)
        parts = {name: self.losses[name](context) for name, asked in wanted.items() if asked}
        shares = shares or {}
        total = sum(
            (
                self.losses[name].options.weight * shares.get(name, 1.0) * value
                for name, value in parts.items()
            ),
            start=torch.zeros((), dtype=torch.float64, device=batch.positions.device),
        )
        return LossValue(total, parts)
