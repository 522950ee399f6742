"""What a recipe may say about each loss; imports no torch, so recipes validate at once."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from finetune.options import Options

Size = Annotated[float, Field(gt=0, le=1.0, description="Å")]


class LossOptions(Options):
    """Options that every loss has.

    ``weight`` multiplies the loss in the total; 0 switches it off. ``kind`` names the registered
    loss when the key in the recipe is a name of your own (``near: {kind: pitc, …}``).
    """

    kind: str = Field("", description="registered loss; filled in with the recipe's key")
    weight: float = Field(1.0, ge=0, description="factor in the total loss")
    distance: Literal["squared", "huber", "absolute"] = Field(
        "squared", description="distance measure of the residual"
    )
    huber_delta: float = Field(
        0.01, gt=0, description="residual at which `huber` turns linear, in the residual's unit"
    )


class EnergyOptions(LossOptions):
    """Supervised energies: residual in eV per atom (or eV per structure)."""

    normalise: Literal["per_atom", "per_structure"] = "per_atom"


class ForcesOptions(LossOptions):
    """Supervised force components: residual in eV/Å, averaged over labelled components."""


class StressOptions(LossOptions):
    """Supervised stress components: residual in eV/Å³, averaged over labelled structures."""


class DisplacementOptions(Options):
    """How all atoms of a structure are displaced; net translation is removed.

    ``uniform`` draws each component from [-size, size]; ``sphere`` a vector of length ``size`` in a
    random direction for each atom; ``gaussian`` components of standard deviation ``size`` with
    vectors cut at three times that.
    """

    kind: Literal["uniform", "sphere", "gaussian"] = "uniform"
    size: Size = 0.01


class WeakLossOptions(LossOptions):
    """Options shared by the weakly supervised losses on displaced copies."""

    normalise: Literal["per_atom", "per_structure"] = "per_atom"
    displacement: Size | DisplacementOptions = Field(
        DisplacementOptions(), description="size in Å, or {kind, size}"
    )
    anchored: bool = Field(
        False, description="on the correction to the frozen foundation instead of the energy"
    )

    @property
    def displaced(self) -> DisplacementOptions:
        """The displacement with the short form (a bare size in Å) spelt out."""
        return spelt_out(self.displacement)


class TaylorOptions(WeakLossOptions):
    """PITC: E(r+δ) against E(r) − Σ δ·F(r).

    ``form: symmetric`` compares E(r+δ) − E(r−δ) with −2 Σ δ·F(r), which has no curvature in it.
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


class SpatialOptions(WeakLossOptions):
    """PISC: E(r+δ) against E(r+δ′) − Σ (δ−δ′)·F(r+δ′)."""

    hold_extrapolation: bool = False


class SecondDifferenceOptions(WeakLossOptions):
    """E(r+δ) + E(r−δ) − 2 E(r): PITC's remainder to leading order, from energies alone."""


class ReplayOptions(LossOptions):
    """The frozen foundation's energies and forces as labels, on displaced copies or as it stands.

    ``displacement: null`` takes the structures as they are.
    """

    displacement: Size | DisplacementOptions | None = DisplacementOptions(size=0.1)
    energy: float = Field(0.0, ge=0, description="factor of the energies, residual in eV per atom")
    forces: float = Field(1.0, ge=0, description="factor of the forces, residual in eV/Å")

    @property
    def displaced(self) -> DisplacementOptions | None:
        """The displacement with the short form (a bare size in Å) spelt out."""
        return None if self.displacement is None else spelt_out(self.displacement)

    @model_validator(mode="after")
    def _something(self) -> ReplayOptions:
        if self.energy == 0 and self.forces == 0:
            raise ValueError("give `energy` or `forces` a factor above zero")
        return self


def spelt_out(displacement: float | DisplacementOptions) -> DisplacementOptions:
    """Return the options that a bare size in Å stands for."""
    if isinstance(displacement, DisplacementOptions):
        return displacement
    return DisplacementOptions(size=displacement)
