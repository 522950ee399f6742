"""One step: losses of all its pieces, gradients, and the update, unless something is not finite."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch_ema import ExponentialMovingAverage

from finetune.adapters.adapter import AdaptedPotential, check_match, matches
from finetune.core.errors import RecipeError
from finetune.data.graphs import GraphBatch
from finetune.losses.total import LossValue, TotalLoss
from finetune.potentials.potential import plain_name
from finetune.recipe.loss_options import PULL
from finetune.recipe.sections import TrainRecipe
from finetune.training.processes import Processes


class WeightAverage:
    """An exponential moving average of parameters, or the parameters themselves.

    Args:
        parameters: What is averaged.
        decay: Share of the old average that each step keeps (it warms up over the first steps);
            None for no averaging.
    """

    def __init__(self, parameters: Sequence[torch.nn.Parameter], decay: float | None) -> None:
        self._parameters = parameters
        self._decay = decay
        self.restart()

    def restart(self) -> None:
        """Begin anew from the parameters as they are."""
        self._average = (
            ExponentialMovingAverage(self._parameters, self._decay)
            if self._decay is not None
            else None
        )

    def update(self) -> None:
        """Take in the parameters as they are after a step."""
        if self._average is not None:
            self._average.update()

    def applied(self) -> AbstractContextManager[None]:
        """Return a context in which the parameters are the averaged ones."""
        if self._average is None:
            return nullcontext()
        context: AbstractContextManager[None] = self._average.average_parameters()
        return context

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the average by index, and the number of updates it has seen."""
        if self._average is None:
            return {}
        return {
            "updates": torch.tensor(self._average.num_updates),
            **{str(index): tensor for index, tensor in enumerate(self._average.shadow_params)},
        }

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take back what `tensors` returned."""
        if self._average is None:
            return
        self._average.num_updates = int(tensors["updates"])
        for index, shadow in enumerate(self._average.shadow_params):
            shadow.copy_(tensors[str(index)])


FLOOR = 0.01
"""Share of the learning rate at which a cosine ends."""


def build_optimiser(adapted: AdaptedPotential, recipe: TrainRecipe) -> torch.optim.Optimizer:
    """Return the optimiser over the trainable parameters, grouped by block and factor.

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
    arranged = [{"params": members, "factor": factor} for (_, factor), members in groups.items()]
    if recipe.optimiser == "gauss-newton":  # holds the share of each step; keeps no moments
        return torch.optim.SGD(arranged, lr=recipe.learning_rate)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[recipe.optimiser]
    return kind(
        arranged,
        lr=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        amsgrad=recipe.amsgrad,
    )


def set_learning_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every group, times the group's factor."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group["factor"]


def learning_rate(
    recipe: TrainRecipe, epoch: float, length: float | None = None, values: Sequence[float] = ()
) -> float:
    """Return the learning rate after ``epoch`` epochs (fractions count within an epoch).

    It rises linearly over ``warmup_epochs``, then stays (``constant``), falls along half a cosine
    to one hundredth at the end (``cosine``), or is multiplied by ``plateau_factor`` whenever
    ``plateau_epochs`` epochs have brought no better validation (``plateau``).

    Args:
        recipe: The settings.
        epoch: Epochs done.
        length: Epochs in all; the recipe's if None.
        values: The validation measure after each epoch so far, for ``plateau``.
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


Evaluate = Callable[[GraphBatch, Mapping[str, float]], LossValue | None]
"""Evaluates the losses on a piece, given its share of each loss."""


@dataclass(frozen=True)
class StepOutcome:
    """What a step found.

    Attributes:
        means: Each loss by name, before its weight, over the whole step.
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


class Stepper:
    """Takes optimiser steps on the pieces of a batch, here and in other processes.

    A loss is a mean over what it applies to, so each piece counts by its share of that: the step is
    the one that a single large batch would give.

    Args:
        parameters: What is trained.
        optimiser: Their optimiser.
        average: Told of each step taken.
        total: The losses.
        clip: Largest gradient norm; None for no limit.
        pull: Strength of the pull Σ (w − w₀)² towards the weights as they are now.
        processes: Who else works on the step.
    """

    def __init__(
        self,
        parameters: Sequence[torch.nn.Parameter],
        optimiser: torch.optim.Optimizer,
        average: WeightAverage,
        total: TotalLoss,
        clip: float | None,
        pull: float,
        processes: Processes,
    ) -> None:
        self.parameters = list(parameters)
        self.optimiser = optimiser
        self.average = average
        self.total = total
        self.clip = math.inf if clip is None else clip
        self.pull = pull
        self.processes = processes
        self.origin = [item.detach().clone() for item in parameters] if pull else []

    def take(
        self, pieces: Sequence[GraphBatch], evaluate: Evaluate, progress: float
    ) -> StepOutcome | None:
        """Take a step; None where no loss applies to any piece of it.

        The weights stay as they were where a loss or the gradient norm is not finite.

        Args:
            pieces: The pieces of the step that this process works on.
            evaluate: Evaluates the losses on one.
            progress: Share of the run's steps that are done.
        """
        counts = [self.total.counts(batch, progress) for batch in pieces]
        names = list(self.total.losses)
        whole = torch.tensor(
            [sum(found[name] for found in counts) for name in names], dtype=torch.float64
        )
        whole = self.processes.sum(whole.to(self.parameters[0].device)).cpu()
        of_all = dict(zip(names, whole.tolist(), strict=True))
        if not any(of_all.values()):
            return None
        self.optimiser.zero_grad(set_to_none=True)
        sums = dict.fromkeys(names, 0.0)
        trouble = ""
        for batch, count in zip(pieces, counts, strict=True):
            shares = {name: n / of_all[name] for name, n in count.items() if n}
            value = evaluate(batch, shares)
            if value is None:
                continue
            for name, part in value.parts.items():
                found = float(part.detach())
                sums[name] += shares[name] * found
                if not math.isfinite(found) and not trouble:
                    trouble = f"the loss '{name}' is {found} on {_of(batch)}"
            torch.autograd.backward(value.total, inputs=self.parameters)
        means = self._gather({name: sums[name] for name in names})
        means = {name: mean for name, mean in means.items() if of_all[name]}
        weights = self.total.weights(progress)
        if self.pull:
            means[PULL], weights[PULL] = self._add_pull(), self.pull
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, self.clip))
        if not math.isfinite(norm) or not all(map(math.isfinite, means.values())):
            known = self.processes.first(trouble or None)
            names_of = "; ".join(map(_of, pieces))
            trouble = known or f"the gradient norm is {norm} on {names_of}"
            return StepOutcome(means, weights, norm, trouble)
        self.optimiser.step()
        self.average.update()
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
