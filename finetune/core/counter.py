"""Show the progress of a long measurement."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

EVERY = 60.0
"""Seconds between two lines of progress where there is no bar."""


class Counter:
    """Counts steps: a bar on a terminal, a line a minute elsewhere, nothing without a console.

    Args:
        console: Where to show it, if anywhere.
        plain: Whether to print lines even on a terminal.
    """

    def __init__(self, console: Console | None = None, plain: bool = False) -> None:
        self.console = console
        self._bar: Progress | None = None
        if console is not None and console.is_terminal and not plain:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=20),
                TextColumn("{task.percentage:>3.0f} %"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=console,
            )
        self._what, self._total, self._done = "", 0, 0
        self._began = self._shown = time.monotonic()

    def start(self, total: int) -> Counter:
        """Set the number of steps to come; to be used in a ``with`` block around them."""
        if self._bar is not None:
            self._bar.add_task("", total=total)
            self._bar.start()
        self._total, self._done = total, 0
        self._began = self._shown = time.monotonic()
        return self

    def say(self, message: str) -> None:
        """Show one line."""
        if self.console is not None:
            self.console.print(message, soft_wrap=True, markup=False, highlight=False)

    def name(self, what: str) -> None:
        """Name what is being measured."""
        self._what = what
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], description=what)

    def advance(self, steps: int) -> None:
        """Count steps as done."""
        if self._bar is not None:
            self._bar.advance(self._bar.task_ids[0], steps)
            return
        self._done += steps
        now = time.monotonic()
        if self._total and now - self._shown >= EVERY:
            self._shown = now
            share, minutes = 100 * self._done / self._total, (now - self._began) / 60
            self.say(f"{self._what}: {share:.0f} % of all, {minutes:.0f} min so far")

    def __enter__(self) -> Counter:
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()
