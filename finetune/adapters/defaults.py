"""How each kind of adapter is trained where the recipe does not say; imports no torch.

The values are those of MACE's guide to fine-tuning.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class TrainingDefaults:
    """Settings of the optimisation that suit a kind of adapter.

    Attributes:
        reason: Why, in the words that `validate` and `run` show.
        learning_rate: ``train.learning_rate``.
        ema: ``train.ema``, decay of the weight average; None for no average.
        gradient_clip: ``train.gradient_clip``, largest gradient norm; None for no limit.
    """

    reason: str
    learning_rate: float = 1e-3
    ema: float | None = 0.999
    gradient_clip: float | None = 1.0

    def settings(self) -> dict[str, float | None]:
        """Return the values by their keys in ``train`` of a recipe."""
        return {name: value for name, value in asdict(self).items() if name != "reason"}


STANDARD = TrainingDefaults(
    "weights of the foundation itself move: small steps, short gradients, a long average"
)
LORA = TrainingDefaults(
    "low-rank factors start at no change and have further to go: larger steps, a shorter average",
    learning_rate=1e-2,
    ema=0.99,
    gradient_clip=10.0,
)
BUILTIN = {
    "full": STANDARD,
    "frozen": STANDARD,
    "head": STANDARD,
    "lora": LORA,
    "readout": STANDARD,
    "shift": STANDARD,
}
"""Of the kinds that come with the package; others have ``Adapter.training_defaults``."""
