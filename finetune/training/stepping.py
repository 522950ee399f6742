"""One step: losses of all its pieces, gradients, and the update, unless something is not finite."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from finetune.data.graphs import GraphBatch
from finetune.losses.options import PULL
from finetune.losses.total import LossValue, TotalLoss
from finetune.training.averaging import WeightAverage
from finetune.training.processes import Processes

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
