"""What a recipe may say of its losses: schedules, displacements, options; imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

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
    """Return which form a setting has, long or short; the discriminator of such unions."""
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


LARGEST = 1.0
"""Å; beyond it a displacement is not small."""
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


SUPERVISED = ("energy", "forces", "stress")
"""Kinds of losses on labels, each called as its label."""
PULL = "pull_to_foundation"
"""What the pull of ``train.pull_to_foundation`` is recorded as among the losses."""
LARGEST_STRAIN = 0.1
"""Beyond it a strain is not small."""


class LossOptions(Options):
    """Options that every loss has.

    ``weight`` multiplies the loss in the total; it may be a schedule, and 0 switches the loss off.
    ``kind`` names the registered loss when the key in the recipe is a name of your own
    (``near: {kind: pitc, …}``). ``needs_direct_forces`` says that the loss is zero for a potential
    without direct forces.
    """

    needs_direct_forces: ClassVar[bool] = False

    kind: str = Field("", description="registered loss; filled in with the recipe's key")
    weight: Scheduled = Field(1.0, description="factor in the total loss, or a schedule")
    distance: Literal["squared", "huber", "absolute"] = Field(
        "squared", description="distance measure of the residual"
    )
    huber_delta: float = Field(
        0.01, gt=0, description="residual at which `huber` turns linear, in the residual's unit"
    )

    @property
    def displaced(self) -> DisplacementOptions | None:
        """The option ``displacement`` with its short form (a size in Å) as options; else None."""
        given = getattr(self, "displacement", None)
        return None if given is None else spelt_out(given)

    @property
    def peak_weight(self) -> float:
        """The largest weight of the run; 0 for a loss that is switched off."""
        return peak(self.weight)

    @property
    def self_supervised(self) -> bool:
        """Whether the loss can be trained on alone, without any label."""
        return False

    def weight_at(self, progress: float) -> float:
        """Return the weight at a progress of 0 to 1."""
        return at(self.weight, progress)


class EnergyOptions(LossOptions):
    """Supervised energies: residual in eV per atom (or eV per structure)."""

    normalise: Literal["per_atom", "per_structure"] = "per_atom"


class ForcesOptions(LossOptions):
    """Supervised force components: residual in eV/Å, averaged over labelled components."""


class StressOptions(LossOptions):
    """Supervised stress components: residual in eV/Å³, averaged over labelled structures."""


class ConsistencyOptions(LossOptions):
    """Options shared by the weakly supervised losses, on displaced and on strained copies.

    The default weight is one that was measured to leave errors as they are: see docs/losses.md.
    """

    weight: Scheduled = Field(0.1, description="factor in the total loss, or a schedule")
    normalise: Literal["per_atom", "per_structure"] = "per_atom"
    copies: int = Field(1, ge=1, le=64, description="draws for each structure in a step")
    anchored: bool = Field(
        False, description="on the correction to the frozen foundation instead of the energy"
    )


class DisplacedOptions(ConsistencyOptions):
    """Options shared by the weakly supervised losses on displaced copies."""

    displacement: Displacement = Field(
        DisplacementOptions(), description="size in Å, or {kind, size, …}"
    )

    @model_validator(mode="after")
    def _copies_differ(self) -> DisplacedOptions:
        _refuse_equal_copies(self.displaced, self.copies)
        return self


class ExtrapolationOptions(ConsistencyOptions):
    """What of the residual is held, which means that it is not differentiated by the weights.

    ``extrapolation``: the extrapolated energy, and the forces or stress in it. ``energies``: all
    energies, so that they teach forces or stress alone and do not change by it.
    """

    hold: Literal["nothing", "extrapolation", "energies"] = Field(
        "nothing", description="what is not differentiated; energies: only forces are taught"
    )

    @model_validator(mode="before")
    @classmethod
    def _former_key(cls, value: Any) -> Any:
        """Read ``hold_extrapolation: true``, which recipes had before ``hold``."""
        if not isinstance(value, Mapping) or not isinstance(value.get(_FORMER), bool):
            return value
        rest = {key: item for key, item in value.items() if key != _FORMER}
        if "hold" in rest:
            raise ValueError(f"give `hold` alone; `{_FORMER}: true` is `hold: extrapolation` now")
        return {**rest, "hold": "extrapolation"} if value[_FORMER] else rest

    @property
    def self_supervised(self) -> bool:
        """See `LossOptions.self_supervised`: held energies are what is learnt from."""
        return self.hold == "energies"


_FORMER = "hold_extrapolation"


class TaylorOptions(DisplacedOptions, ExtrapolationOptions):
    """PITC: E(r+δ) against E(r) − Σ δ·F(r).

    ``form: symmetric`` compares ½ [E(r+δ) − E(r−δ)] with −Σ δ·F(r): no curvature is in it.
    ``base: label`` takes E(r) from the label where there is one.
    """

    form: Literal["one_sided", "symmetric"] = "one_sided"
    base: Literal["prediction", "label"] = "prediction"

    @model_validator(mode="after")
    def _base_is_used(self) -> TaylorOptions:
        if self.base == "label" and (self.form == "symmetric" or self.anchored):
            raise ValueError("`base: label` needs `form: one_sided` and `anchored: false`")
        return self


class SpatialOptions(DisplacedOptions, ExtrapolationOptions):
    """PISC: E(r+δ) against E(r+δ′) − Σ (δ−δ′)·F(r+δ′)."""

    weight: Scheduled = Field(0.01, description="factor in the total loss, or a schedule")

    @model_validator(mode="after")
    def _two_draws_differ(self) -> SpatialOptions:
        _refuse_equal_copies(self.displaced, 2)
        return self


class SecondDifferenceOptions(DisplacedOptions):
    """½ [E(r+δ) + E(r−δ)] − E(r): PITC's remainder to leading order, from energies alone."""


