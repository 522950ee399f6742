"""When a run writes a checkpoint, and what it says when it cannot or must stop."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from finetune.errors import RunFolderError, RunStoppedError
from finetune.training import checkpoint

GO_ON = "resume='auto' (command: --resume auto)"


class Keeper:
    """Writes the checkpoints of a run; only in the main process.

    Args:
        folder: Run folder, for messages.
        checkpoints: Folder of the checkpoints.
        seconds: Wall time between checkpoints.
        main: Whether this process is the one that writes.
    """

    def __init__(self, folder: Path, checkpoints: Path, seconds: float, main: bool) -> None:
        self.folder = folder
        self.checkpoints = checkpoints
        self.seconds = seconds
        self.main = main
        self._time, self._step = -math.inf, -1

    def read(self) -> checkpoint.Checkpoint | None:
        """Return the newest whole checkpoint, if there is any."""
        found = checkpoint.read(self.checkpoints)
        if found is not None:
            self._time, self._step = time.monotonic(), int(found.state["step"])
        return found

    @property
    def due(self) -> bool:
        """Whether the last checkpoint is old enough for another."""
        return time.monotonic() - self._time >= self.seconds

    def write(
        self, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any], final: bool = False
    ) -> None:
        """Write a checkpoint; the final one alone stays."""
        if self.main:
            keep = 1 if final else checkpoint.GENERATIONS
            checkpoint.write(self.checkpoints, int(state["step"]), tensors, state, keep)
        self._time, self._step = time.monotonic(), int(state["step"])

    def stopped(self, number: signal.Signals, epoch: int) -> RunStoppedError:
        """Return the error that ends a run which a signal stopped."""
        return RunStoppedError(
            f"{number.name} after step {self._step} (epoch {epoch}); '{self.folder}' holds all "
            f"that is needed to go on with {GO_ON}.",
            exit_code=128 + number,
        )

    def unwritable(self, error: OSError) -> RunFolderError | RunStoppedError:
        """Return the error that ends a run which cannot write."""
        if self._step < 0:
            return RunFolderError(f"'{self.folder}' cannot be written: {error}.")
        return RunStoppedError(
            f"'{self.folder}' cannot be written: {error}. The checkpoint of step {self._step} is "
            f"whole: mend the cause and go on with {GO_ON}."
        )
