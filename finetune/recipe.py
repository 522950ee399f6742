"""A recipe: everything that decides a run, in one validated, immutable object.

Recipes are YAML files (OmegaConf, so ``${…}`` interpolation works) plus dotted overrides such as
``train.learning_rate=1e-4``. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import (
    BaseModel,
    Field,
    SerializeAsAny,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)
from yaml import YAMLError

from finetune.adapters import adapters
from finetune.errors import RecipeError, suggestion
from finetune.losses import losses
from finetune.losses.options import LossOptions
from finetune.options import Options


class LabelKeys(Options):
    """Names under which the structure files hold the labels, and charge and spin."""

    energy: str = "REF_energy"
    forces: str = "REF_forces"
    stress: str = "REF_stress"
    charge: str = Field("charge", description="total charge, e; 0 where absent")
    spin: str = Field("spin", description="spin multiplicity 2S + 1; 1 where absent")


class DataRecipe(Options):
    """Where the structures are. Each entry is a path or a list of paths, with ASE's ``@:50``."""

    train: str | tuple[str, ...]
    valid: str | tuple[str, ...] | float = Field(
        0.2, description="files, or the fraction of the training structures to set aside"
    )
    test: str | tuple[str, ...] | None = None
    keys: LabelKeys = LabelKeys()
    unlabelled: str | tuple[str, ...] | None = Field(
        None, description="more geometries for the weak losses; their labels are not read"
    )

    @field_validator("valid")
    @classmethod
    def _fraction(cls, value: Any) -> Any:
        if isinstance(value, float) and not 0 < value < 1:
            raise ValueError("a validation fraction lies between 0 and 1")
        return value


class TrainRecipe(Options):
    """How the weights are optimised."""

    epochs: int = Field(200, ge=1)
    batch_size: int = Field(5, ge=1, description="labelled structures in a step")
    unlabelled_batch_size: int = Field(
        5, ge=1, description="structures of `data.unlabelled` added to each step"
    )
    learning_rate: float = Field(3e-4, gt=0)
    schedule: Literal["constant", "cosine"] = "constant"
    warmup_epochs: int = Field(0, ge=0)
    weight_decay: float = Field(0.0, ge=0)
    gradient_clip: float | None = Field(10.0, gt=0, description="largest gradient norm")
    ema: float | None = Field(0.99, gt=0, lt=1, description="decay of the weight average")
    monitor: Literal["loss", "energy_mae", "energy_rmse", "forces_mae", "forces_rmse"] = Field(
        "loss", description="validation measure that picks the best weights"
    )
    patience: int | None = Field(None, ge=1, description="epochs without a better validation")
    precision: Literal["float32", "float64"] = "float64"
    device: str = Field("auto", description="auto | cpu | cuda | cuda:0")
    acceleration: Literal["auto", "none", "cueq", "oeq"] = Field(
        "auto", description="layers of cuEquivariance or OpenEquivariance while training"
    )
    seed: int = Field(0, ge=0, le=2**62)


