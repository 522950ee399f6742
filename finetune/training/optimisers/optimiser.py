"""The contract of an optimiser: steps on all pieces of a batch, at scheduled learning rates.

`GradientDescent`, by Adam and AdamW on all losses, is the usual one.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from finetune.adapters.adapter import AdaptedPotential, check_match, matches
from finetune.core.errors import RecipeError
from finetune.data.graphs import GraphBatch
from finetune.data.structures import Structure
from finetune.losses.frozen_foundation import FrozenFoundation
from finetune.losses.loss import TotalLoss
from finetune.potentials.potential import plain_name
from finetune.recipe.loss_options import PULL
from finetune.recipe.recipe import Recipe
from finetune.recipe.sections import TrainRecipe
from finetune.training.batches import Processes

FLOOR = 0.01
"""Share of the learning rate at which a cosine ends."""


@dataclass(frozen=True)
class Piece:
    """One of the batches of a step.

    Attributes:
        batch: On the device and in the dtype of the potential.
        generators: What each of its structures draws displacements with.
    """

    batch: GraphBatch
    generators: Sequence[torch.Generator]


@dataclass(frozen=True)
class StepOutcome:
    """What a step found.

    Attributes:
        means: Each loss by name, before its weight, over the step.
        weights: What each is multiplied by in the total.
        gradient_norm: Before clipping; of Gauss-Newton the length of the step.
        trouble: Why the step was not taken; empty where it was.
        noise: Standard deviation of the noise of each kind of label, where it was found.
    """

    means: dict[str, float]
    weights: dict[str, float]
    gradient_norm: float
    trouble: str = ""
    noise: Mapping[str, float] = field(default_factory=dict)


class Optimiser(ABC):
    """Takes steps that lower the losses of an adapted potential.

    What a recipe must know of it without torch is in `finetune.recipe.optimisers`.

    Args:
        adapted: What is trained, with the foundation's weights.
        settings: The recipe's.
        total: The losses.
        foundation: The frozen foundation.
        processes: The processes that share each step.

    Attributes:
        torch: The optimiser of torch that keeps moments and learning rates.
    """

    def __init__(
        self,
        adapted: AdaptedPotential,
        settings: TrainRecipe,
        total: TotalLoss,
        foundation: FrozenFoundation,
        processes: Processes,
    ) -> None:
        self.potential = adapted.potential
        self.parameters = list(adapted.trainable_parameters().values())
        self.settings = settings
        self.total = total
        self.foundation = foundation
        self.processes = processes
        self.torch = self.build(parameter_groups(adapted, settings))

    @classmethod  # noqa: B027
    def check(
        cls, recipe: Recipe, structures: Sequence[Structure], adapted: AdaptedPotential
    ) -> None:
        """Refuse a training set that the optimiser cannot learn from."""

    @abstractmethod
    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Return the optimiser of torch over groups of parameters; keep what else steps need."""

    @abstractmethod
    def pieces(self, structures: int) -> int:
        """Return into how many batches a step on a training set of this size is divided."""

    @abstractmethod
    def step(self, pieces: Sequence[Piece], progress: float) -> StepOutcome | None:
        """Take a step; None where no loss applies to any piece of it."""

    def set_rate(self, rate: float) -> None:
        """Set the learning rate of every group of parameters, times the group's factor."""
        for group in self.torch.param_groups:
            group["lr"] = rate * group["factor"]


def parameter_groups(adapted: AdaptedPotential, recipe: TrainRecipe) -> list[dict[str, Any]]:
    """Return the trainable parameters for an optimiser of torch, grouped by block and factor.

    Each group carries, as ``factor``, what the learning rate is multiplied by for it: that of the
    last of ``learning_rate_factors`` that names the parameter or its block.

    Raises:
        RecipeError: If one of ``learning_rate_factors`` names nothing that is trained, or all
            that is trained gets a factor of 0.
    """
    parameters = adapted.trainable_parameters()
    names = {name: plain_name(name) for name in parameters}
    blocks = list(adapted.parameter_groups())
    for pattern in recipe.learning_rate_factors:
        try:
            check_match(list(names.values()), pattern, "trained parameter", blocks)
        except RecipeError as error:
            raise RecipeError(f"train.learning_rate_factors: {error}") from None
    groups: dict[tuple[str, float], list[torch.nn.Parameter]] = {}
    for block, members in adapted.parameter_groups().items():
        for name, parameter in members.items():
            factor = 1.0
            for pattern, given in recipe.learning_rate_factors.items():
                factor = given if matches(names[name], pattern) else factor
            groups.setdefault((block, factor), []).append(parameter)
    if not any(factor for _, factor in groups):
        raise RecipeError(
            "train.learning_rate_factors: every trained parameter gets a factor of 0, so that "
            "nothing would be trained. Give one of them a factor above 0."
        )
    return [{"params": members, "factor": factor} for (_, factor), members in groups.items()]


