"""Numbers that may change over a training run; imports no torch, so recipes validate at once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from finetune.core.options import Options

WARM_UP = 0.1
"""Share of the training that ``warm_up`` takes unless ``end`` says otherwise."""


class Schedule(Options):
    """A number as a function of the progress of a run, 0 at its first step and 1 at its last.

    Outside ``begin`` … ``end`` the number stays at ``first`` and ``last``. In between, ``linear``
    goes along a straight line and ``cosine`` along half a cosine; ``warm_up`` is a straight rise
    from 0, over the first tenth if nothing else is said; ``constant`` is ``last`` throughout.
    """

    kind: Literal["constant", "linear", "cosine", "warm_up"]
    first: float = Field(0.0, ge=0, description="value at `begin` and before")
    last: float = Field(ge=0, description="value at `end` and after")
    begin: float = Field(0.0, ge=0, le=1, description="progress at which the change begins")
    end: float | None = Field(None, ge=0, le=1, description="progress at which it ends")

    @model_validator(mode="after")
    def _consistent(self) -> Schedule:
        if self.kind in {"constant", "warm_up"} and self.first:
            raise ValueError(f"`first` has no meaning for `kind: {self.kind}`; use `linear`")
        if self.begin >= self.until:
            raise ValueError(f"`begin` ({self.begin:g}) must lie before `end` ({self.until:g})")
        return self

    @property
    def until(self) -> float:
        """Progress at which the change ends."""
        return (WARM_UP if self.kind == "warm_up" else 1.0) if self.end is None else self.end

    @property
    def peak(self) -> float:
        """The largest value."""
        return self.last if self.kind == "constant" else max(self.first, self.last)

    def at(self, progress: float) -> float:
        """Return the value at a progress of 0 to 1."""
        share = min(max((progress - self.begin) / (self.until - self.begin), 0.0), 1.0)
        if self.kind == "constant":
            share = 1.0
        elif self.kind == "cosine":
            share = 0.5 * (1.0 - math.cos(math.pi * share))
        return self.first + (self.last - self.first) * share


def form(value: Any) -> str:
    """Tell the long form of a setting from its short one; the discriminator of such unions."""
    return LONG if isinstance(value, Mapping | Options) else SHORT


SHORT, LONG = "(number)", "(mapping)"
"""Tags of the two forms; messages leave them out."""

Scheduled = Annotated[
    Annotated[float, Field(ge=0), Tag(SHORT)] | Annotated[Schedule, Tag(LONG)],
    Discriminator(form),
]
"""A number of at least zero, or a schedule."""


def at(value: float | Schedule, progress: float) -> float:
    """Return what a scheduled number is at a progress of 0 to 1."""
    return value.at(progress) if isinstance(value, Schedule) else value


def peak(value: float | Schedule) -> float:
    """Return the largest value that a scheduled number takes."""
    return value.peak if isinstance(value, Schedule) else value
