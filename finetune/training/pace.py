"""How far a run has come, and the learning rate there."""

from __future__ import annotations

import math

from finetune.sections import TrainRecipe
from finetune.training.optimiser import learning_rate
from finetune.training.state import Progress


class Pace:
    """Places in a run, measured in epochs.

    Args:
        settings: The recipe's.
        steps: Steps in an epoch.

    Attributes:
        length: Epochs in all, fewer than the recipe's where its steps are limited.
    """

    def __init__(self, settings: TrainRecipe, steps: int) -> None:
        self.settings = settings
        self.steps = steps
        self.length = float(settings.epochs)
        if settings.max_steps is not None:
            self.length = min(self.length, settings.max_steps / steps)

    def done(self, state: Progress) -> float:
        """Return how many epochs are done, with the share of the one in progress."""
        return state.epoch - 1 + state.position / self.steps

    def share(self, state: Progress) -> float:
        """Return the share of the run that is done, 0 to 1."""
        return self.done(state) / self.length

    def rate(self, state: Progress, epoch: float) -> float:
        """Return the learning rate after ``epoch`` epochs, as the guard allows."""
        monitored = f"valid/{self.settings.monitor}"
        values = [record[monitored] for record in state.history]
        values = [math.inf if value is None else value for value in values]
        return state.guard.factor * learning_rate(self.settings, epoch, self.length, values)
