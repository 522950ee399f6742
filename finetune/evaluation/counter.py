"""Show how far a long measurement is."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

EVERY = 60.0
"""Seconds between two lines where there is no bar."""


class Counter:
    """Counts steps: a bar on a terminal, now and then a line elsewhere, nothing without a console.

    Args:
        console: Where to show it, if anywhere.
        plain: Whether to print lines even on a terminal.
    """

    def __init__(self, console: Console | None = None, plain: bool = False) -> None:
        self.console = console
        bar = console is not None and console.is_terminal and not plain
        self._bar = self._make(console) if bar and console is not None else None
        self._what, self._total, self._done = "", 0, 0
        self._began = self._told = time.monotonic()

    def start(self, total: int) -> Counter:
        """Begin with the number of steps to come; a context manager around them."""
        if self._bar is not None:
            self._bar.add_task("", total=total)
            self._bar.start()
        self._total, self._done = total, 0
        self._began = self._told = time.monotonic()
        return self

    def say(self, message: str) -> None:
        """Show one line."""
        if self.console is not None:
            self.console.print(message, soft_wrap=True, markup=False, highlight=False)

    def name(self, what: str) -> None:
        """Tell what is at work now."""
        self._what = what
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], description=what)

    def advance(self, steps: int) -> None:
        """Count steps that are done."""
        if self._bar is not None:
            self._bar.advance(self._bar.task_ids[0], steps)
            return
        self._done += steps
        now = time.monotonic()
        if self._total and now - self._told >= EVERY:
            self._told = now
            share, minutes = 100 * self._done / self._total, (now - self._began) / 60
            self.say(f"{self._what}: {share:.0f} % of all, {minutes:.0f} min so far")

    def __enter__(self) -> Counter:
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    @staticmethod
    def _make(console: Console) -> Progress:
        return Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
        )
