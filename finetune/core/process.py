"""This process: how it is stopped, and which of several it is.

Ctrl-C and SIGTERM are noted, and answered after the step or job in progress.
"""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any, ClassVar

from finetune.core.errors import RunStoppedError

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """A context in which SIGTERM and SIGINT are noted instead of obeyed at once.

    The second signal does what it did before, so that an impatient Ctrl-C still ends the process.
    Nested contexts both note it. Outside the main thread, where Python lets nobody
    handle signals, nothing is changed.

    Attributes:
        noted: Whether any signal was noted in this process.
        received: The first signal, or None.
    """

    noted: ClassVar[bool] = False

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        self._restore()

    def check(self) -> None:
        """Stop if a signal was received.

        Raises:
            RunStoppedError: Naming it.
        """
        if self.received is not None:
            raise RunStoppedError(f"{self.received.name} came.", 128 + self.received)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        StopSignals.noted = True
        for handler in self._before.values():
            outer = getattr(handler, "__self__", None)
            if isinstance(outer, StopSignals):
                outer.received = self.received
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}


def process_count() -> int:
    """Return how many processes train together (`torchrun`, `accelerate launch`); usually one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def process_rank() -> int:
    """Return which of them this is; 0 is the one that writes and reports."""
    return int(os.environ.get("RANK", "0"))
