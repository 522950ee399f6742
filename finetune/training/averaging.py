"""The moving average of the weights that is validated and kept."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch_ema import ExponentialMovingAverage


class WeightAverage:
    """An exponential moving average of parameters, or the parameters themselves.

    Args:
        parameters: What is averaged.
        decay: Share of the old average that each step keeps (it warms up over the first steps);
            None for no averaging.
    """

    def __init__(self, parameters: Sequence[torch.nn.Parameter], decay: float | None) -> None:
        self._average = ExponentialMovingAverage(parameters, decay) if decay is not None else None

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
