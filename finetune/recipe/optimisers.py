"""What each optimiser needs of a recipe; imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finetune.core.errors import RecipeError
from finetune.recipe.adapter_options import BUILTIN
from finetune.recipe.loss_options import SUPERVISED, LossOptions
from finetune.recipe.schedules import Schedule
from finetune.recipe.sections import CommitteeRecipe, TrainRecipe

GAUSS_NEWTON: dict[str, Any] = {
    "epochs": 10,
    "patience": 3,
    "learning_rate": 1.0,
    "ema": None,
    "gradient_clip": None,
}
"""What of ``train`` is other with ``optimiser: gauss-newton`` where the recipe does not say."""
SMALLEST_STEP = 0.1
"""Share of a Gauss-Newton step that is taken at least."""
_PLAIN: dict[str, Any] = {
    "accumulate": 1,
    "amsgrad": True,
    "ema": None,
    "gradient_clip": None,
    "learning_rate_factors": {},
    "plateau_epochs": 10,
    "plateau_factor": 0.5,
    "pull_to_foundation": 0.0,
    "schedule": "constant",
    "warmup_epochs": 0,
    "weight_decay": 0.0,
}


OPTIMISER_KEYS = frozenset({*GAUSS_NEWTON, *_PLAIN})
"""Keys of ``train`` that a change to or from ``gauss-newton`` leaves to what suits."""


def suited(train: Mapping[str, Any] | None, optimiser: Any) -> dict[str, Any]:
    """Return ``train`` without what a change to another optimiser makes void.

    Args:
        train: The section before.
        optimiser: The optimiser after, None where it stays.
    """
    kept = dict(train or {})
    former = kept.get("optimiser") or "adamw"
    if optimiser and optimiser != former and "gauss-newton" in (former, optimiser):
        return {key: value for key, value in kept.items() if key not in OPTIMISER_KEYS}
    return kept


def used_labels(losses: Mapping[str, LossOptions]) -> list[str]:
    """Return the kinds of labels that losses with a weight use."""
    used = {options.kind for options in losses.values() if options.peak_weight > 0}
    return [kind for kind in SUPERVISED if kind in used]


def check_gauss_newton(
    train: TrainRecipe, losses: Mapping[str, LossOptions], adapter: str, unlabelled: Any
) -> None:
    """Refuse what the Gauss-Newton optimiser would have to ignore.

    Raises:
        RecipeError: Naming it.
    """
    for name, options in losses.items():
        if options.peak_weight > 0 and options.kind not in SUPERVISED:
            raise RecipeError(
                f"losses.{name}: train.optimiser=gauss-newton fits labels alone and cannot take "
                f"the loss '{options.kind}'. Leave it out (losses.{name}.weight=0), or set "
                "train.optimiser=adamw."
            )
        if isinstance(options.weight, Schedule):
            raise RecipeError(
                f"losses.{name}.weight is a schedule, which means nothing to "
                "train.optimiser=gauss-newton. Give a number, or set train.optimiser=adamw."
            )
        if options.peak_weight > 0 and options.distance != "squared":
            raise RecipeError(
                f"losses.{name}.distance={options.distance}: train.optimiser=gauss-newton takes "
                "labels with normal errors, distance=squared. Leave it out, or set "
                "train.optimiser=adamw."
            )
    if unlabelled:
        raise RecipeError(
            "data.unlabelled means nothing to train.optimiser=gauss-newton, which fits labels "
            "alone. Leave it out, or set train.optimiser=adamw."
        )
    if adapter == "shift":
        raise RecipeError(
            "adapter 'shift' trains what reference energies explain, which "
            "train.optimiser=gauss-newton leaves to them. Set train.optimiser=adamw."
        )
    given: Mapping[str, Any] = train.model_dump()
    for name, value in _PLAIN.items():
        if given[name] != value:
            raise RecipeError(
                f"train.{name}={given[name]} means nothing to train.optimiser=gauss-newton, which "
                f"chooses its restraint from the labels. Leave train.{name} out, or set "
                "train.optimiser=adamw."
            )
    if not SMALLEST_STEP <= train.learning_rate <= 1:
        raise RecipeError(
            f"train.learning_rate={train.learning_rate:g} would be the share of each Gauss-Newton "
            f"step that is taken, from {SMALLEST_STEP:g} to 1. Leave it out."
        )


def check_members_differ(committee: CommitteeRecipe, adapters: Sequence[str]) -> None:
    """Refuse a committee of the Gauss-Newton optimiser whose members would all be the same.

    Raises:
        RecipeError: If they have the same labels and start from the same weights.
    """
    alike = all(kind in BUILTIN and kind != "lora" for kind in adapters)
    if committee.labels == "all" and alike:
        raise RecipeError(
            "committee: train.optimiser=gauss-newton gives the same weights whatever the seed, so "
            "members with the same labels would agree in all. Set committee.labels=bootstrap."
        )
