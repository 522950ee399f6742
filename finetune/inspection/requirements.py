"""What a recipe, its structures and its foundation must have so that they can be trained."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from ase.data import chemical_symbols

from finetune.adapters.adapter import AdaptedPotential
from finetune.core.errors import DataError, FoundationError, RecipeError
from finetune.data.structures import Structure
from finetune.potentials.catalogue import covering
from finetune.potentials.loading import Foundation
from finetune.recipe.loss_options import SUPERVISED
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
    used = [
        kind
        for kind in SUPERVISED
        if any(loss.kind == kind and loss.peak_weight > 0 for loss in recipe.losses.values())
    ]
    switched_off = [name for name, loss in recipe.losses.items() if loss.kind in SUPERVISED]
    if not used and switched_off:
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
    for name, structures, wanted in (
        ("training", train, used),
        ("validation", valid, used if monitored == "loss" else [monitored]),
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
