"""What a recipe's data are divided into, and whether that can be learnt from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from finetune.adapters.base import AdaptedPotential
from finetune.data.labels import Structure
from finetune.data.reading import Reader
from finetune.data.sequences import mapped
from finetune.data.splits import drawn, hold_out
from finetune.foundation import reference_energies
from finetune.recipe import Recipe
from finetune.suitability import check_labels, check_solvable


def labelled(recipe: Recipe, reader: Reader) -> dict[str, Sequence[Structure]]:
    """Read what a recipe trains, validates and tests on: ``train``, ``valid``, ``test``.

    Raises:
        DataError: For files that cannot be used.
    """
    data = recipe.data
    train, valid = _divided(recipe, reader.read(data.train))
    if not isinstance(data.valid, float):
        valid = reader.read(data.valid)
    test = reader.read(data.test) if data.test else []
    return {"train": train, "valid": valid, "test": test}


def pool(recipe: Recipe, reader: Reader) -> Sequence[Structure]:
    """Read the geometries that a recipe has for weak losses, without labels.

    Raises:
        DataError: For files that cannot be used.
    """
    named = recipe.data.unlabelled
    return mapped(_without_labels, reader.read(named, need_labels=False)) if named else []


def _divided(
    recipe: Recipe, structures: Sequence[Structure]
) -> tuple[Sequence[Structure], Sequence[Structure]]:
    """Return what is trained on of the training set, drawn, and what is held out of it."""
    held: Sequence[Structure] = []
    if isinstance(recipe.data.valid, float):
        structures, held = hold_out(structures, recipe.data.valid, recipe.split_seed)
    return _drawn(recipe, structures), held


def _drawn(recipe: Recipe, structures: Sequence[Structure]) -> Sequence[Structure]:
    if recipe.data.bootstrap is None:
        return structures
    isolated = recipe.reference_energies == "isolated"
    atoms = [place for place, item in enumerate(structures) if isolated and len(item) == 1]
    return drawn(structures, recipe.data.bootstrap, atoms)


def check_draw(
    recipe: Recipe,
    structures: Sequence[Structure],
    adapted: AdaptedPotential,
    valid: Sequence[Structure] | None = None,
) -> None:
    """Refuse a training set that leaves nothing to learn or to validate on.

    Args:
        recipe: What decides which structures are held out and which are drawn.
        structures: The training set.
        adapted: What is trained.
        valid: What validates, if nothing is to be held out for that.

    Raises:
        FinetuneError: See `check_labels` and `check_solvable`.
    """
    if valid is not None:
        train = _drawn(recipe, structures)
    else:
        train, held = _divided(recipe, structures)
        valid = held if isinstance(recipe.data.valid, float) else None
    if recipe.reference_energies == "isolated":
        _, train = reference_energies.take_free_atoms(train)
        valid = None if valid is None else reference_energies.take_free_atoms(valid)[1]
    check_labels(recipe, train, valid)
    if recipe.train.optimiser == "gauss-newton":
        check_solvable(recipe, train, adapted)


def _without_labels(structure: Structure) -> Structure:
    return replace(structure, energy=None, forces=None, stress=None)
