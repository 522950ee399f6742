"""A recipe: everything that decides a run, in one validated, immutable object.

Recipes are YAML files (OmegaConf, so ``${…}`` interpolation works) plus dotted overrides such as
``train.learning_rate=1e-4``. Nothing here imports torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import (
    Field,
    SerializeAsAny,
    ValidationError,
    field_validator,
    model_validator,
)
from yaml import MarkedYAMLError, YAMLError

from finetune.core.errors import RecipeError, reason, suggestion, system_errors
from finetune.core.options import Options, explain, flattened, lines, merged_deeply
from finetune.recipe.adapter_options import DEFAULT_ADAPTER
from finetune.recipe.loss_options import LossOptions
from finetune.recipe.optimisers import DEFAULTED, OPTIMISERS, OptimiserRules, suited
from finetune.recipe.plugins import adapter_options, adapter_rules, loss_options
from finetune.recipe.sections import (
    CommitteeRecipe,
    DataRecipe,
    TrackRecipe,
    TrainRecipe,
    TuneRecipe,
)

KEYS = ("adapter", "data", "losses", "reference_energies", "train")


def check_stages(stages: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse names that are no folder's and keys that cannot differ between stages."""
    for name, stage in stages.items():
        if not re.fullmatch("[A-Za-z0-9][A-Za-z0-9_-]*", name):
            raise ValueError(f"the stage name '{name}' must be letters, digits, - and _")
        for key in ("data", "train"):
            if not isinstance(stage.get(key), Mapping | None):
                raise ValueError(f"stages.{name}.{key} must be a mapping, not {stage[key]!r}")
        for key in sorted(set(stage) - set(KEYS)):
            raise ValueError(
                f"stages.{name}: '{key}' cannot differ between stages.{suggestion(key, KEYS)} "
                f"A stage may give: {', '.join(KEYS)}."
            )


INCONSEQUENTIAL = {
    "output",
    "track.tensorboard",
    "track.wandb",
    "train.checkpoint_seconds",
    "train.max_hours",
    "train.workers",
}
"""Keys that may change when a run is resumed."""


