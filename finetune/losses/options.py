"""What a recipe may say about each loss; imports no torch, so recipes validate at once."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

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
    size: Size = 0.05


class WeakLossOptions(LossOptions):
    """Options shared by the weakly supervised losses on displaced copies."""

    normalise: Literal["per_atom", "per_structure"] = "per_atom"
    displacement: Size | DisplacementOptions = Field(
        DisplacementOptions(), description="size in Å, or {kind, size}"
    )

    @property
    def displaced(self) -> DisplacementOptions:
        """The displacement with the short form (a bare size in Å) spelt out."""
        if isinstance(self.displacement, DisplacementOptions):
            return self.displacement
        return DisplacementOptions(size=self.displacement)


class TaylorOptions(WeakLossOptions):
    """PITC: E(r+δ) against E(r) − Σ δ·F(r)."""


class SpatialOptions(WeakLossOptions):
    """PISC: E(r+δ) against E(r+δ′) − Σ (δ−δ′)·F(r+δ′)."""
