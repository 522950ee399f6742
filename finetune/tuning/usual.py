"""The settings that are searched where a recipe declares none."""

from __future__ import annotations

from collections.abc import Iterator

from finetune.displacements import LARGEST, ChosenSize, DisplacementOptions
from finetune.losses.options import LARGEST_STRAIN, SUPERVISED, LossOptions, StrainOptions
from finetune.plugins import training_defaults
from finetune.recipe import Recipe
from finetune.schedules import Schedule, peak
from finetune.tuning.options import Choices, Range

LEARNING_RATES = 10.0
"""Below and above what suits the kind of adapter and what the recipe has."""
WEIGHTS = 100.0
"""Below and above the default weight of a kind of loss and the recipe's: it moves by decades."""
EPOCHS = (0.25, 2.0)
"""Times those of the recipe."""
RANKS = (2, 32)
SIZES, EASY_SIZES = (0.003, 0.2), (0.02, 0.5)
"""Å, of displacements; the latter along easy directions (soft modes, thermal)."""
FRACTIONS = (0.05, 5.0)
"""Of the foundation's energy error, for sizes chosen from the data."""
STRAINS = (5e-4, 0.02)


def usual_space(recipe: Recipe) -> dict[str, Range | Choices]:
    """Return the ranges that suit a recipe's kind of adapter and its losses, by dotted key.

    Learning rate, number of epochs, rank (``lora``); for each weak loss that is switched on its
    weight and the size of its displacement or strain; for supervised losses beyond the first their
    weight. Every range holds the recipe's own value. The optimiser ``gauss-newton`` has nothing
    to search.
    """
    train = recipe.train
    if train.optimiser == "gauss-newton":
        return {}
    centre = training_defaults(recipe.adapter["kind"]).learning_rate
    found: dict[str, Range | Choices] = {
        "train.learning_rate": _around(centre, LEARNING_RATES, train.learning_rate)
    }
    if train.epochs > 1:
        few, many = (max(round(share * train.epochs), 1) for share in EPOCHS)
        found["train.epochs"] = Range(low=few, high=many, log=True)
    if recipe.adapter["kind"] == "lora":
        rank = recipe.adapter["rank"]
        found["adapter.rank"] = Range(low=min(RANKS[0], rank), high=max(RANKS[1], rank), log=True)
    on = {name: item for name, item in recipe.losses.items() if item.peak_weight > 0}
    supervised = [name for name, item in on.items() if item.kind in SUPERVISED]
    for name, options in on.items():
        if name in supervised[:1]:
            continue
        found.update(_of_loss(f"losses.{name}", options))
    return found


def _of_loss(path: str, options: LossOptions) -> Iterator[tuple[str, Range]]:
    weight = options.weight
    own = peak(weight)
    usual = own
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
    """Return a logarithmic range, widened to hold the recipe's own value."""
    low, high = limits
    return Range(low=min(low, own), high=min(max(high, own), most), log=True)


def _tidy(value: float) -> float:
    return float(f"{value:.3g}")
