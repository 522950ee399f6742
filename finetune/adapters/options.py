"""What a recipe may say about each adapter; imports no torch."""

from __future__ import annotations

from pydantic import Field, model_validator

from finetune.options import Options


class FullOptions(Options):
    """Train every weight of the foundation."""


class ReadoutOptions(Options):
    """Train the readouts alone; everything below them keeps the foundation's weights."""


class HeadOptions(Options):
    """Add a head for the labels' level of theory and train it; the others stay as they are."""

    name: str = Field(min_length=1, description="of the new head")


class LoraOptions(Options):
    """Low-rank updates of the equivariant linear layers that ``targets`` names.

    The update of a layer is (alpha / rank) · A B. ``targets`` are shell-style patterns on names
    such as ``interactions.0.linear_up`` or ``products.*.linear``.
    """

    rank: int = Field(8, ge=1, le=1024)
    alpha: float = Field(8.0, gt=0)
    targets: tuple[str, ...] = Field(("*",), min_length=1)
    seed: int = Field(0, ge=0, le=2**62, description="of the random factors")


class FrozenOptions(Options):
    """Train, or freeze, the parameters whose names match shell-style patterns.

    Give exactly one of the two lists, e.g. ``train: ["readouts.*", "products.1.*"]``.
    """

    train: tuple[str, ...] = ()
    freeze: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _one_list(self) -> FrozenOptions:
        if bool(self.train) == bool(self.freeze):
            raise ValueError("give exactly one of `train` and `freeze`, with at least one pattern")
        return self
