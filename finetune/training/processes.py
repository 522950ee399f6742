"""One process or several (`torchrun`, `accelerate launch`): which this is, and sums over all."""

from __future__ import annotations

from typing import Any, TypeVar

import torch

from finetune.core.environment import process_count

T = TypeVar("T")


class Processes:
    """The processes that train together; usually this one alone.

    Args:
        device: Where this process computes.

    Attributes:
        count: How many there are.
        rank: Which of them this is.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self.count = process_count()
        self.rank = 0
        if self.count > 1:
            from accelerate import PartialState

            self._state = PartialState(cpu=device is None or device.type == "cpu")
            self.rank = int(self._state.process_index)

    @property
    def main(self) -> bool:
        """Whether this process is the one that writes and reports."""
        return self.rank == 0

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the sum of a tensor over all processes."""
        if self.count > 1:
            torch.distributed.all_reduce(tensor)
        return tensor

    def any(self, flag: bool) -> bool:
        """Return whether any process says so."""
        return bool(self.sum(torch.tensor(float(flag), device=self._device)).item())

    def first(self, value: T | None) -> T | None:
        """Return the value of the first process that has one."""
        if self.count == 1:
            return value
        values: list[T | None] = [None] * self.count
        torch.distributed.all_gather_object(values, value)
        return next((item for item in values if item is not None), None)

    def from_main(self, value: T) -> T:
        """Return the main process's value (anything that can be pickled)."""
        if self.count == 1:
            return value
        values: list[Any] = [value]
        torch.distributed.broadcast_object_list(values, src=0, device=self._device)
        found: T = values[0]
        return found

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.count > 1:
            self._state.wait_for_everyone()

    @property
    def _device(self) -> torch.device:
        return torch.device("cpu") if self.count == 1 else self._state.device