class StrainOptions(ExtrapolationOptions):
    """E((1+ε)·cell) against E + V σ:ε, on structures periodic in all directions.

    Each component of the symmetric ε is drawn from [-strain, strain]. ``form`` is as for PITC.
    """

    strain: Scheduled = Field(0.005, description="largest component of ε, or a schedule")
    form: Literal["one_sided", "symmetric"] = "one_sided"

    @field_validator("strain")
    @classmethod
    def _bounded(cls, value: float | Schedule) -> float | Schedule:
        if not 0 < peak(value) <= LARGEST_STRAIN:
            raise ValueError(f"strains lie above 0 and up to {LARGEST_STRAIN:g}")
        return value


class MaybeDisplacedOptions(LossOptions):
    """Options of losses on displaced copies or, with ``displacement: null``, on none."""

    displacement: Displacement | None = DisplacementOptions(size=0.1)
    copies: int = Field(1, ge=1, le=64, description="draws for each structure in a step")

    @model_validator(mode="after")
    def _copies_are_displaced(self) -> MaybeDisplacedOptions:
        if self.displaced is None and self.copies > 1:
            raise ValueError("`copies` needs a displacement")
        _refuse_equal_copies(self.displaced, self.copies)
        return self


class GradientMatchOptions(MaybeDisplacedOptions):
    """Direct forces against −dE/dr, for structures as they are and for displaced copies.

    No label is needed. ``hold: energies`` takes −dE/dr as numbers, so that the energies do not
    change by it and nothing is differentiated twice. ``displacement: null`` takes no copies.
    """

    needs_direct_forces: ClassVar[bool] = True

    hold: Literal["nothing", "energies"] = Field(
        "energies", description="what is not differentiated; energies: only forces are taught"
    )

    @property
    def self_supervised(self) -> bool:
        """See `LossOptions.self_supervised`."""
        return True


class ReplayOptions(MaybeDisplacedOptions):
    """The frozen foundation's energies and forces as labels, on displaced copies or as it stands.

    ``displacement: null`` takes the structures as they are.
    """

    weight: Scheduled = Field(1e-5, description="factor in the total loss, or a schedule")
    energy: float = Field(0.0, ge=0, description="factor of the energies, residual in eV per atom")
    forces: float = Field(1.0, ge=0, description="factor of the forces, residual in eV/Å")

    @model_validator(mode="after")
    def _something(self) -> ReplayOptions:
        if self.energy == 0 and self.forces == 0:
            raise ValueError("give `energy` or `forces` a factor above zero")
        return self


def _refuse_equal_copies(displaced: DisplacementOptions | None, copies: int) -> None:
    if displaced is not None and displaced.kind == "adversarial" and copies > 1:
        raise ValueError(
            "several different displacements are needed, and `kind: adversarial` has only one for "
            "each structure; choose another kind"
        )


def to_be_chosen(losses: Mapping[str, LossOptions]) -> dict[str, DisplacementOptions]:
    """Return the displacements whose size is to be chosen, by the recipe's name of the loss."""
    return {
        name: options.displaced
        for name, options in losses.items()
        if options.peak_weight > 0
        and options.displaced is not None
        and isinstance(options.displaced.size, ChosenSize)
    }
