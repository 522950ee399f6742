"""What a comparison varies, and the arms that it makes."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from finetune.core.errors import DataError, RecipeError
from finetune.data.sequences import View
from finetune.data.structures import Structure
from finetune.data.writing import write_structures
from finetune.recipe.loss_options import SUPERVISED
from finetune.recipe.overrides import read_values
from finetune.recipe.plugins import adapters
from finetune.recipe.recipe import Recipe
from finetune.recipe.sections import Choices, Range
from finetune.studies.scoring import Measure
from finetune.studies.space import applicable, space_of, with_values
from finetune.studies.tuning_result import shown

LABELS, LOSSES, ALL, NONE = "labels", "losses", "all", "none"
_FIXED = {
    "committee": "arms are single potentials",
    "output": "name a folder with --to",
    "stages": "compare recipes without stages",
    "track": "it changes no result",
    "tune": "every arm is tuned alike",
    "train.seed": "ask for --seeds",
    "data.test": "all arms are tested on the same structures",
}
"""Keys that are not varied, and what to do instead."""

_EXAMPLES = {"data": "data.train", "train": "train.learning_rate"}
_DRAWN = {"data.train", "data.keys", "data.units", "data.faulty"}
"""Keys that decide which labels there are to draw from."""

Varied = dict[str, tuple[Any, ...]]
"""Values by key: ``labels``, ``losses``, or a dotted key of the recipe."""


@dataclass(frozen=True)
class Arm:
    """One variant of the recipe.

    Attributes:
        name: What distinguishes it from the others.
        folder: Name of its folder.
        values: What is varied, by key.
        recipe: The recipe with these values; its ``tune.space`` has what is searched.
        labels: Labelled structures to train on; None for all.
        baseline: Name of the arm that it is compared with.
        group: What distinguishes it but for the number of labels.
    """

    name: str
    folder: str
    values: Mapping[str, Any]
    recipe: Recipe
    labels: int | None
    baseline: str
    group: str


def varied(texts: Sequence[str]) -> Varied:
    """Read ``KEY=VALUE,VALUE…`` texts; values are YAML, ``[…]`` and ``{…}`` are kept whole.

    Raises:
        RecipeError: For a text of another form or a key that is there twice.
    """
    found: Varied = {}
    for text in texts:
        key, equals, rest = text.partition("=")
        if not equals or not all(part.strip() for part in key.split(".")):
            raise RecipeError(f"--vary '{text}' must read key=value,value, e.g. labels=10,25,100.")
        if key.strip() in found:
            raise RecipeError(f"--vary {key.strip()} is there twice: name all its values in one.")
        found[key.strip()] = read_values(rest, f"--vary '{text}'")
    return found


def arms_of(recipe: Recipe, vary: Mapping[str, Sequence[Any]]) -> list[Arm]:
    """Return the arms: all combinations of the values, the first of each first.

    An arm is compared with the first one that has as many labels.

    Raises:
        RecipeError: For values that no recipe can have, fewer than two arms, or a varied key that
            an arm does not have.
    """
    for key, values in vary.items():
        _check(key, values)
    _check_together(vary)
    combinations: list[dict[str, Any]] = [
        dict(zip(vary, values, strict=True)) for values in itertools.product(*vary.values())
    ]
    recipes = [_recipe(recipe, chosen) for chosen in combinations]
    if len(combinations) < 2:
        alone = [f"give {key} another value beside {shown(vary[key][0])}" for key in vary]
        mend = " or ".join(alone) or "vary a key, e.g. --vary losses=none,pitc"
        raise RecipeError(f"a comparison needs two arms at least: {mend}.")
    found: list[Arm] = []
    first: dict[Any, str] = {}
    others = any(len(values) > 1 for key, values in vary.items() if key != LABELS)
    for place, (chosen, own) in enumerate(zip(combinations, recipes, strict=True), 1):
        name = _named(chosen, vary)
        baseline = first.setdefault(chosen.get(LABELS) if others else None, name)
        count = chosen.get(LABELS, ALL)
        slug = re.sub(r"[^A-Za-z0-9.+=-]+", "_", name)[:60]
        found.append(
            Arm(
                name=name,
                folder=f"{place:02d}-{slug}",
                values=chosen,
                recipe=_searching(own, recipe, vary),
                labels=None if count == ALL else count,
                baseline=baseline,
                group=_named(chosen, vary, {LABELS}),
            )
        )
    _check_space(recipe, found, vary)
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
        raise RecipeError(f"--vary {key}: {shown(twice[0])} is there twice.")
    for value in values if key == LABELS else ():
        if value != ALL and not (isinstance(value, int) and value > 0 and value is not True):
            raise RecipeError(f"--vary labels: {shown(value)} is no number of structures or 'all'.")


def _check_together(vary: Mapping[str, Sequence[Any]]) -> None:
    """Refuse numbers of labels beside what the labels are read from or by.

    Raises:
        RecipeError: Naming the key.
    """
    for key in vary if LABELS in vary else ():
        if ".".join(key.split(".")[:2]) in _DRAWN:
            raise RecipeError(
                f"--vary labels, --vary {key}: labels are drawn from one training set. Compare "
                "them apart."
            )


def _recipe(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """Return the recipe of an arm.

    Raises:
        RecipeError: If that is no valid recipe, naming the arm.
    """
    try:
        return _changed(recipe, values)
    except RecipeError as error:
        raise RecipeError(f"the arm {_name(values)}: {error}") from error


def _changed(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    if LOSSES in values:
        recipe = _with_losses(recipe, str(values[LOSSES]))
    rest = {key: value for key, value in values.items() if key not in (LABELS, LOSSES)}
    for key in rest:
        parts = key.split(".")
        if parts[0] == "losses" and len(parts) > 1 and parts[1] not in recipe.losses:
            raise RecipeError(
                f"--vary {key}: the arm with losses={values.get(LOSSES)} has no loss '{parts[1]}'. "
                "Compare them apart."
                if LOSSES in values
                else f"--vary {key}: the recipe has no loss '{parts[1]}'."
            )
    kind = str(rest.get("adapter.kind", recipe.adapter["kind"]))
    known = adapters.options(kind).model_fields
    for key in rest:
        first, _, option = key.partition(".")
        if first == "adapter" and option not in ("", "kind", *known):
            raise RecipeError(f"the adapter '{kind}' has no option '{option}'. Compare them apart.")
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
                f"the loss '{name}' is on labels and so in every arm. Name weak losses, or vary "
                f"losses.{name}.weight."
            )
    weak = {name: losses.get(name) for name in wanted}
    return Recipe.parse({**written, "losses": {**kept, **weak}})


def _searching(recipe: Recipe, base: Recipe, vary: Mapping[str, Sequence[Any]]) -> Recipe:
    """Return the recipe of an arm with all in its space that it has and that is not varied."""
    here = applicable(recipe, base)
    known = {} if recipe.tune.space and not here.tune.space else space_of(here)
    space: dict[str, Range | Choices] = {
        path: item.searched
        for path, item in known.items()
        if not any(path == key or path.startswith(f"{key}.") for key in vary if key != LOSSES)
    }
    return recipe.model_copy(update={"tune": recipe.tune.model_copy(update={"space": space})})


def _check_space(recipe: Recipe, arms: Sequence[Arm], vary: Mapping[str, Sequence[Any]]) -> None:
    """Refuse a key of ``tune.space`` that no arm has.

    Raises:
        RecipeError: Naming it.
    """
    known = {path for arm in arms for path in arm.recipe.tune.space}
    for path in recipe.tune.space:
        if path not in known and path not in vary:
            raise RecipeError(f"tune.space: no arm has '{path}'. Correct it or take it out.")


def _named(
    values: Mapping[str, Any], vary: Mapping[str, Sequence[Any]], but: Collection[str] = ()
) -> str:
    """Return what distinguishes an arm: the values of keys that have several."""
    return _name({k: v for k, v in values.items() if len(vary[k]) > 1 and k not in but})


def _name(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={shown(value)}" for key, value in values.items())


class Draws:
    """Subsets of a training set by seed and number of labels, nested and the same for all arms.

    Structures without a label that the losses use are in every subset, and so are free atoms that
    give reference energies.

    Args:
        structures: The training set.
        measure: What tells which structures have labels.
        isolated: Whether an arm takes its reference energies from free atoms.
    """

    def __init__(
        self, structures: Sequence[Structure], measure: Measure, isolated: bool = False
    ) -> None:
        self.structures = structures
        judged = [measure.judges(item) and not (isolated and len(item) == 1) for item in structures]
        self.labelled = [index for index, has in enumerate(judged) if has]
        self.others = [index for index, has in enumerate(judged) if not has]

    def check(self, counts: Iterable[int | None]) -> None:
        """Refuse numbers of labels that are not there.

        Args:
            counts: Numbers of labels; None for all.

        Raises:
            DataError: Naming both numbers.
        """
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
        """Return the structures themselves; all of them where there is no number."""
        if count is None:
            return self.structures
        return View(self.structures, self.indices(seed, count))

    def path(self, folder: Path, seed: int, count: int) -> Path:
        """Return the store of a subset in a folder, written if it is not there."""
        path = folder / f"{count}-seed{seed}.h5"
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            write_structures(path, self.structures_of(seed, count))
        return path.resolve()
