"""The sections of a recipe: data, train, committee, track, tune; imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, ValidationError, field_validator, model_validator

from finetune.core.errors import RecipeError
from finetune.core.options import Options, explain
from finetune.core.units import Units

MOST = 10_000_000
"""Epochs, and structures of a batch, beyond which a number is a slip."""


class LabelKeys(Options):
    """Names under which the structure files hold the labels, and charge and spin; null: not read.

    Virial, charge and spin are found under other usual names too where theirs are the default ones:
    `finetune.data.labels.USUAL_NAMES`.
    """

    energy: str | None = "REF_energy"
    forces: str | None = "REF_forces"
    stress: str | None = "REF_stress"
    virial: str | None = Field(
        "REF_virials", description="−V times stress, eV; taken where there is no stress"
    )
    charge: str | None = Field("charge", description="total charge, e; 0 where absent")
    spin: str | None = Field("spin", description="spin multiplicity 2S + 1; 1 where absent")


class DataRecipe(Options):
    """Where the structures are: paths, folders, patterns or lists of them, with ASE's ``@:50``."""

    train: str | tuple[str, ...]
    valid: str | tuple[str, ...] | float = Field(
        0.2, description="files, or the fraction of the training structures to set aside"
    )
    test: str | tuple[str, ...] | None = None
    keys: LabelKeys = LabelKeys()
    units: Units = Units()
    faulty: Literal["stop", "skip"] = Field(
        "stop", description="whether a structure that cannot be used stops the run or is left out"
    )
    check: Literal["refuse", "warn"] = Field(
        "refuse",
        description="what follows where labels differ from the foundation by the factor of a unit",
    )
    unlabelled: str | tuple[str, ...] | None = Field(
        None, description="more geometries for the weak losses; their labels are not read"
    )
    energies: str | dict[str, str] | None = Field(
        None,
        description="CSV file (columns index or name, energy) for the structures of `train`; or "
        "one for each source, {train.xyz: train.csv, valid.xyz: valid.csv}",
    )
    seed: int | None = Field(
        None, ge=0, le=2**62, description="of held-out validation; that of `train` if null"
    )
    bootstrap: int | None = Field(
        None, ge=0, le=2**62, description="seed; draws the training set with replacement"
    )

    @field_validator("valid")
    @classmethod
    def _fraction(cls, value: Any) -> Any:
        if isinstance(value, float) and not 0 < value < 1:
            raise ValueError("a validation fraction lies between 0 and 1")
        return value

    @model_validator(mode="before")
    @classmethod
    def _table_of_train(cls, data: Any) -> Any:
        """Write the one CSV file as that of the source of ``train``."""
        if not isinstance(data, Mapping) or not isinstance(data.get("energies"), str):
            return data
        train, table = data.get("train"), data["energies"]
        sources = [train] if isinstance(train, str) else list(train or [""])
        if len(sources) > 1:
            raise ValueError(
                "`energies` is one file for several sources: name one for each, "
                f"energies={{{sources[0]}: {table}, …}}"
            )
        return {**data, "energies": {sources[0]: table}}

    @model_validator(mode="after")
    def _known_sources(self) -> DataRecipe:
        given: list[Any] = [self.train, self.valid, self.test, self.unlabelled]
        known = [[item] if isinstance(item, str) else item for item in given]
        sources = [name for item in known if isinstance(item, (list, tuple)) for name in item]
        unknown = [name for name in self.energy_tables() if name not in sources]
        if unknown:
            raise ValueError(f"`energies` names '{unknown[0]}', which is no source of structures")
        return self

    def energy_tables(self) -> dict[str, str]:
        """Return the CSV files of energies by source."""
        return dict(self.energies) if isinstance(self.energies, Mapping) else {}


