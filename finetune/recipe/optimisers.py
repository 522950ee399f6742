"""What each optimiser expects of a recipe: defaults, what it refuses, what it says; no torch.

Each optimiser is an entry of `OPTIMISERS`. Other code asks these rules, never for a name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from finetune.core.errors import RecipeError
from finetune.core.options import resolve
from finetune.recipe.loss_options import SUPERVISED, LossOptions, Schedule
from finetune.recipe.plugins import adapter_rules
from finetune.recipe.sections import TrainRecipe


@dataclass(frozen=True)
class OptimiserRules:
    """An optimiser as a recipe sees it.

    Attributes:
        name: Value of ``train.optimiser``.
        implementation: ``module:Class`` of a `finetune.training.optimisers.optimiser.Optimiser`.
        defaults: Values of ``train`` where the recipe gives none; they replace the adapter's.
        reason: Why, in the words that `validate` and `run` show.
        unused: Keys of ``train`` that mean nothing to it, with the only value that is accepted.
        same_for_every_seed: Whether labels and first weights alone decide the result.
        nothing_to_tune: Whether it chooses its own settings from the labels.
        kept_foundation: Advice where no step improves on the foundation.
        diverging: Advice where training keeps diverging.
    """

    name: str
    implementation: str
    defaults: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""
    unused: Mapping[str, Any] = field(default_factory=dict)
    same_for_every_seed: bool = False
    nothing_to_tune: bool = False
    kept_foundation: str = "Try another train.learning_rate or more epochs."
    diverging: str = (
        "Lower train.learning_rate or the weight of that loss, or look at those structures."
    )

    @property
    def keys(self) -> frozenset[str]:
        """Keys of ``train`` that lose their meaning when another optimiser takes over."""
        return frozenset({*self.defaults, *self.unused})

    def load(self) -> Any:
        """Return the class that does the work; imports torch."""
        return resolve(self.implementation)

    def check(
        self, train: TrainRecipe, losses: Mapping[str, LossOptions], adapter: str, unlabelled: Any
    ) -> None:
        """Refuse what the optimiser would have to ignore.

        Raises:
            RecipeError: Naming the key.
        """


class GaussNewtonRules(OptimiserRules):
    """Rules of the linear solve on labels, which has nothing to choose."""

    smallest_step = 0.1
    """Share of a step that is taken at least."""

    def check(
        self, train: TrainRecipe, losses: Mapping[str, LossOptions], adapter: str, unlabelled: Any
    ) -> None:
        """See `OptimiserRules.check`."""
        asked, instead = f"train.optimiser={self.name}", "or set train.optimiser=adamw."
        for name, options in losses.items():
            if options.peak_weight > 0 and options.kind not in SUPERVISED:
                raise RecipeError(
                    f"losses.{name}: {asked} fits labels alone and cannot take the loss "
                    f"'{options.kind}'. Leave it out (losses.{name}.weight=0), {instead}"
                )
            if isinstance(options.weight, Schedule):
                raise RecipeError(
                    f"losses.{name}.weight is a schedule, which means nothing to {asked}. Give a "
                    f"number, {instead}"
                )
            if options.peak_weight > 0 and options.distance != "squared":
                raise RecipeError(
                    f"losses.{name}.distance={options.distance}: {asked} assumes normal errors, "
                    f"distance=squared. Leave it out, {instead}"
                )
        if unlabelled:
            raise RecipeError(
                f"data.unlabelled means nothing to {asked}, which fits labels alone. Leave it "
                f"out, {instead}"
            )
        if adapter_rules(adapter).references_only:
            raise RecipeError(
                f"adapter '{adapter}' trains what reference energies explain, which {asked} leaves "
                "to them. Set train.optimiser=adamw."
            )
        given: Mapping[str, Any] = train.model_dump()
        for name, value in self.unused.items():
            if given[name] != value:
                raise RecipeError(
                    f"train.{name}={given[name]} means nothing to {asked}, which chooses its "
                    f"restraint from the labels. Leave train.{name} out, {instead}"
                )
        if not self.smallest_step <= train.learning_rate <= 1:
            raise RecipeError(
                f"train.learning_rate={train.learning_rate:g} is the share of each step that "
                f"{asked} takes, from {self.smallest_step:g} to 1. Leave it out."
            )


_GRADIENT = "finetune.training.optimisers.optimiser:GradientDescent"
OPTIMISERS: dict[str, OptimiserRules] = {
    "adam": OptimiserRules("adam", _GRADIENT),
    "adamw": OptimiserRules("adamw", _GRADIENT),
    "gauss-newton": GaussNewtonRules(
        "gauss-newton",
        "finetune.training.optimisers.gauss_newton:GaussNewton",
        defaults={
            "epochs": 10,
            "patience": 3,
            "learning_rate": 1.0,
            "ema": None,
            "gradient_clip": None,
        },
        reason="full steps; the labels determine restraint and noise",
        unused={
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
        },
        same_for_every_seed=True,
        nothing_to_tune=True,
        kept_foundation="More labels, or more validation structures, may change this result.",
        diverging="Train fewer weights (adapter lora or readout), or look at those structures.",
    ),
}
DEFAULTED = frozenset(key for rules in OPTIMISERS.values() for key in rules.defaults)
"""Keys of ``train`` whose default depends on the optimiser."""


def suited(train: Mapping[str, Any] | None, optimiser: Any) -> dict[str, Any]:
    """Return ``train`` without the keys that a change to another optimiser makes void.

    Args:
        train: The section before the change.
        optimiser: The optimiser after the change; None where it stays.
    """
    kept = dict(train or {})
    former = kept.get("optimiser") or TrainRecipe.model_fields["optimiser"].default
    if not optimiser or optimiser == former:
        return kept
    rules = [OPTIMISERS[name] for name in (former, optimiser) if name in OPTIMISERS]
    void = {key for item in rules for key in item.keys}
    return {key: value for key, value in kept.items() if key not in void}


def used_labels(losses: Mapping[str, LossOptions]) -> list[str]:
    """Return the kinds of labels that losses with a weight use."""
    used = {options.kind for options in losses.values() if options.peak_weight > 0}
    return [kind for kind in SUPERVISED if kind in used]
