"""Trials of a study: in progress, and over."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import optuna

GRID = 10
"""Points of a training at which trials are compared to be given up."""
WARM_UP = 2
"""The first of them; those before are too early to judge."""


@dataclass(frozen=True)
class Tried:
    """A trial that is over.

    Attributes:
        number: 0 for the untouched recipe.
        state: ``done``, ``pruned`` (given up early) or ``failed``.
        value: The measure in eV and Å, the mean over folds; None unless done.
        values: What was set, by dotted key; empty for the untouched recipe.
        seconds: Wall time.
        folds: The measure of each fold.
        kept: Whether the foundation's weights were kept, as no epoch validated better, by fold.
        fault: Why it failed or was given up.
    """

    number: int
    state: str
    value: float | None
    values: Mapping[str, Any]
    seconds: float
    folds: tuple[float, ...] = ()
    kept: tuple[bool, ...] = ()
    fault: str = ""

    @property
    def done(self) -> bool:
        """Whether it was trained to its end."""
        return self.value is not None


@dataclass
class Trial:
    """A trial in progress; what it reports is stored at once, so that a kill loses nothing.

    Attributes:
        number: 0 for the untouched recipe.
        values: What to set, by dotted key; nothing for the untouched recipe.
        handle: Optuna's trial.
        folds: Measures of the folds that are done.
        shares: These over the foundation's.
        kept: Whether the foundation's weights were kept, by fold.
        seconds: Wall time so far.
        reported: Points at which validations were reported.
    """

    number: int
    values: dict[str, Any]
    handle: optuna.trial.Trial
    folds: list[float] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    kept: list[bool] = field(default_factory=list)
    seconds: float = 0.0
    reported: set[int] = field(default_factory=set)

    def hopeless(self, share: float, value: float, first: float) -> bool:
        """Report a validation; return whether the trial is to be given up.

        Trials are compared by the share of the foundation's error that is left, the mean over the
        folds so far, at the same share of their epochs and at the same fold.

        Args:
            share: Of the epochs of this fold that are done.
            value: Measure of what would be kept now.
            first: Measure of the foundation.
        """
        left = np.mean([*self.shares, share_left(value, first)])
        begun = len(self.folds) * GRID
        hopeless = False
        for point in range(WARM_UP, math.floor(share * GRID + 1e-9) + 1):
            step = begun + point
            if step not in self.reported:
                self.reported.add(step)
                self.handle.report(float(left), step)
                hopeless = hopeless or bool(self.handle.should_prune())
        return hopeless

    def fold_is_done(self, value: float, first: float, kept: bool, seconds: float) -> None:
        """Store what a fold found.

        Args:
            value: Its measure.
            first: That of the foundation.
            kept: Whether the foundation's weights were kept.
            seconds: Wall time.
        """
        self.folds.append(value)
        self.kept.append(kept)
        self.shares.append(share_left(value, first))
        self.handle.set_user_attr("folds", self.folds)
        self.handle.set_user_attr("shares", self.shares)
        self.handle.set_user_attr("kept", self.kept)
        self.spend(seconds)

    def spend(self, seconds: float) -> None:
        """Store wall time that was spent."""
        self.seconds += seconds
        self.handle.set_user_attr("seconds", self.seconds)


def share_left(value: float, first: float) -> float:
    """Return the share of the foundation's error that is left."""
    return value / max(first, 1e-300)