class Recipe(Options):
    """One fine-tuning run.

    Raises:
        RecipeError: From `load`, for a missing file, broken YAML, an unknown key (with the nearest
            known one) or a value of the wrong type or size.
    """

    foundation: str
    head: str | None = Field(None, description="head of a foundation that has several")
    trust: bool = Field(
        False, description="load a file that is not understood as torch does, code included"
    )
    data: DataRecipe
    reference_energies: Literal["keep", "isolated", "estimate"] | dict[str, float] = Field(
        "estimate", description="or the energies of free atoms, eV: {H: -13.6, …}"
    )
    adapter: dict[str, Any] = Field(default_factory=lambda: {"kind": DEFAULT_ADAPTER})
    losses: dict[str, SerializeAsAny[LossOptions]] = Field(
        default_factory=lambda: {"energy": {"weight": 1.0}}, validate_default=True
    )
    train: TrainRecipe = TrainRecipe()
    track: TrackRecipe = TrackRecipe()
    committee: CommitteeRecipe | None = Field(
        None, description="several runs with other seeds, for uncertainties: {members: 4}"
    )
    tune: TuneRecipe = TuneRecipe()
    stages: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="runs that start from the one before; each gives what differs",
    )
    output: str = Field(pattern=r"\S")

    @model_validator(mode="before")
    @classmethod
    def _first_data(cls, given: Any) -> Any:
        """Let every stage bring its own data: the recipe's then are the first stage's."""
        if isinstance(given, Mapping) and "data" not in given:
            stages = given.get("stages")
            for stage in stages.values() if isinstance(stages, Mapping) else []:
                if isinstance(stage, Mapping) and "data" in stage:
                    return {**given, "data": stage["data"]}
        return given

    @model_validator(mode="after")
    def _trained_as_its_adapter_needs(self) -> Recipe:
        """Fill in what the kind of adapter is trained with; that does not count as written."""
        train = self.train.model_copy(update=self.adapter_defaults)
        train.model_fields_set.difference_update(self.adapter_defaults)
        object.__setattr__(self, "train", train)  # a frozen model, still being made
        self.optimiser.check(train, self.losses, self.adapter["kind"], self.data.unlabelled)
        return self

    @model_validator(mode="after")
    def _stages_are_recipes(self) -> Recipe:
        check_stages(self.stages)
        runs = list(self.stage_recipes().values()) or [self]
        if (
            self.committee
            and self.committee.labels == "all"
            and all(
                item.optimiser.same_for_every_seed
                and not adapter_rules(item.adapter["kind"]).random_start
                for item in runs
            )
        ):
            raise RecipeError(
                f"committee: train.optimiser={self.train.optimiser} gives the same weights for "
                "every seed, so members with the same labels would agree in everything. Set "
                "committee.labels=bootstrap."
            )
        return self

    @property
    def optimiser(self) -> OptimiserRules:
        """What the optimiser expects of the recipe."""
        return OPTIMISERS[self.train.optimiser]

    @property
    def last_optimiser(self) -> OptimiserRules:
        """What the optimiser of the last stage expects; that of the recipe without stages."""
        return [self, *self.stage_recipes().values()][-1].optimiser

    def stage_recipes(self) -> dict[str, Recipe]:
        """Return the recipe of each stage, in their order; nothing where there are none.

        ``losses`` and ``adapter`` of a stage replace the recipe's; ``data`` and ``train`` change
        the keys that they give, and another optimiser leaves those of the former out. A stage runs
        in ``stages/NAME`` of the output and starts from the potential of the stage before.

        Raises:
            ValueError: If a stage is not a valid recipe.
            RecipeError: If it asks for what its optimiser refuses.
        """
        base = self.written()
        del base["stages"], base["committee"]
        found: dict[str, Recipe] = {}
        foundation, head = self.foundation, self.head
        for name, stage in self.stages.items():
            merged = {**base, **stage, "foundation": foundation, "head": head}
            data, train = (stage.get(section) or {} for section in ("data", "train"))
            merged["data"] = merged_deeply(base["data"], data)
            merged["train"] = merged_deeply(suited(base["train"], train.get("optimiser")), train)
            merged["output"] = f"{self.output}/stages/{name}"
            try:
                found[name] = Recipe.model_validate(merged)
            except ValidationError as error:
                raise ValueError(f"in the stage '{name}':\n{lines(error, Recipe)}") from None
            except RecipeError as error:
                raise RecipeError(f"in the stage '{name}': {error}") from None
            foundation, head = merged["output"], None
        return found

    @property
    def split_seed(self) -> int:
        """Seed that holds out a fraction of the training set: ``data.seed``, or ``train.seed``."""
        return self.train.seed if self.data.seed is None else self.data.seed

    def member_recipes(self) -> dict[str, Recipe]:
        """Return the recipe of each member of a committee by name; nothing where there is none.

        They differ in ``train.seed``, in the seed of an adapter that has one and, with
        ``labels: bootstrap``, in ``data.bootstrap``. What validates is the same for all. A member
        runs in ``members/NAME`` of the output.
        """
        found: dict[str, Recipe] = {}
        for index in range(self.committee.members if self.committee else 0):
            given = self.written()
            del given["committee"]
            for part in (given, *given["stages"].values()):
                if part.get("adapter"):
                    part["adapter"] = adapter_options(part["adapter"])
                for section in (part.get("adapter"), part.get("train")):
                    if section and section.get("seed") is not None:
                        section["seed"] += index
            given["data"]["seed"] = self.split_seed
            if self.committee and self.committee.labels == "bootstrap":
                drawn = self.data.bootstrap
                given["data"]["bootstrap"] = index + (self.train.seed if drawn is None else drawn)
            given["output"] = f"{self.output}/members/{index + 1}"
            found[str(index + 1)] = Recipe.model_validate(given)
        return found

    @field_validator("output", mode="before")
    @classmethod
    def _folder(cls, value: Any) -> Any:
        if isinstance(value, str) and (not value.strip() or "\x00" in value):
            raise ValueError("name a folder for the run, e.g. output=runs/mine")
        return value

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
        return adapter_options(value)

    @field_validator("losses", mode="before")
    @classmethod
    def _losses(cls, value: Any) -> Any:
        return loss_options(value)

    @model_validator(mode="after")
    def _something_to_learn(self) -> Recipe:
        if not any(options.peak_weight > 0 for options in self.losses.values()):
            raise ValueError("every loss has weight 0: nothing would be learnt")
        return self

    @classmethod
    @system_errors()
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
        """Read a recipe file and apply dotted overrides (``train.epochs=10``)."""
        loaded = read_yaml(path, " List shipped ones: piwsl-finetune recipes")
        return cls.parse(loaded, overrides, where=f"'{path}'")

    @classmethod
    def parse(
        cls, mapping: Any, overrides: Sequence[str] = (), where: str = "the recipe"
    ) -> Recipe:
        """Validate a mapping (or OmegaConf config), after applying dotted overrides."""
        plain = overridden(mapping, overrides, where, reset_for_overrides)
        try:
            return cls.model_validate(plain)
        except ValidationError as error:
            raise RecipeError(explain(error, cls, where)) from None

    def differences(self, other: Recipe) -> list[str]:
        """Return the dotted keys in which another recipe would give another result."""
        first, second = (flattened(item.complete()) for item in (self, other))
        return [
            key
            for key in dict.fromkeys((*first, *second))
            if key not in INCONSEQUENTIAL
            and not key.startswith("tune.")
            and first.get(key) != second.get(key)
            and not (key.endswith("train.monitor") and "auto" in (first.get(key), second.get(key)))
        ]

    @property
    def adapter_defaults(self) -> dict[str, Any]:
        """What of ``train`` adapter and optimiser decided, because nobody wrote it."""
        settings = adapter_rules(self.adapter["kind"]).training.settings()
        settings |= self.optimiser.defaults
        return {k: v for k, v in settings.items() if k not in self.train.model_fields_set}

    def written(self) -> dict[str, Any]:
        """Return the recipe as a mapping, without what its kind of adapter decided."""
        content = self.model_dump(mode="json")
        for key in {*self.adapter_defaults, *DEFAULTED} - self.train.model_fields_set:
            del content["train"][key]
        return content

    def complete(self) -> dict[str, Any]:
        """Return the recipe as a mapping that gives the same run whatever the defaults are."""
        content = self.model_dump(mode="json")
        for name, stage in self.stage_recipes().items():
            whole, decided = stage.model_dump(mode="json")["train"], set(stage.adapter_defaults)
            if stage.optimiser != self.optimiser:
                decided |= stage.optimiser.keys | self.optimiser.keys
            train = {key: whole[key] for key in decided if whole[key] != content["train"][key]}
            if train:
                content["stages"][name]["train"] = (self.stages[name].get("train") or {}) | train
        return content

    def dump(self) -> str:
        """Return YAML with every default filled in; `parse` of it gives an equal run."""
        return OmegaConf.to_yaml(OmegaConf.create(self.complete()))