class Recipe(Options):
    """One fine-tuning run.

    Raises:
        RecipeError: From `load`, for a missing file, broken YAML, an unknown key (with the nearest
            known one) or a value of the wrong type or size.
    """

    foundation: str
    head: str | None = Field(None, description="head of a foundation that has several")
    trust: bool = Field(
        False, description="load a MACE file that is not understood as torch does, code included"
    )
    data: DataRecipe
    reference_energies: Literal["keep", "isolated", "estimate"] | dict[str, float] = Field(
        "estimate", description="or the energies of free atoms, eV: {H: -13.6, …}"
    )
    adapter: dict[str, Any] = Field(default_factory=lambda: {"kind": "full"})
    losses: dict[str, SerializeAsAny[LossOptions]] = Field(
        default_factory=lambda: {"energy": {"weight": 1.0}}, validate_default=True
    )
    train: TrainRecipe = TrainRecipe()
    output: str = Field(min_length=1, pattern=r"^[^\x00]+$")

    @field_validator("reference_energies", mode="before")
    @classmethod
    def _references(cls, value: Any) -> Any:
        if value not in ("keep", "isolated", "estimate") and not (
            value and isinstance(value, dict)
        ):
            raise ValueError(
                "choose 'keep', 'isolated' or 'estimate', or give the energies of free atoms in "
                "eV, {H: -13.6, …}"
            )
        return value

    @field_validator("adapter", mode="before")
    @classmethod
    def _adapter(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = {"kind": value}
        if not isinstance(value, Mapping):
            raise ValueError("write `adapter: {kind: NAME}`")
        kind = str(value.get("kind", "full"))
        rest = {key: item for key, item in value.items() if key != "kind"}
        return {"kind": kind, **_nested(adapters.options(kind), rest).model_dump(mode="json")}

    @field_validator("losses", mode="before")
    @classmethod
    def _losses(cls, value: Any) -> Any:
        if not isinstance(value, Mapping) or not value:
            raise ValueError("name at least one loss, e.g. `losses: {energy: {weight: 1.0}}`")
        return {str(name): _loss_options(str(name), given) for name, given in value.items()}

    @model_validator(mode="after")
    def _something_to_learn(self) -> Recipe:
        if not any(options.peak_weight > 0 for options in self.losses.values()):
            raise ValueError("every loss has weight 0: nothing would be learnt")
        return self

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
        """Read a recipe file and apply dotted overrides (``train.epochs=10``)."""
        path = Path(path)
        if not path.is_file():
            raise RecipeError(f"no recipe at '{path}'. List shipped ones: piwsl-finetune recipes")
        try:
            loaded = OmegaConf.load(path)
        except (YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
            raise RecipeError(f"'{path}' is not valid YAML: {error}") from error
        if not OmegaConf.is_dict(loaded):
            raise RecipeError(f"'{path}' must hold a mapping of recipe keys at its top level")
        return cls.parse(loaded, overrides, where=f"'{path}'")

    @classmethod
    def parse(
        cls, mapping: Any, overrides: Sequence[str] = (), where: str = "the recipe"
    ) -> Recipe:
        """Validate a mapping (or OmegaConf config), after applying dotted overrides."""
        if isinstance(overrides, str):
            raise RecipeError(f"overrides are a list of strings: ['{overrides}']")
        for override in overrides:
            key, equals, _ = str(override).partition("=")
            if not equals or not key.strip():
                raise RecipeError(f"override '{override}' must read key.sub=value")
        try:
            merged = OmegaConf.merge(
                OmegaConf.create(mapping), OmegaConf.from_dotlist([str(item) for item in overrides])
            )
            plain = OmegaConf.to_container(merged, resolve=True)
        except (YAMLError, OmegaConfBaseException, TypeError, ValueError) as error:
            raise RecipeError(f"{where} cannot be read: {error}") from error
        try:
            return cls.model_validate(plain)
        except ValidationError as error:
            raise RecipeError(explain(error, cls, where)) from None

    def dump(self) -> str:
        """Return YAML with every default filled in; `parse` of it gives an equal recipe."""
        return OmegaConf.to_yaml(OmegaConf.create(self.model_dump(mode="json")))


def label_keys(given: Mapping[str, Any]) -> LabelKeys:
    """Validate names of labels.

    Raises:
        RecipeError: For a quantity other than energy, forces and stress.
    """
    try:
        return LabelKeys.model_validate(dict(given))
    except ValidationError as error:
        raise RecipeError(explain(error, LabelKeys, "the label keys")) from None


def _nested(options: type[BaseModel], given: Mapping[str, Any]) -> BaseModel:
    """Validate plug-in options; a failure keeps its own location inside the recipe's error."""
    try:
        return options.model_validate(dict(given))
    except ValidationError as error:
        raise ValueError(_lines(error, options)) from None


def _loss_options(name: str, given: Any) -> BaseModel:
    given = {} if given is None else given
    if isinstance(given, LossOptions):
        given = given.model_dump(exclude_unset=True)
    if not isinstance(given, Mapping):
        raise ValueError(f"write `{name}: {{weight: {given}}}` with the weight as a key")
    kind = str(given.get("kind") or name)
    return _nested(losses.options(kind), {**given, "kind": kind})


def explain(error: ValidationError, model: type[BaseModel], where: str) -> str:
    """Turn a pydantic error into one line per fault, with the nearest known key."""
    return f"{where} has {error.error_count()} fault(s):\n{_lines(error, model)}"


def _lines(error: ValidationError, model: type[BaseModel]) -> str:
    lines = []
    for fault in error.errors():
        parts = [str(part) for part in fault["loc"]]
        location = ".".join(part for part in parts if not part.startswith("("))  # tags of unions
        if fault["type"] == "extra_forbidden":
            known = _keys_at(model, fault["loc"][:-1])
            nearest = suggestion(str(fault["loc"][-1]), known)
            lines.append(f"  {location}: unknown key.{nearest} Known: {', '.join(known)}.")
        else:
            message = fault["msg"].removeprefix("Value error, ")
            shown = "" if "\n" in message or fault["type"] == "value_error" else _shown(fault)
            hint = (
                _HINT
                if isinstance(fault["input"], dict) and None in fault["input"].values()
                else ""
            )
            lines.append(f"  {location or model.__name__}: {message}{shown}{hint}")
    return "\n".join(lines)


_HINT = " YAML reads a value that ends in a colon as a mapping: quote it, 'FILE@100:'."


def _shown(fault: Any) -> str:
    if fault["type"] == "missing":
        return ""
    text = repr(fault["input"])
    return f" (got {text if len(text) < 60 else text[:57] + '…'})"


def _keys_at(model: type[BaseModel], location: Sequence[Any]) -> list[str]:
    """Return the keys known where a fault is; the location may hold tags of unions."""
    for place, part in enumerate(location):
        field = model.model_fields.get(str(part))
        if field is not None:
            tag = location[place + 1] if place + 1 < len(location) else None
            model = _model_of(field.annotation, tag) or model
    return list(model.model_fields)


def _model_of(annotation: Any, tag: Any) -> type[BaseModel] | None:
    """Find the option class in an annotation: the only one, or the one with the tag."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    tags = [item.tag for item in getattr(annotation, "__metadata__", ()) if isinstance(item, Tag)]
    if tags and tag not in tags:
        return None
    found = (_model_of(inner, tag) for inner in get_args(annotation))
    return next((item for item in found if item is not None), None)
