"""The settings that a tuning searches, and recipes with other values of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from finetune.core.errors import RecipeError, suggestion
from finetune.core.options import flattened
from finetune.core.text import shortened
from finetune.recipe.loss_options import (
    LARGEST,
    LARGEST_STRAIN,
    SUPERVISED,
    ChosenSize,
    DisplacementOptions,
    LossOptions,
    Schedule,
    StrainOptions,
    peak,
)
from finetune.recipe.optimisers import suited
from finetune.recipe.plugins import adapter_rules, adapters
from finetune.recipe.recipe import Recipe
from finetune.recipe.sections import Choices, Range

_FIXED = {
    "committee": "trials train single potentials",
    "data": "the data decide what is judged",
    "output": "it changes no result",
    "track": "it changes no result",
    "tune": "it is what searches",
    "stages": "a recipe is tuned stage by stage",
    "train.seed": "the luckiest seed is no better setting",
    "adapter.seed": "the luckiest seed is no better setting",
    "train.checkpoint_seconds": "it changes no result",
    "train.workers": "it changes no result",
}
"""Keys that are not searched, and why."""
_ABSENT = object()


@dataclass(frozen=True)
class Dimension:
    """One setting to search, by its dotted key; ``untouched`` is the recipe's own value."""

    path: str
    searched: Range | Choices
    untouched: Any
    whole: bool = False

    @property
    def holds_untouched(self) -> bool:
        """Whether the recipe's own value is in the range or among the choices."""
        if not isinstance(self.searched, Range):
            return self.untouched in self.searched
        value = self.untouched
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return number and self.searched.low <= value <= self.searched.high

    def tidy(self, value: float) -> float | int:
        """Return a number of the range with three significant digits, still in the range."""
        if self.whole:
            return int(value)
        assert isinstance(self.searched, Range)
        return min(max(float(f"{value:.3g}"), self.searched.low), self.searched.high)


def space_of(recipe: Recipe) -> dict[str, Dimension]:
    """Return the settings to search by dotted key: the recipe's ``tune.space``, or the usual ones.

    Refuses keys that the recipe does not have or that are not searched, ranges of what is no
    number, ranges of whole numbers with other ends, and choices or ends that the recipe cannot
    have.
    """
    space = recipe.tune.space or usual_space(recipe)
    content = recipe.complete()
    found = {path: _dimension(path, searched, content) for path, searched in space.items()}
    for path, item in found.items():
        own = item.searched
        for value in map(item.tidy, (own.low, own.high)) if isinstance(own, Range) else own:
            try:
                with_values(recipe, {path: value})
            except RecipeError as error:
                why = str(error).partition(":\n")[2].strip() or str(error)
                raise RecipeError(
                    f"tune.space: {shortened(json.dumps(value))} is no value of '{path}': {why}"
                ) from error
    return found


def applicable(recipe: Recipe, base: Recipe) -> Recipe:
    """Return a variant of a recipe with only those keys in ``tune.space`` that apply to it."""
    content = recipe.complete()
    changed = recipe.train.optimiser != base.train.optimiser
    void = {f"train.{key}" for key in recipe.optimiser.keys if changed}
    kept = {
        path: item
        for path, item in recipe.tune.space.items()
        if _at(path, content) is not _ABSENT and path not in void
    }
    return recipe.model_copy(update={"tune": recipe.tune.model_copy(update={"space": kept})})


def _dimension(path: str, searched: Range | Choices, content: Mapping[str, Any]) -> Dimension:
    for fixed, reason in _FIXED.items():
        if path == fixed or path.startswith(f"{fixed}."):
            raise RecipeError(f"tune.space: '{path}' is not tuned: {reason}. Take it out.")
    value = _at(path, content)
    if value is _ABSENT:
        known = flattened({key: content[key] for key in content if key not in _FIXED})
        raise RecipeError(
            f"tune.space: the recipe has no '{path}'.{suggestion(path, known)} Name dotted keys "
            "that it has, such as train.learning_rate or losses.energy.weight."
        )
    if not isinstance(searched, Range):
        return Dimension(path, searched, value)
    if isinstance(value, Mapping):
        raise RecipeError(
            f"tune.space: '{path}' is a mapping, not a number. Name one of its keys: "
            f"{', '.join(f'{path}.{key}' for key in flattened(value))}."
        )
    if isinstance(value, (str, bool, list)):
        raise RecipeError(
            f"tune.space: '{path}' is {value!r}, not a number, and has no range. Give a list of "
            "choices."
        )
    both_whole = searched.low.is_integer() and searched.high.is_integer()
    whole = isinstance(value, int) or (value is None and both_whole)
    if whole and not both_whole:
        raise RecipeError(
            f"tune.space: '{path}' is a whole number; its range from {searched.low:g} to "
            f"{searched.high:g} is not. Give whole numbers."
        )
    return Dimension(path, searched, value, whole)


