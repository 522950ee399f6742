"""What a comparison varies, the arms that it makes, their labels, and the checks of all arms."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from finetune.adapters.adapter import AdaptedPotential
from finetune.core.errors import DataError, FinetuneError, RecipeError, system_errors
from finetune.data.reading import Reader
from finetune.data.structures import Structure, View
from finetune.data.writing import write_structures
from finetune.recipe.loss_options import SUPERVISED
from finetune.recipe.plugins import adapters
from finetune.recipe.recipe import Recipe, read_values
from finetune.recipe.sections import Choices, Range
from finetune.runs.preparation import Preparation, check_draw
from finetune.studies.scoring import Measure, judged
from finetune.studies.space import applicable, space_of, with_values
from finetune.studies.tuning import Foundations
from finetune.studies.tuning_result import shown

LABELS, LOSSES, ALL, NONE = "labels", "losses", "all", "none"
_FIXED = {
    "committee": "arms are single potentials",
    "output": "name a folder with --to",
    "stages": "compare recipes without stages",
    "track": "it changes no result",
    "tune": "all arms are tuned in the same way",
    "train.seed": "ask for --seeds",
    "data.test": "all arms are tested on the same structures",
}
"""Keys that are not varied, and why or what to do instead."""
_EXAMPLES = {"data": "data.train", "train": "train.learning_rate"}
_DRAWN = {"data.train", "data.energies", "data.keys", "data.units", "data.faulty"}
"""Keys that decide which labels there are to draw from."""

MOST_FAULTS = 5
"""Faulty arms that a message names."""


@dataclass(frozen=True)
class Arm:
    """One variant of the recipe, in a folder of its own.

    ``values`` are what is varied, by key, and ``recipe`` has them; its ``tune.space`` is what is
    searched. ``labels`` is the number of structures to train on, None for all; ``baseline`` the arm
    that it is compared with; ``group`` its name apart from the number of labels.
    """

    name: str
    folder: str
    values: Mapping[str, Any]
    recipe: Recipe
    labels: int | None
    baseline: str
    group: str


def varied(texts: Sequence[str]) -> dict[str, tuple[Any, ...]]:
    """Read ``KEY=VALUE,VALUE…`` texts; values are YAML, ``[…]`` and ``{…}`` are one value each."""
    found: dict[str, tuple[Any, ...]] = {}
    for text in texts:
        key, equals, rest = text.partition("=")
        if not equals or not all(part.strip() for part in key.split(".")):
            raise RecipeError(f"--vary '{text}' must read key=value,value, e.g. labels=10,25,100.")
        if key.strip() in found:
            raise RecipeError(f"--vary {key.strip()} is given twice: name all its values in one.")
        found[key.strip()] = read_values(rest, f"--vary '{text}'")
    return found


def arms_of(recipe: Recipe, vary: Mapping[str, Sequence[Any]]) -> list[Arm]:
    """Return the arms: all combinations of the values, the first of each first.

    An arm is compared with the first one that has the same number of labels. Raises RecipeError for
    values that no recipe can have, fewer than two arms, or a varied or searched key that no arm
    has.
    """
    for key, values in vary.items():
        _check(key, values)
        if LABELS in vary and ".".join(key.split(".")[:2]) in _DRAWN:
            raise RecipeError(
                f"--vary labels, --vary {key}: labels are drawn from one training set. Compare "
                "them separately."
            )
    several = [key for key, values in vary.items() if len(values) > 1]
    others = [key for key in several if key != LABELS]
    found: list[Arm] = []
    first: dict[Any, str] = {}
    for place, combination in enumerate(itertools.product(*vary.values()), 1):
        chosen: dict[str, Any] = dict(zip(vary, combination, strict=True))
        try:
            own = _changed(recipe, chosen)
        except RecipeError as error:
            raise RecipeError(f"the arm {_named(chosen, vary)}: {error}") from error
        name, count = _named(chosen, several), chosen.get(LABELS, ALL)
        slug = re.sub(r"[^A-Za-z0-9.+=-]+", "_", name)[:60]
        found.append(
            Arm(
                name=name,
                folder=f"{place:02d}-{slug}",
                values=chosen,
                recipe=_searching(own, recipe, vary),
                labels=None if count == ALL else count,
                baseline=first.setdefault(chosen.get(LABELS) if others else None, name),
                group=_named(chosen, others),
            )
        )
    if len(found) < 2:
        alone = [f"give {key} another value besides {shown(vary[key][0])}" for key in vary]
        remedy = " or ".join(alone) or "vary a key, e.g. --vary losses=none,pitc"
        raise RecipeError(f"a comparison needs at least two arms: {remedy}.")
    known = {path for arm in found for path in arm.recipe.tune.space}
    for path in recipe.tune.space:
        if path not in known and path not in vary:
            raise RecipeError(f"tune.space: no arm has '{path}'. Correct it or take it out.")
    return found


def _check(key: str, values: Sequence[Any]) -> None:
    for fixed, instead in _FIXED.items():
        if key == fixed or key.startswith(f"{fixed}."):
            raise RecipeError(f"--vary {key}: {instead}.")
        if fixed.startswith(f"{key}."):
            raise RecipeError(f"--vary {key}: name one of its keys, e.g. {_EXAMPLES[key]}.")
    if (
        isinstance(values, str)
        or not isinstance(values, Sequence)
        or not values
        or any(value is None and key in (LABELS, LOSSES) for value in values)
    ):
        raise RecipeError(f"--vary {key} names no values: write {key}=value,value.")
    twice = [value for place, value in enumerate(values) if value in values[:place]]
    if twice:
        raise RecipeError(f"--vary {key}: {shown(twice[0])} is given twice.")
    for value in values if key == LABELS else ():
        if value != ALL and not (isinstance(value, int) and value > 0 and value is not True):
            raise RecipeError(
                f"--vary labels: {shown(value)} is neither a number of structures nor 'all'."
            )


def _changed(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """Return the recipe of an arm, with all labels."""
    if LOSSES in values:
        recipe = _with_losses(recipe, str(values[LOSSES]))
    rest = {key: value for key, value in values.items() if key not in (LABELS, LOSSES)}
    kind = str(rest.get("adapter.kind", recipe.adapter["kind"]))
    known = adapters.options(kind).model_fields
    for key in rest:
        section, _, option = key.partition(".")
        loss = option.partition(".")[0]
        if section == "losses" and loss and loss not in recipe.losses:
            raise RecipeError(
                f"--vary {key}: the arm with losses={values[LOSSES]} has no loss '{loss}'. "
                "Compare them separately."
                if LOSSES in values
                else f"--vary {key}: the recipe has no loss '{loss}'."
            )
        if section == "adapter" and option not in ("", "kind", *known):
            raise RecipeError(
                f"the adapter '{kind}' has no option '{option}'. Compare them separately."
            )
    return with_values(recipe, rest)


def _with_losses(recipe: Recipe, names: str) -> Recipe:
    """Return the recipe with its losses on labels and the weak ones named; ``none``, ``all``."""
    written = recipe.written()
    losses = written["losses"]
    if names == ALL:
        return recipe
    kept = {name: losses[name] for name, item in recipe.losses.items() if item.kind in SUPERVISED}
    wanted = [] if names == NONE else [name.strip() for name in names.split("+")]
    for name in wanted:
        if name in kept:
            raise RecipeError(
                f"the loss '{name}' is on labels and thus in every arm. Name weak losses, or vary "
                f"losses.{name}.weight."
            )
    weak = {name: losses.get(name) for name in wanted}
    return Recipe.parse({**written, "losses": {**kept, **weak}})


def _searching(recipe: Recipe, base: Recipe, vary: Mapping[str, Sequence[Any]]) -> Recipe:
    """Return the recipe of an arm that searches what it has and what is not varied."""
    here = applicable(recipe, base)
    known = {} if recipe.tune.space and not here.tune.space else space_of(here)
    space: dict[str, Range | Choices] = {
        path: item.searched
        for path, item in known.items()
        if not any(path == key or path.startswith(f"{key}.") for key in vary if key != LOSSES)
    }
    return recipe.model_copy(update={"tune": recipe.tune.model_copy(update={"space": space})})


def _named(values: Mapping[str, Any], keys: Iterable[str]) -> str:
    return ", ".join(f"{key}={shown(values[key])}" for key in keys)


class Draws:
    """Subsets of a training set by seed and number of labels, nested and the same for all arms.

    ``measure`` decides which structures have labels. Structures without, and free atoms that give
    reference energies (``isolated``), are in every subset.
    """

    def __init__(
        self, structures: Sequence[Structure], measure: Measure, isolated: bool = False
    ) -> None:
        self.structures = structures
        judged = [measure.judges(item) and not (isolated and len(item) == 1) for item in structures]
        self.labelled = [index for index, has in enumerate(judged) if has]
        self.others = [index for index, has in enumerate(judged) if not has]

    def check(self, counts: Iterable[int | None]) -> None:
        """Refuse numbers of labels (None for all) that are larger than the training set."""
        for count in counts:
            if count is not None and count > len(self.labelled):
                raise DataError(
                    f"labels={count}: the training set has {len(self.labelled)} labelled "
                    "structures. Ask for fewer, or add labels."
                )

    def indices(self, seed: int, count: int) -> list[int]:
        """Return the structures that a seed draws, in their order."""
        order = np.random.default_rng([seed, len(self.labelled)]).permutation(self.labelled)
        return sorted([*order[:count].tolist(), *self.others])

    def structures_of(self, seed: int, count: int | None) -> Sequence[Structure]:
        """Return the structures that a seed draws; all of them where there is no number."""
        if count is None:
            return self.structures
        return View(self.structures, self.indices(seed, count))

    def path(self, folder: Path, seed: int, count: int) -> Path:
        """Return the store of a subset in a folder; write it if it is not there."""
        path = folder / f"{count}-seed{seed}.h5"
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            write_structures(path, self.structures_of(seed, count))
        return path.resolve()


@dataclass(frozen=True)
class Checked:
    """What an arm starts from: fingerprints of its structures and foundation, notes on both."""

    data: str
    foundation: str
    notes: tuple[str, ...]


def check_arms(
    arms: Sequence[Arm], output: Path, draws: Draws, seeds: Sequence[int], tunes: bool
) -> dict[str, Checked]:
    """Do for every arm what a run does before it trains; return what each starts from, by name.

    Arms that differ only in the number of labels are prepared once, with all labels. What each of
    them draws and holds out with each seed is checked for each, and so is what judges its tuning,
    if arms are tuned: with the first seed. Nothing is written to ``output``, which does not exist.
    Raises what is wrong, naming the arms unless it is the same for all.
    """
    checks = _Checks(output, draws, seeds, tunes)
    found: dict[str, Checked | FinetuneError] = {}
    for group in dict.fromkeys(arm.group for arm in arms):
        found |= checks.group([arm for arm in arms if arm.group == group])
    faults = {arm.name: item for arm in arms if isinstance(item := found[arm.name], FinetuneError)}
    if faults:
        first = next(iter(faults.values()))
        if len(faults) == len(arms) and len(set(map(str, faults.values()))) == 1:
            raise first
        listed = [f"the arm {name}: {fault}" for name, fault in faults.items()]
        if len(listed) > MOST_FAULTS:
            listed[MOST_FAULTS:] = [f"and {len(listed) - MOST_FAULTS} more arms"]
        raise type(first)("\n".join(listed))
    return {arm.name: item for arm in arms if isinstance(item := found[arm.name], Checked)}


def notes_of(checked: dict[str, Checked]) -> list[str]:
    """Return the notes on all arms; a note that not all arms have names its arms."""
    arms: dict[str, list[str]] = {}
    for name, item in checked.items():
        for note in item.notes:
            arms.setdefault(note, []).append(name)
    return [
        note if len(names) == len(checked) else f"{'; '.join(names)}: {note}"
        for note, names in arms.items()
    ]


@dataclass
class _Checks:
    """Opens foundations and reads files once; for the arguments see `check_arms`."""

    output: Path
    draws: Draws
    seeds: Sequence[int]
    tunes: bool
    foundations: Foundations = field(default_factory=lambda: Foundations(None))
    read: dict[str, tuple[Sequence[Structure], Sequence[Structure] | None]] = field(
        default_factory=dict
    )

    def group(self, arms: Sequence[Arm]) -> dict[str, Checked | FinetuneError]:
        """Return what arms that differ in the number of labels start from, or why they cannot."""
        drawing = any(arm.labels is not None for arm in arms)
        try:
            with system_errors():
                opened = self.foundations.of(arms[0].recipe)
                recipe = arms[0].recipe.model_copy(update={"output": str(self.output)})
                prepared = Preparation(recipe, None, False, opened=opened, whole=not drawing)
        except FinetuneError as error:
            return {arm.name: error for arm in arms}
        checked = Checked(
            prepared.data_fingerprint, prepared.foundation.fingerprint, tuple(prepared.notes)
        )
        found: dict[str, Checked | FinetuneError] = {}
        for arm in arms:
            try:
                self._check(arm, prepared.adapted, drawing)
                found[arm.name] = checked
            except FinetuneError as error:
                found[arm.name] = error
        return found

    @system_errors()
    def _check(self, arm: Arm, adapted: AdaptedPotential, drawing: bool) -> None:
        """Refuse an arm that a seed leaves too few labels to train, validate or be tuned on."""
        data = arm.recipe.data
        key = data.model_dump_json()
        if key not in self.read:
            reader = Reader.of(data, None)
            held = None if isinstance(data.valid, float) else reader.read(data.valid)
            self.read[key] = reader.read(data.train), held
        train, valid = self.read[key]
        for place, seed in enumerate(self.seeds):
            changed = arm.recipe.train.model_copy(update={"seed": seed})
            recipe = arm.recipe.model_copy(update={"train": changed})
            drawn = self.draws.structures_of(seed, arm.labels) if drawing else train
            try:
                check_draw(recipe, drawn, adapted)
                if place == 0 and self.tunes and recipe.tune.space:
                    judged(recipe, drawn, valid, Measure.of_recipe(recipe)).check(recipe, adapted)
            except DataError as error:
                raise DataError(f"with what seed {seed} draws, {error}") from error