class TrainRecipe(Options):
    """How the weights are optimised; the kind of adapter sets some defaults."""

    epochs: int = Field(200, ge=1, le=MOST)
    batch_size: int = Field(5, ge=1, le=MOST, description="labelled structures in a step")
    unlabelled_batch_size: int = Field(
        5, ge=1, le=MOST, description="structures of `data.unlabelled` added to each step"
    )
    accumulate: int = Field(
        1, ge=1, le=10_000, description="batches whose gradients make up a step"
    )
    max_steps: int | None = Field(
        None, ge=1, le=10**9, description="steps after which the run ends"
    )
    max_hours: float | None = Field(
        None, gt=0, le=100_000, description="wall time after which the run ends"
    )
    optimiser: Literal["adam", "adamw", "gauss-newton"] = Field(
        "adamw",
        description="gauss-newton: for few labels, nothing to choose; see docs/few-labels.md",
    )
    amsgrad: bool = True
    learning_rate: float = Field(1e-3, gt=0)
    learning_rate_factors: dict[str, Annotated[float, Field(ge=0)]] = Field(
        default_factory=dict,
        description="by block or pattern, the last match counts: {readouts: 10, products.1.*: 0.1}",
    )
    schedule: Literal["constant", "cosine", "plateau"] = "constant"
    warmup_epochs: int = Field(0, ge=0, le=MOST)
    plateau_epochs: int = Field(10, ge=1, le=MOST, description="without a better validation")
    plateau_factor: float = Field(0.5, gt=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    pull_to_foundation: float = Field(
        0.0, ge=0, description="strength of Σ (w − w of the foundation)² in the total loss"
    )
    gradient_clip: float | None = Field(1.0, gt=0, description="largest gradient norm")
    ema: float | None = Field(0.999, gt=0, lt=1, description="decay of the weight average")
    monitor: Literal[
        "auto",
        "loss",
        "energy_mae",
        "energy_rmse",
        "forces_mae",
        "forces_rmse",
        "inconsistency",
        "energy_and_inconsistency",
    ] = Field(
        "auto",
        description="validation measure that picks the best weights; auto: the loss, or, where a "
        "weak loss teaches direct forces that have no labels, energies and inconsistency",
    )
    patience: int | None = Field(
        None, ge=1, le=MOST, description="epochs without a better validation"
    )
    rollbacks: int = Field(
        3,
        ge=0,
        le=1000,
        description="returns of a diverging run to its best weights before it stops",
    )
    checkpoint_seconds: float = Field(
        30.0,
        ge=0,
        le=10**9,
        description="wall time between checkpoints; 0 writes one after each step",
    )
    workers: int = Field(0, ge=0, le=256, description="processes that put batches together")
    precision: Literal["float32", "float64", "tf32"] = Field(
        "float64", description="tf32: single precision, matrices multiplied on tensor cores (GPU)"
    )
    device: str = Field("auto", description="auto | cpu | cuda | cuda:0")
    acceleration: Literal["auto", "none", "cueq", "oeq"] = Field(
        "auto", description="layers of cuEquivariance or OpenEquivariance while training"
    )
    seed: int = Field(0, ge=0, le=2**62)


class CommitteeRecipe(Options):
    """Several runs of one recipe that differ in what is random; their spread is the uncertainty."""

    members: int = Field(4, ge=2, le=100)
    labels: Literal["all", "bootstrap"] = Field(
        "all", description="what each is trained on: all labels, or as many drawn with replacement"
    )


class TrackRecipe(Options):
    """Where the records of a run are sent in addition to ``metrics.jsonl``."""

    tensorboard: bool = Field(False, description="into the folder `tensorboard/` of the run")
    wandb: str | None = Field(None, description="name of a Weights & Biases project")


def label_keys(given: Mapping[str, Any]) -> LabelKeys:
    """Validate names of labels.

    Raises:
        RecipeError: For an unknown quantity.
    """
    try:
        return LabelKeys.model_validate(dict(given))
    except ValidationError as error:
        raise RecipeError(explain(error, LabelKeys, "the label keys")) from None


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
    "inconsistency",
    "energy_and_inconsistency",
]


class Range(Options):
    """Numbers from ``low`` to ``high``; integers where the recipe has an integer."""

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
