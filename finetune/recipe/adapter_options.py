"""What a recipe may say about each adapter; imports no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from pydantic import Field, model_validator

from finetune.core.options import Options

_ONE_ENERGY = "the forces would no longer be the gradient of one energy"
REFUSED = {
    "lora_dropout": f"it drops single components of vectors, and {_ONE_ENERGY}",
    "lora_bias": "a bias on the components of a vector singles out a direction in space",
    "bias": "a bias on the components of a vector singles out a direction in space",
    "use_dora": "it gives each component of a vector a magnitude of its own",
    "use_qalora": "it pools over components of vectors",
    "init_lora_weights": "adapters start from zero change, so that they start as the foundation",
    "velora_config": "it projects components of vectors in groups",
    "kasa_config": "it truncates one matrix where the layer has one for each irrep",
    "monteclora_config": f"it draws weights at random in each evaluation, and {_ONE_ENERGY}",
    "arrow_config": f"it routes by the features, component by component, and {_ONE_ENERGY}",
}
"""Options of peft that equivariant layers refuse, and why."""
_PEFT_NAMES = {
    "r": "rank",
    "lora_alpha": "alpha",
    "target_modules": "targets",
    "target_parameters": "targets",
}


class FullOptions(Options):
    """Train every weight of the foundation."""


class ReadoutOptions(Options):
    """Train the readouts alone; everything below them keeps the foundation's weights."""


class ShiftOptions(Options):
    """Train the reference energies alone; forces stay as the foundation has them."""


class HeadOptions(Options):
    """Add a head for the labels' level of theory and train it; the others stay as they are."""

    name: str = Field(min_length=1, description="of the new head")


class LoraOptions(Options):
    """Low-rank updates of the layers that ``targets`` names.

    The update of a matrix is (alpha / rank) · A B. ``targets`` are blocks or shell-style patterns
    on names of layers, such as ``products``, ``interactions.0.linear_up``, ``*.conv_tp_weights.*``.
    """

    rank: int = Field(8, ge=1, le=1024)
    alpha: float = Field(8.0, gt=0)
    targets: tuple[str, ...] = Field(("*",), min_length=1)
    contractions: Literal["highest", "all"] = Field(
        "highest", description="orders of symmetric contractions whose weights are adapted"
    )
    seed: int = Field(0, ge=0, le=2**62, description="of the random factors")

    @model_validator(mode="before")
    @classmethod
    def _peft_options(cls, given: Any) -> Any:
        for name in given if isinstance(given, dict) else ():
            if name in _PEFT_NAMES:
                raise ValueError(f"write `{_PEFT_NAMES[name]}` for peft's `{name}`")
            reason = REFUSED.get("lora_dropout" if name == "dropout" else name)
            if reason:
                raise ValueError(
                    f"`{name}` of peft is not offered, it breaks what a potential must hold: "
                    f"{reason}"
                )
        return given


class FrozenOptions(Options):
    """Train, or freeze, the parameters that blocks or shell-style patterns name.

    Give exactly one of the two lists, e.g. ``train: ["readouts.*", "products.1.*"]``.
    """

    train: tuple[str, ...] = ()
    freeze: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _one_list(self) -> FrozenOptions:
        if bool(self.train) == bool(self.freeze):
            raise ValueError("give exactly one of `train` and `freeze`, with at least one pattern")
        return self


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
