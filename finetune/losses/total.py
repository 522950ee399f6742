"""The weighted sum of a recipe's losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from finetune.core.errors import RecipeError
from finetune.data.graphs import GraphBatch
from finetune.losses.context import LossContext, Request
from finetune.losses.frozen_foundation import FrozenFoundation
from finetune.losses.loss import Loss
from finetune.losses.perturbation import Generators
from finetune.potentials.potential import Potential
from finetune.recipe.loss_options import LossOptions
from finetune.recipe.plugins import losses as registry

SKIN_ROUNDING = 1e-9
"""Å."""


@dataclass(frozen=True)
class LossValue:
    """The total of one step, and each loss before its weight by the recipe's names."""

    total: torch.Tensor
    parts: dict[str, torch.Tensor]


class TotalLoss:
    """Σ weight · loss over the losses with a weight above zero.

    Args:
        options: The recipe's losses by name.

    Attributes:
        losses: The losses by the recipe's names; a loss of several parts is there as ``NAME/PART``.
    """

    def __init__(self, options: Mapping[str, LossOptions]) -> None:
        self.losses: dict[str, Loss] = {
            f"{name}/{part}" if part else name: loss
            for name, chosen in options.items()
            if chosen.peak_weight > 0
            for part, loss in registry.get(chosen.kind)(chosen).parts().items()
        }

    def skin(self, cutoff: float) -> float:
        """Return the Å by which neighbour lists must reach beyond ``cutoff`` for every copy."""
        return max((loss.skin(cutoff) for loss in self.losses.values()), default=0.0)

    def weights(self, progress: float) -> dict[str, float]:
        """Return what each loss is multiplied by in the total at a progress of 0 to 1, by name."""
        return {
            name: loss.factor * loss.options.weight_at(progress)
            for name, loss in self.losses.items()
        }

    def counts(self, batch: GraphBatch, progress: float = 1.0) -> dict[str, int]:
        """Return what each loss averages over in the batch, by name; 0 where it does not apply."""
        wanted = self._wanted(batch, progress)
        return {
            name: loss.count(batch) if wanted.get(name) else 0 for name, loss in self.losses.items()
        }

    def __call__(
        self,
        batch: GraphBatch,
        potential: Potential,
        generator: Generators,
        foundation: FrozenFoundation | None = None,
        progress: float = 1.0,
        shares: Mapping[str, float] | None = None,
    ) -> LossValue | None:
        """Evaluate the losses that apply to the batch; None if no loss does.

        Args:
            batch: The structures of the step, on the potential's device and in its dtype.
            potential: The potential in training.
            generator: Draws displacements and strains; one for all structures or one for each.
            foundation: The frozen foundation; may be None where no loss needs it.
            progress: Share of the run's steps that are done, 0 to 1, for schedules. A loss whose
                weight is 0 at the moment costs nothing.
            shares: Factors of the losses in the total beside their weights, by name: the batch's
                shares of a step that is made of several; 1 by default.
        """
        weights = self.weights(progress)
        wanted = self._wanted(batch, progress)
        requests = [request for asked in wanted.values() for request in asked]
        if not requests:
            return None
        self._check_skin(wanted, batch, potential)
        context = LossContext(batch, potential, requests, generator, foundation, progress)
        parts = {name: self.losses[name](context) for name, asked in wanted.items() if asked}
        shares = shares or {}
        total = sum(
            (weights[name] * shares.get(name, 1.0) * value for name, value in parts.items()),
            start=torch.zeros((), dtype=torch.float64, device=batch.positions.device),
        )
        return LossValue(total, parts)

    def _check_skin(
        self, wanted: Mapping[str, Sequence[Request]], batch: GraphBatch, potential: Potential
    ) -> None:
        """Refuse displacements that bring atoms into the cutoff which the edges leave out.

        Raises:
            RecipeError: Naming the loss.
        """
        for name, asked in wanted.items():
            for request in asked:
                needed = request.site.skin(potential.cutoff)
                if needed > batch.skin + SKIN_ROUNDING:
                    raise RecipeError(
                        f"the loss '{name}' displaces structures so far that neighbour lists must "
                        f"reach {needed:.3g} Å beyond the cutoff; they reach {batch.skin:.3g} Å. "
                        "Return the larger number from `skin` of that loss."
                    )

    def _wanted(self, batch: GraphBatch, progress: float) -> dict[str, Sequence[Request]]:
        """Return what the losses that have a weight at the moment ask for, by name."""
        return {
            name: loss.requests(batch)
            for name, loss in self.losses.items()
            if loss.options.weight_at(progress) > 0
        }
