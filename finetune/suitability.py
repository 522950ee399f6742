"""Whether structures suit the recipe and the foundation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ase.data import chemical_symbols
from ase.symbols import Symbols

from finetune.data.labels import Structure
from finetune.errors import DataError
from finetune.foundation.loading import Foundation
from finetune.recipe import Recipe


def check_labels(recipe: Recipe, train: Sequence[Structure], valid: Sequence[Structure]) -> None:
    """Refuse a recipe whose supervised losses, or validation measure, find no labels.

    Raises:
        DataError: Saying which labels are there.
    """
    used = [
        kind
        for kind in ("energy", "forces", "stress")
        if any(loss.kind == kind and loss.peak_weight > 0 for loss in recipe.losses.values())
    ]
    monitored = recipe.train.monitor.partition("_")[0]
    for name, structures, wanted in (
        ("training", train, used),
        ("validation", valid, used if monitored == "loss" else [monitored]),
    ):
        if not any(getattr(item, kind) is not None for item in structures for kind in wanted):
            present = [
                kind
                for kind in ("energy", "forces", "stress")
                if any(getattr(item, kind) is not None for item in structures)
            ]
            raise DataError(
                f"the {name} set has no {' or '.join(wanted) or 'supervised'} labels, which the "
                f"recipe's losses and train.monitor={recipe.train.monitor} need. "
                f"It has: {', '.join(present) or 'none'}."
            )


def formula(structure: Structure) -> str:
    """Return the composition of a structure."""
    return str(Symbols(structure.numbers).get_chemical_formula())


def foreign_compositions(structures: Sequence[Structure], known: Sequence[str]) -> list[str]:
    """Return the compositions of structures that are not among the known ones."""
    return sorted({formula(item) for item in structures} - set(known))


def check_elements(structures: Mapping[str, Sequence[Structure]], foundation: Foundation) -> None:
    """Refuse structures with elements that the foundation does not know, naming the first."""
    known = set(foundation.potential.elements)
    for items in structures.values():
        for item in items:
            unknown = sorted(set(item.numbers.tolist()) - known)
            if unknown:
                symbols = ", ".join(chemical_symbols[number] for number in unknown)
                covered = " ".join(chemical_symbols[number] for number in sorted(known))
                raise DataError(
                    f"{item.where} holds {symbols}, which the foundation '{foundation.name}' does "
                    f"not know (it knows {covered}). Choose another foundation or drop it."
                )
