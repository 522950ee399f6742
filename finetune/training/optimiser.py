"""Optimiser and learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

from finetune.recipe import TrainRecipe


def build_optimiser(
    parameters: Iterable[torch.nn.Parameter], recipe: TrainRecipe
) -> torch.optim.AdamW:
    """Return AdamW with AMSGrad, which with ``weight_decay`` 0 is Adam as MACE is trained with."""
    return torch.optim.AdamW(
        list(parameters),
        lr=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        amsgrad=True,
    )


def learning_rate(recipe: TrainRecipe, epoch: float) -> float:
    """Return the learning rate after ``epoch`` epochs (fractions count within an epoch).

    It rises linearly over ``warmup_epochs``, then stays (``constant``) or falls along half a cosine
    to one hundredth at the last epoch (``cosine``).
    """
    if epoch < recipe.warmup_epochs:
        return recipe.learning_rate * max(epoch / recipe.warmup_epochs, 1e-3)
    if recipe.schedule == "constant":
        return recipe.learning_rate
    length = max(recipe.epochs - recipe.warmup_epochs, 1)
    progress = min((epoch - recipe.warmup_epochs) / length, 1.0)
    floor = 0.01
    return recipe.learning_rate * (floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2)
