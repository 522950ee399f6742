"""The splits of a recipe: structures that train, validate, test, or serve without labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from finetune.adapters.adapter import AdaptedPotential
from finetune.data.reading import Reader
from finetune.data.sequences import mapped
from finetune.data.splitting import drawn, hold_out
from finetune.data.structures import Structure
from finetune.inspection.requirements import check_labels
from finetune.potentials import reference_energies
from finetune.recipe.recipe import Recipe


def labelled(recipe: Recipe, reader: Reader) -> dict[str, Sequence[Structure]]:
    """Read what a recipe trains, validates and tests on: ``train``, ``valid``, ``test``.

    Raises:
        DataError: For files that cannot be used.
    """
    data = recipe.data
    train, valid = _held_out(recipe, reader.read(data.train))
    if not isinstance(data.valid, float):
        valid = reader.read(data.valid)
    return {"train": train, "valid": valid, "test": reader.read(data.test) if data.test else []}


def unlabelled(recipe: Recipe, reader: Reader) -> Sequence[Structure]:
    """Read the structures of ``data.unlabelled``, without whatever labels they have.

    Raises:
        DataError: For files that cannot be used.
    """

    def bare(structure: Structure) -> Structure:
        return replace(structure, energy=None, forces=None, stress=None)

    named = recipe.data.unlabelled
    return mapped(bare, reader.read(named, need_labels=False)) if named else []


def check_draw(
    recipe: Recipe,
    structures: Sequence[Structure],
    adapted: AdaptedPotential,
    valid: Sequence[Structure] | None = None,
) -> None:
    """Refuse a training set that leaves nothing to learn or to validate on.

    Args:
        recipe: Which structures are held out and which are drawn.
        structures: The training set.
        adapted: What is trained.
        valid: What validates, if nothing is to be held out for that.

    Raises:
        FinetuneError: See `check_labels`, and `Optimiser.check` of the recipe's optimiser.
    """
    if valid is not None:
        train = _drawn(recipe, structures)
    else:
        train, held = _held_out(recipe, structures)
        valid = held if isinstance(recipe.data.valid, float) else None
    if recipe.reference_energies == "isolated":
        train = reference_energies.take_free_atoms(train)[1]
        valid = None if valid is None else reference_energies.take_free_atoms(valid)[1]
    check_labels(recipe, train, valid)
    recipe.optimiser.load().check(recipe, train, adapted)


def _held_out(
    recipe: Recipe, structures: Sequence[Structure]
) -> tuple[Sequence[Structure], Sequence[Structure]]:
    """Return what trains of the training set, drawn, and what is held out to validate."""
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
