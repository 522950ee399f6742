"""What a recipe, its structures and its foundation must have so that they can be trained."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from ase.data import chemical_symbols

from finetune.adapters.adapter import AdaptedPotential
from finetune.core.errors import DataError, FoundationError, RecipeError
from finetune.data.structures import Structure
from finetune.potentials.catalogue import covering
from finetune.potentials.loading import Foundation
from finetune.recipe.loss_options import SUPERVISED, LossOptions
from finetune.recipe.optimisers import used_labels
from finetune.recipe.plugins import adapter_rules
from finetune.recipe.recipe import Recipe


def check_adapted(adapted: object, kind: str) -> None:
    """Refuse what an adapter's ``attach`` returned if it cannot be trained."""
    if not isinstance(adapted, AdaptedPotential):
        raise RecipeError(
            f"attach of the adapter '{kind}' returned a {type(adapted).__name__}, not a "
            "finetune.AdaptedPotential."
        )
    if not adapted.trainable_parameters():
        raise RecipeError(
            f"the adapter '{kind}' leaves nothing to train: it names no parameter that can change."
        )


def check_single(foundation: Foundation) -> None:
    """Refuse a committee where one potential is to be trained."""
    if foundation.members:
        raise FoundationError(
            f"'{foundation.name}' is a committee; a run starts from one potential. Name a member: "
            f"foundation={foundation.members[0]}"
        )


def check_labels(
    recipe: Recipe, train: Sequence[Structure], valid: Sequence[Structure] | None
) -> None:
    """Refuse a recipe whose supervised losses, or validation measure, find no labels.

    ``valid`` is None where it has been checked.
    """
    used, on = used_labels(recipe.losses), switched_on(recipe).values()
    alone = not used and any(loss.self_supervised for loss in on)
    switched_off = [name for name, loss in recipe.losses.items() if loss.kind in SUPERVISED]
    if not used and not alone and switched_off:
        raise DataError(
            f"no loss on labels has a weight above 0 (losses.{switched_off[0]}.weight is 0), and "
            "without labels nothing is learnt about their level of theory. Give it a weight."
        )
    adapter = recipe.adapter["kind"]
    for kind in adapter_rules(adapter).needs:
        if kind not in used or not has_label(train, kind):
            raise DataError(
                f"the adapter '{adapter}' trains nothing without a loss on {kind} labels. Add them "
                f"(losses.{kind}), or choose another adapter."
            )
    monitored = recipe.train.monitor.partition("_")[0]
    by_loss = monitored in {"auto", "loss"}
    unneeded = monitored == "inconsistency" or (monitored == "auto" and alone)
    for name, structures, wanted in (
        ("training", None if alone else train, used),
        ("validation", None if unneeded else valid, used if by_loss else [monitored]),
    ):
        if structures is None:
            continue
        if not any(has_label(structures, kind) for kind in wanted):
            present = [kind for kind in SUPERVISED if has_label(structures, kind)]
            raise DataError(
                f"the {name} set has no {' or '.join(wanted) or 'supervised'} labels, which the "
                f"recipe's losses and train.monitor={recipe.train.monitor} need. "
                f"It has: {', '.join(present) or 'none'}."
            )


def check_direct_forces(recipe: Recipe, foundation: str) -> None:
    """Refuse what only direct forces give sense to, for a potential that has none."""
    instead = "Set adapter={kind: force_head}, choose a foundation with direct forces, or"
    for name, loss in switched_on(recipe).items():
        if loss.needs_direct_forces:
            raise RecipeError(
                f"losses.{name}: '{loss.kind}' compares direct forces with −dE/dr, and the forces "
                f"of '{foundation}' are −dE/dr. {instead} leave the loss out "
                f"(losses.{name}.weight=0)."
            )
    named = {"train.monitor": recipe.train.monitor, "tune.measure": recipe.tune.measure}
    for key, measure in named.items():
        if measure is not None and measure.endswith("inconsistency"):
            raise RecipeError(
                f"{key}={measure} is measured on direct forces, and the forces of '{foundation}' "
                f"are −dE/dr. {instead} choose another measure."
            )
    if not used_labels(recipe.losses):
        raise DataError(
            "no loss on labels has a weight above 0, and without labels nothing is learnt about "
            f"their level of theory. {instead} add a loss on labels (losses.energy)."
        )


def chosen_monitor(recipe: Recipe, valid: Sequence[Structure], direct: bool) -> str:
    """Return ``train.monitor``, or what ``auto`` stands for.

    That is the loss, unless forces are ``direct``, no labels of forces take part in it, and a weak
    loss teaches them: then energies and inconsistency or, without energies, the inconsistency.
    """
    if recipe.train.monitor != "auto":
        return recipe.train.monitor
    found = [kind for kind in used_labels(recipe.losses) if has_label(valid, kind)]
    weak = any(loss.kind not in SUPERVISED for loss in switched_on(recipe).values())
    if not direct or not weak or "forces" in found:
        return "loss"
    return "energy_and_inconsistency" if "energy" in found else "inconsistency"


def switched_on(recipe: Recipe) -> dict[str, LossOptions]:
    """Return the losses with a weight above 0 by the recipe's names."""
    return {name: loss for name, loss in recipe.losses.items() if loss.peak_weight > 0}


def has_label(structures: Iterable[Structure], kind: str) -> bool:
    """Whether any structure has a label of a kind: energy, forces or stress."""
    return any(getattr(item, kind) is not None for item in structures)


def foreign_compositions(structures: Sequence[Structure], known: Sequence[str]) -> list[str]:
    """Return the compositions of structures that are not among the known ones."""
    return sorted({item.formula for item in structures} - set(known))


def check_elements(
    structures: Mapping[str, Sequence[Structure]], name: str, known: Collection[int]
) -> None:
    """Refuse structures with elements that the foundation ``name`` does not know."""
    for items in structures.values():
        for item in items:
            unknown = sorted(set(item.numbers.tolist()) - set(known))
            if unknown:
                wanted = {int(n) for items in structures.values() for s in items for n in s.numbers}
                others = covering(wanted)
                advice = f"Foundations that know all elements: {others}." if others else ""
                raise DataError(
                    f"{item.where} contains {_symbols(unknown, ', ')}, which the foundation "
                    f"'{name}' does not know (it knows {_symbols(sorted(known), ' ')}). Choose "
                    f"another foundation or drop the structures. {advice}".rstrip()
                )


def _symbols(numbers: Iterable[int], between: str) -> str:
    return between.join(chemical_symbols[number] for number in numbers)