def _at(path: str, content: Mapping[str, Any]) -> Any:
    """Return what nested mappings have at a dotted key, or `_ABSENT`."""
    found: Any = content
    for key in path.split("."):
        found = found.get(key, _ABSENT) if isinstance(found, Mapping) else _ABSENT
    return found


def with_values(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """Return a recipe with other values at dotted keys; raise RecipeError if it is not valid.

    A new ``adapter.kind`` drops the options of the previous one, and values of options that the new
    kind does not have.
    """
    content = deepcopy(recipe.written())
    kind = values.get("adapter.kind", content["adapter"]["kind"])
    if kind != content["adapter"]["kind"]:
        content["adapter"] = {"kind": kind}
    content["train"] = suited(content["train"], values.get("train.optimiser"))
    options = adapters.options(str(kind)).model_fields
    for path, value in values.items():
        *parents, last = path.split(".")
        if parents == ["adapter"] and last != "kind" and last not in options:
            continue
        inner = content
        for key in parents:
            if not isinstance(inner.get(key), dict):
                inner[key] = {}
            inner = inner[key]
        inner[last] = deepcopy(value)
    return Recipe.parse(content)


LEARNING_RATES = 10.0
"""Factor below and above the default of the kind of adapter and the recipe's value."""
WEIGHTS = 100.0
"""Factor below and above the default weight of a kind of loss and the recipe's."""
EPOCHS = (0.25, 2.0)
"""Factors on those of the recipe."""
SIZES, EASY_SIZES = (0.003, 0.2), (0.02, 0.5)
"""Å, of displacements; the latter along easy directions (soft modes, thermal)."""
FRACTIONS = (0.05, 5.0)
"""Of the foundation's energy error, for sizes chosen from the data."""
STRAINS = (5e-4, 0.02)


def usual_space(recipe: Recipe) -> dict[str, Range | Choices]:
    """Return the ranges that suit a recipe's kind of adapter and its losses, by dotted key.

    These are learning rate, number of epochs, rank (``lora``); for each weak loss in use its weight
    and the size of its displacement or strain; for supervised losses beyond the first their weight.
    Every range contains the recipe's own value. ``gauss-newton`` has nothing to search.
    """
    train = recipe.train
    if recipe.optimiser.nothing_to_tune:
        return {}
    adapter = adapter_rules(recipe.adapter["kind"])
    centre = adapter.training.learning_rate
    found: dict[str, Range | Choices] = {
        "train.learning_rate": _around(centre, LEARNING_RATES, train.learning_rate)
    }
    if train.epochs > 1:
        few, many = (max(round(share * train.epochs), 1) for share in EPOCHS)
        found["train.epochs"] = Range(low=few, high=many, log=True)
    for name, (low, high) in adapter.searched.items():
        value = recipe.adapter[name]
        found[f"adapter.{name}"] = Range(low=min(low, value), high=max(high, value), log=True)
    on = {name: item for name, item in recipe.losses.items() if item.peak_weight > 0}
    first = next((name for name, item in on.items() if item.kind in SUPERVISED), None)
    for name, options in on.items():
        if name != first:
            found.update(_of_loss(f"losses.{name}", options))
    return found


def _of_loss(path: str, options: LossOptions) -> Iterator[tuple[str, Range]]:
    weight = options.weight
    own = usual = peak(weight)
    if options.kind not in SUPERVISED:
        usual = peak(type(options).model_fields["weight"].default)
    name = f"{path}.weight"
    if isinstance(weight, Schedule):
        name, own = f"{name}.last", weight.last
    if own > 0 and usual > 0:
        yield name, _around(usual, WEIGHTS, own)
    if isinstance(options, StrainOptions) and not isinstance(options.strain, Schedule):
        yield f"{path}.strain", _holding(STRAINS, options.strain, LARGEST_STRAIN)
    displacement = getattr(options, "displacement", None)
    if isinstance(displacement, float):
        yield f"{path}.displacement", _holding(SIZES, displacement, LARGEST)
    elif isinstance(displacement, DisplacementOptions):
        size = displacement.size
        if isinstance(size, ChosenSize):
            yield f"{path}.displacement.size.fraction", _holding(FRACTIONS, size.fraction)
        elif isinstance(size, float):
            easy = displacement.kind in {"soft_modes", "thermal"}
            limits = EASY_SIZES if easy else SIZES
            yield f"{path}.displacement.size", _holding(limits, size, LARGEST)


def _around(centre: float, factor: float, own: float) -> Range:
    low, high = sorted((centre, own))
    return Range(low=_tidy(low / factor), high=_tidy(high * factor), log=True)


def _holding(limits: tuple[float, float], own: float, most: float = float("inf")) -> Range:
    """Return a logarithmic range, widened to contain the recipe's own value."""
    low, high = limits
    return Range(low=min(low, own), high=min(max(high, own), most), log=True)


def _tidy(value: float) -> float:
    return float(f"{value:.3g}")
