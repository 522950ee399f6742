"""What a recipe may say about each loss; imports no torch, so recipes validate at once."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from finetune.core.options import Options
from finetune.recipe.displacements import Displacement, DisplacementOptions, spelt_out
from finetune.recipe.schedules import Schedule, Scheduled, at, peak

SUPERVISED = ("energy", "forces", "stress")
"""Kinds of losses on labels, each called as its label."""
PULL = "pull_to_foundation"
"""What the pull of ``train.pull_to_foundation`` is recorded as among the losses."""
LARGEST_STRAIN = 0.1
"""Larger strains are not small in any sense."""


class LossOptions(Options):
    """Options that every loss has.

    ``weight`` multiplies the loss in the total; it may be a schedule, and 0 switches the loss off.
    ``kind`` names the registered loss when the key in the recipe is a name of your own
    (``near: {kind: pitc, …}``).
    """

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


class TaylorOptions(DisplacedOptions):
    """PITC: E(r+δ) against E(r) − Σ δ·F(r).

    ``form: symmetric`` compares ½ [E(r+δ) − E(r−δ)] with −Σ δ·F(r): no curvature is in it.
    ``base: label`` takes E(r) from the label where there is one. ``hold_extrapolation`` keeps the
    extrapolated side fixed, so that only E(r+δ) is differentiated by the weights.
    """

    form: Literal["one_sided", "symmetric"] = "one_sided"
    base: Literal["prediction", "label"] = "prediction"
    hold_extrapolation: bool = False

    @model_validator(mode="after")
    def _base_is_used(self) -> TaylorOptions:
        if self.base == "label" and (self.form == "symmetric" or self.anchored):
            raise ValueError("`base: label` needs `form: one_sided` and `anchored: false`")
        return self


class SpatialOptions(DisplacedOptions):
    """PISC: E(r+δ) against E(r+δ′) − Σ (δ−δ′)·F(r+δ′)."""

    weight: Scheduled = Field(0.01, description="factor in the total loss, or a schedule")
    hold_extrapolation: bool = False

    @model_validator(mode="after")
    def _two_draws_differ(self) -> SpatialOptions:
        _refuse_equal_copies(self.displaced, 2)
        return self


class SecondDifferenceOptions(DisplacedOptions):
    """½ [E(r+δ) + E(r−δ)] − E(r): PITC's remainder to leading order, from energies alone."""


class StrainOptions(ConsistencyOptions):
    """E((1+ε)·cell) against E + V σ:ε, on structures periodic in all directions.

    Each component of the symmetric ε is drawn from [-strain, strain]. ``form`` and
    ``hold_extrapolation`` are as for PITC.
    """

    strain: Scheduled = Field(0.005, description="largest component of ε, or a schedule")
    form: Literal["one_sided", "symmetric"] = "one_sided"
    hold_extrapolation: bool = False

    @field_validator("strain")
    @classmethod
    def _bounded(cls, value: float | Schedule) -> float | Schedule:
        if not 0 < peak(value) <= LARGEST_STRAIN:
            raise ValueError(f"strains lie above 0 and up to {LARGEST_STRAIN:g}")
        return value


class ReplayOptions(LossOptions):
    """The frozen foundation's energies and forces as labels, on displaced copies or as it stands.

    ``displacement: null`` takes the structures as they are.
    """

    weight: Scheduled = Field(1e-5, description="factor in the total loss, or a schedule")
    displacement: Displacement | None = DisplacementOptions(size=0.1)
    copies: int = Field(1, ge=1, le=64, description="draws for each structure in a step")
    energy: float = Field(0.0, ge=0, description="factor of the energies, residual in eV per atom")
    forces: float = Field(1.0, ge=0, description="factor of the forces, residual in eV/Å")

    @model_validator(mode="after")
    def _something(self) -> ReplayOptions:
        if self.energy == 0 and self.forces == 0:
            raise ValueError("give `energy` or `forces` a factor above zero")
        if self.displaced is None and self.copies > 1:
            raise ValueError("`copies` needs a displacement")
        _refuse_equal_copies(self.displaced, self.copies)
        return self


def _refuse_equal_copies(displaced: DisplacementOptions | None, copies: int) -> None:
    if displaced is not None and displaced.kind == "adversarial" and copies > 1:
        raise ValueError(
            "several different displacements are needed, and `kind: adversarial` has only one for "
            "each structure; choose another kind"
        )
