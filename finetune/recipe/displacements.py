"""What a recipe may say about displacements and strains; imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from finetune.core.options import Options
from finetune.recipe.schedules import LONG, SHORT, Schedule, at, form, peak

LARGEST = 1.0
"""Å; larger displacements are not small in any sense."""
DEFAULT_SIZE = {"soft_modes": 0.05, "thermal": 0.2}
"""Å, of the kinds that go along easy directions; 0.01 Å for all others."""
ONLY_FOR = {"modes": "soft_modes", "temperature": "thermal", "duration": "thermal"}


class ChosenSize(Options):
    """A size chosen from the data before training starts.

    It is the size at which the foundation's own Taylor remainder E(r+δ) − E(r) + Σ δ·F(r), root
    mean square over training structures and per atom, reaches ``fraction`` of the foundation's
    energy error on them; but no more than ``largest``.
    """

    fraction: float = Field(gt=0, description="of the foundation's energy error")
    largest: float = Field(0.1, gt=0, le=LARGEST, description="Å")


def _size_form(value: Any) -> str:
    if isinstance(value, ChosenSize) or (isinstance(value, Mapping) and "fraction" in value):
        return "(chosen)"
    return form(value)


Size = Annotated[
    Annotated[float, Field(gt=0, le=LARGEST), Tag(SHORT)]
    | Annotated[Schedule, Tag(LONG)]
    | Annotated[ChosenSize, Tag("(chosen)")],
    Discriminator(_size_form),
]


class DisplacementOptions(Options):
    """How all atoms of a structure are displaced; net translation is taken off afterwards.

    - ``uniform``: each component from [-size, size].
    - ``sphere``: each atom by ``size`` in a random direction.
    - ``gaussian``: components of standard deviation ``size``, vectors cut at three times that.
    - ``adversarial``: along the force error, of the labels or, without labels, of the difference to
      the foundation; the atom with the largest error moves by ``size``, the others in proportion.
    - ``soft_modes``: a random mixture of the ``modes`` softest directions of the foundation, soft
      ones most; the atom that moves most moves by ``size``.
    - ``thermal``: a frame of a burst of the foundation's dynamics, ``duration`` long at
      ``temperature``; frames in which an atom has moved by more than ``size`` are left out.
    """

    kind: Literal["uniform", "sphere", "gaussian", "adversarial", "soft_modes", "thermal"] = (
        "uniform"
    )
    size: Size = Field(0.01, description="Å; or a schedule, or {fraction: …}")
    modes: int = Field(6, ge=1, description="number of soft directions; kind soft_modes")
    temperature: float = Field(300.0, gt=0, description="K; kind thermal")
    duration: float = Field(20.0, ge=1, le=1000, description="fs; kind thermal")

    @model_validator(mode="before")
    @classmethod
    def _size_by_kind(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and "size" not in value:
            size = DEFAULT_SIZE.get(str(value.get("kind")))
            return value if size is None else {**value, "size": size}
        return value

    @field_validator("size")
    @classmethod
    def _bounded(cls, value: float | Schedule | ChosenSize) -> float | Schedule | ChosenSize:
        if isinstance(value, Schedule) and not 0 < value.peak <= LARGEST:
            raise ValueError(f"sizes lie above 0 and up to {LARGEST:g} Å")
        return value

    @model_validator(mode="after")
    def _belongs(self) -> DisplacementOptions:
        for name, kind in ONLY_FOR.items():
            default = type(self).model_fields[name].default
            if self.kind != kind and getattr(self, name) != default:
                raise ValueError(f"`{name}` belongs to `kind: {kind}`")
        return self

    @property
    def peak_size(self) -> float:
        """The largest size that can occur, Å."""
        return self.size.largest if isinstance(self.size, ChosenSize) else peak(self.size)

    def size_at(self, progress: float) -> float:
        """Return the size, Å, at a progress of 0 to 1.

        Raises:
            ValueError: If the size is still to be chosen from the data.
        """
        if isinstance(self.size, ChosenSize):
            raise ValueError("the size has to be chosen from the data first")
        return at(self.size, progress)


Displacement = Annotated[
    Annotated[float, Field(gt=0, le=LARGEST), Tag(SHORT)]
    | Annotated[DisplacementOptions, Tag(LONG)],
    Discriminator(form),
]
"""A size in Å, or all options."""


def spelt_out(displacement: float | DisplacementOptions) -> DisplacementOptions:
    """Return the options that a bare size in Å stands for."""
    if isinstance(displacement, DisplacementOptions):
        return displacement
    return DisplacementOptions(size=displacement)