Reset = Callable[[Any, Any], Any]
"""Given a recipe and its overrides, returns the recipe without what they make void."""


def read_yaml(path: str | Path, hint: str = "") -> Any:
    """Return the mapping in a YAML file, interpolations not yet resolved.

    Args:
        path: The file.
        hint: What to do where there is none.

    Raises:
        RecipeError: If there is no file, no YAML or no mapping.
    """
    if not Path(path).is_file():
        raise RecipeError(f"no recipe at '{path}'.{hint}")
    try:
        loaded = OmegaConf.load(path)
    except (YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise RecipeError(f"'{path}' is not valid YAML: {error}") from error
    if not OmegaConf.is_dict(loaded):
        raise RecipeError(f"'{path}' must hold a mapping of recipe keys at its top level")
    return loaded


def overridden(
    mapping: Any,
    overrides: Sequence[str],
    where: str,
    reset: Reset,
    options: Mapping[str, Any] | None = None,
) -> Any:
    """Return a recipe as a plain mapping, dotted overrides applied and interpolations resolved.

    Args:
        mapping: The recipe, or an OmegaConf config.
        overrides: ``key.sub=value``; a value is YAML.
        where: What the recipe is called in messages.
        reset: Called before the overrides are merged in.
        options: A mapping that takes precedence over the overrides.

    Raises:
        RecipeError: Naming the override, or the key of the recipe, that cannot be read.
    """
    if isinstance(overrides, str):
        raise RecipeError(f"overrides are a list of strings: ['{overrides}']")
    changes: Any = OmegaConf.create({})
    for override in map(str, overrides):
        change = _change(override)
        _check_fits(mapping, change, override)
        changes = OmegaConf.merge(changes, change)
    try:
        changes = OmegaConf.merge(changes, options or {})
        merged = OmegaConf.merge(reset(OmegaConf.create(mapping), changes), changes)
        return OmegaConf.to_container(merged, resolve=True, throw_on_missing=True)
    except (YAMLError, OmegaConfBaseException, TypeError, ValueError) as error:
        raise RecipeError(f"{where} cannot be read: {_explained(error)}") from error


def read_values(text: str, where: str) -> tuple[Any, ...]:
    """Return the values in ``VALUE,VALUE…``, each of them YAML.

    Args:
        text: The values; commas within ``[…]`` and ``{…}`` do not part them.
        where: What they are called in messages.

    Raises:
        RecipeError: If they cannot be read.
    """
    try:
        found: Any = OmegaConf.to_container(OmegaConf.create(f"values: [{text}]"))
        return tuple(found["values"])
    except (YAMLError, OmegaConfBaseException) as error:
        raise RecipeError(f"{where} cannot be read: {_explained(error)}") from error


def _change(override: str) -> Any:
    key, equals, _ = override.partition("=")
    if not equals or not all(part.strip() for part in key.split(".")):
        raise RecipeError(f"override '{override}' must read key.sub=value")
    try:
        return OmegaConf.from_dotlist([override])
    except YAMLError as error:
        raise RecipeError(
            f"override '{override}' cannot be read: {_explained(error)}. Values are YAML: close "
            "brackets and quotes, and quote text with special characters."
        ) from error
    except (OmegaConfBaseException, TypeError, ValueError) as error:
        raise RecipeError(f"override '{override}' cannot be read: {_explained(error)}") from error


def _check_fits(mapping: Any, change: Any, override: str) -> None:
    """Refuse a list in the place of a mapping, or the other way round."""
    try:
        OmegaConf.merge(mapping, change)
    except (OmegaConfBaseException, TypeError, ValueError) as error:
        if "incompatible container" in str(error):
            raise RecipeError(
                f"override '{override}' does not fit: the recipe has a "
                f"{'mapping' if '[' in override else 'list'} there."
            ) from error


def _explained(error: Exception) -> str:
    """Return the reason without the traces of the libraries."""
    if isinstance(error, MarkedYAMLError) and error.problem:
        return error.problem
    found = reason(error)
    key = getattr(error, "full_key", None)
    return f"{key}: {found}" if key and key not in found else found


def reset_for_overrides(recipe: Any, changes: Any) -> Any:
    """Return a recipe without the options that its overrides make void; raises RecipeError."""
    _check_stage_names(recipe, changes)
    parts = ["", *(f"stages.{name}." for name in changes.get("stages") or ())]
    for part in parts:
        _drop_former_adapter(recipe, changes, f"{part}adapter")
        _drop_former_optimiser(recipe, changes, f"{part}train")
    return recipe


def _drop_former_adapter(recipe: Any, changes: Any, place: str) -> None:
    """Remove the options of an adapter whose kind the overrides change."""
    before, after = OmegaConf.select(recipe, place), OmegaConf.select(changes, place)
    kind = after.get("kind") if OmegaConf.is_dict(after) else after
    if OmegaConf.is_dict(before) and kind and kind != before.get("kind", DEFAULT_ADAPTER):
        OmegaConf.update(recipe, place, {}, merge=False)


def _drop_former_optimiser(recipe: Any, changes: Any, place: str) -> None:
    """Remove the keys of an optimiser that the overrides replace."""
    before = OmegaConf.select(recipe, place)
    if OmegaConf.is_dict(before):
        content: Any = OmegaConf.to_container(before)
        kept = suited(content, OmegaConf.select(changes, f"{place}.optimiser"))
        for key in content.keys() - kept.keys():
            before.pop(key)


def _check_stage_names(recipe: Any, changes: Any) -> None:
    """Refuse overrides of stages that the recipe does not have."""
    stages = list(recipe.get("stages") or ())
    for name in changes.get("stages") or ():
        if name not in stages:
            raise RecipeError(
                f"stages.{name}: the recipe has no such stage.{suggestion(name, stages)} "
                f"It has: {', '.join(stages) or 'none'}."
            )
