"""Optimiser and learning-rate schedules."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from finetune.adapters.base import AdaptedPotential
from finetune.adapters.patterns import check_match, matches
from finetune.errors import RecipeError
from finetune.foundation.wrapped import plain_name
from finetune.sections import TrainRecipe

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