def learning_rate(
    recipe: TrainRecipe, epoch: float, length: float | None = None, values: Sequence[float] = ()
) -> float:
    """Return the learning rate after ``epoch`` epochs (fractions count within an epoch).

    It rises linearly over ``warmup_epochs``, then stays (``constant``), falls along half a cosine
    to one hundredth at the end (``cosine``), or is multiplied by ``plateau_factor`` whenever
    ``plateau_epochs`` epochs have brought no better validation (``plateau``).
    """
    if epoch < recipe.warmup_epochs:
        return recipe.learning_rate * max(epoch / recipe.warmup_epochs, 1e-3)
    if recipe.schedule == "constant":
        return recipe.learning_rate
    if recipe.schedule == "plateau":
        falls = plateaus(values[recipe.warmup_epochs :], recipe.plateau_epochs)
        return recipe.learning_rate * recipe.plateau_factor**falls
    length = max((recipe.epochs if length is None else length) - recipe.warmup_epochs, 1e-9)
    progress = min((epoch - recipe.warmup_epochs) / length, 1.0)
    return recipe.learning_rate * (FLOOR + (1 - FLOOR) * (1 + math.cos(math.pi * progress)) / 2)


def plateaus(values: Sequence[float], patience: int) -> int:
    """Return how often ``patience`` values in a row were no better than the best before them."""
    best, waited, found = math.inf, 0, 0
    for value in values:
        if value < best:
            best, waited = value, 0
            continue
        waited += 1
        if waited == patience:
            found, waited = found + 1, 0
    return found


def count_by_group(groups: Mapping[str, Mapping[str, torch.nn.Parameter]]) -> dict[str, int]:
    """Return the number of trainable numbers in each group."""
    return {
        name: sum(item.numel() for item in parameters.values())
        for name, parameters in groups.items()
    }


class GradientDescent(Optimiser):
    """Takes steps along the gradient of the total loss, here and in other processes.

    A loss is a mean over what it applies to, so each piece counts by its share of that: the step is
    the one that a single large batch would give. A pull Σ (w − w₀)² towards the first weights may
    be added.
    """

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """See `Optimiser.build`."""
        settings = self.settings
        self.pull = settings.pull_to_foundation
        self.origin = [item.detach().clone() for item in self.parameters] if self.pull else []
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[settings.optimiser]
        return kind(
            groups,
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
            amsgrad=settings.amsgrad,
        )

    def pieces(self, structures: int) -> int:
        """Return the accumulated batches of all processes."""
        return self.settings.accumulate * self.processes.count

    def step(self, pieces: Sequence[Piece], progress: float) -> StepOutcome | None:
        """See `Optimiser.step`.

        The weights stay as they were where a loss or the gradient norm is not finite.
        """
        counts = [self.total.counts(piece.batch, progress) for piece in pieces]
        names = list(self.total.losses)
        here = [sum(found[name] for found in counts) for name in names]
        over_all = torch.tensor(here, dtype=torch.float64, device=self.parameters[0].device)
        of_all = dict(zip(names, self.processes.sum(over_all).tolist(), strict=True))
        if not any(of_all.values()):
            return None
        self.torch.zero_grad(set_to_none=True)
        sums = dict.fromkeys(names, 0.0)
        trouble = ""
        for piece, count in zip(pieces, counts, strict=True):
            shares = {name: n / of_all[name] for name, n in count.items() if n}
            value = self.total(
                piece.batch,
                self.potential,
                piece.generators,
                self.foundation,
                progress=progress,
                shares=shares,
            )
            if value is None:
                continue
            for name, part in value.parts.items():
                found = float(part.detach())
                sums[name] += shares[name] * found
                if not math.isfinite(found) and not trouble:
                    trouble = f"the loss '{name}' is {found} on {_of(piece.batch)}"
            torch.autograd.backward(value.total, inputs=self.parameters)
        means = {name: mean for name, mean in self._gather(sums).items() if of_all[name]}
        weights = self.total.weights(progress)
        if self.pull:
            means[PULL], weights[PULL] = self._add_pull(), self.pull
        clip = math.inf if self.settings.gradient_clip is None else self.settings.gradient_clip
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, clip))
        if not math.isfinite(norm) or not all(map(math.isfinite, means.values())):
            known = self.processes.first(trouble or None)
            names_of = "; ".join(_of(piece.batch) for piece in pieces)
            trouble = known or f"the gradient norm is {norm} on {names_of}"
            return StepOutcome(means, weights, norm, trouble)
        self.torch.step()
        return StepOutcome(means, weights, norm)

    def _gather(self, sums: dict[str, float]) -> dict[str, float]:
        """Add up gradients and loss values over the processes."""
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        if self.processes.count == 1:
            return sums
        flat = [item.grad.reshape(-1).double() for item in self.parameters if item.grad is not None]
        values = torch.tensor(list(sums.values()), dtype=torch.float64, device=flat[0].device)
        together = self.processes.sum(torch.cat([*flat, values]))
        *gradients, values = torch.split(together, [*(item.numel() for item in flat), len(values)])
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient.reshape(parameter.shape).to(parameter.dtype)
        return dict(zip(sums, values.tolist(), strict=True))

    def _add_pull(self) -> float:
        """Add the gradient of the pull; return Σ (w − w₀)²."""
        total = 0.0
        for parameter, origin in zip(self.parameters, self.origin, strict=True):
            difference = parameter.detach() - origin
            assert parameter.grad is not None
            parameter.grad.add_(difference, alpha=2 * self.pull)
            total += float(difference.square().sum())
        return total


def _of(batch: GraphBatch) -> str:
    return "; ".join(batch.where[:5]) + (" …" if len(batch.where) > 5 else "")
