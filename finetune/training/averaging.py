"""The moving average of the weights that is validated and kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
