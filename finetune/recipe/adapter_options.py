"""What a recipe may say about each adapter; imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal

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
FORCE_HEAD = TrainingDefaults(
    "a new head starts from random weights and has far to go: larger steps, a shorter average",
    learning_rate=5e-2,
    ema=0.99,
)


@dataclass(frozen=True)
class AdapterRules:
    """An adapter as a recipe sees it.

    Attributes:
        training: Settings of the optimisation where the recipe gives none.
        random_start: Whether its seed decides where training starts.
        keeps_layers: Whether the foundation's layers stay, so that acceleration can replace them.
        references_only: Whether it trains only what reference energies can explain.
        needs: Kinds of labels without which it trains nothing.
        adds_head: Whether it trains a new head, whose level of theory is that of the labels.
        direct_forces: Whether it adds a head that predicts forces directly.
        searched: Lowest and highest value of options that `tune` searches, by name.
    """

    training: TrainingDefaults = STANDARD
    random_start: bool = True
    keeps_layers: bool = False
    references_only: bool = False
    needs: tuple[str, ...] = ()
    adds_head: bool = False
    direct_forces: bool = False
    searched: Mapping[str, tuple[int, int]] = field(default_factory=dict)


_OWN_WEIGHTS = AdapterRules(random_start=False, keeps_layers=True)


DEFAULT_ADAPTER = "full"


class FullOptions(Options):
    """Train every weight of the foundation."""

    rules: ClassVar = _OWN_WEIGHTS


class ReadoutOptions(Options):
    """Train the readouts alone; everything below them keeps the foundation's weights."""

    rules: ClassVar = _OWN_WEIGHTS


class ShiftOptions(Options):
    """Train the reference energies alone; forces stay as the foundation has them."""

    rules: ClassVar = AdapterRules(random_start=False, references_only=True, needs=("energy",))


class HeadOptions(Options):
    """Add a head for the labels' level of theory and train it; the others stay as they are."""

    rules: ClassVar = AdapterRules(random_start=False, adds_head=True)

    name: str = Field(min_length=1, description="of the new head")


class ForceHeadOptions(Options):
    """Add a head that predicts forces directly, and train it; energies stay as they are.

    The weak losses teach the head from energies, ``gradient_match`` without any label.
    """

    rules: ClassVar = AdapterRules(FORCE_HEAD, direct_forces=True)

    channels: int = Field(64, ge=1, le=4096, description="vectors that are mixed and gated")
    removed: Literal["nothing", "force", "force_and_torque"] = Field(
        "force_and_torque", description="from the forces of a structure; torque: of molecules"
    )
    train_all: bool = Field(False, description="the foundation's weights, too")
    seed: int = Field(0, ge=0, le=2**62, description="of the head's first weights")


class LoraOptions(Options):
    """Low-rank updates of the layers that ``targets`` names.

    The update of a matrix is (alpha / rank) · A B. ``targets`` are blocks or shell-style patterns
    on names of layers, such as ``products``, ``interactions.0.linear_up``, ``*.conv_tp_weights.*``.
    """

    rules: ClassVar = AdapterRules(LORA, searched={"rank": (2, 32)})

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

    rules: ClassVar = _OWN_WEIGHTS

    train: tuple[str, ...] = ()
    freeze: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _one_list(self) -> FrozenOptions:
        if bool(self.train) == bool(self.freeze):
            raise ValueError("give exactly one of `train` and `freeze`, with at least one pattern")
        return self
