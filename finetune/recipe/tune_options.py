"""What a recipe may say about its tuning; imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from finetune.core.options import Options

MeasureName = Literal[
    "loss",
    "energy_mae",
    "energy_rmse",
    "energy_per_atom_mae",
    "energy_per_atom_rmse",
    "forces_mae",
    "forces_rmse",
    "stress_mae",
    "stress_rmse",
]


class Range(Options):
    """Numbers from ``low`` to ``high``; whole ones where the recipe holds a whole number."""

    low: float
    high: float
    log: bool = Field(False, description="whether to search on a logarithmic scale")

    @model_validator(mode="after")
    def _not_empty(self) -> Range:
        if not self.low < self.high:
            raise ValueError(
                f"the range from {self.low:g} to {self.high:g} is empty: `low` lies below `high`"
            )
        if self.log and self.low <= 0:
            raise ValueError(f"a logarithmic range begins above 0, not at {self.low:g}")
        return self


def _form(value: Any) -> str:
    return "(choices)" if isinstance(value, (list, tuple)) else "(range)"


Choices = tuple[Any, ...]
Searched = Annotated[
    Annotated[Range, Tag("(range)")] | Annotated[Choices, Field(min_length=1), Tag("(choices)")],
    Discriminator(_form),
]
"""``{low, high, log}``, or a list of choices."""


class TuneRecipe(Options):
    """What `tune` searches and judges by; a run itself takes no notice of it."""

    space: dict[str, Searched] = Field(
        default_factory=dict,
        description="dotted key -> {low, high, log} or a list of choices; empty for the usual ones",
    )
    measure: MeasureName | None = Field(
        None, description="validation error that is made small; that of train.monitor by default"
    )
    folds: int | None = Field(
        None, ge=0, le=100, description="of cross-validation; 0: the validation set, however small"
    )
    valid_at_least: int = Field(
        20, ge=1, description="labelled validation structures; with fewer, folds"
    )
    seed: int = Field(0, ge=0, le=2**32 - 1, description="of the search and of the folds")
    origin: dict[str, Any] = Field(
        default_factory=dict, description="where tuned values come from; written by `tune`"
    )

    @field_validator("space", mode="before")
    @classmethod
    def _ranges_or_choices(cls, value: Any) -> Any:
        for path, searched in value.items() if isinstance(value, Mapping) else ():
            if not isinstance(searched, (Range, Mapping, list, tuple)):
                raise ValueError(
                    f"give '{path}' a range, {{low: 1, high: 10, log: true}}, or a list of choices"
                )
            given = list(searched) if isinstance(searched, (list, tuple)) else []
            twice = [item for place, item in enumerate(given) if item in given[:place]]
            if twice:
                raise ValueError(f"the choice {twice[0]!r} of '{path}' is there twice")
        return value

    @field_validator("folds")
    @classmethod
    def _two_or_none(cls, value: int | None) -> int | None:
        if value == 1:
            raise ValueError("cross-validation needs two folds at least; 0 for none")
        return value
