"""Gradient descent by Adam and AdamW on all losses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from finetune.data.graphs import GraphBatch
from finetune.recipe.loss_options import PULL
from finetune.training.optimisers.optimiser import Optimiser, Piece, StepOutcome


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
