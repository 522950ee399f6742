"""What is labelled: structures of a recipe's files, and free atoms."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import atomic_numbers, chemical_symbols, ground_state_magnetic_moments

from finetune.core.errors import DataError
from finetune.data.reading import Reader, find_files
from finetune.data.structures import Structure
from finetune.labelling.recipe import LabelRecipe
from finetune.labelling.task import UNITS, Label, Task, listed

UNREAD = dict.fromkeys(("energy", "forces", "stress", "virial"))
"""Keys with which existing labels are ignored."""
ISOLATED = "IsolatedAtom"
"""``config_type`` of free atoms."""


@dataclass(frozen=True)
class Item:
    """A structure to label, and its place among those read; None for a free atom."""

    structure: Structure
    task: Task
    index: int | None


def check_sources(recipe: LabelRecipe, recipe_folder: Path | None, outputs: Iterable[Path]) -> None:
    """Refuse missing files, and an output that is one of the files to label."""
    taken = {path.resolve() for path in outputs}
    for source in _sources(recipe):
        for file in find_files(source, recipe_folder)[0]:
            if file.path.resolve() in taken:
                raise DataError(f"'{file.path}' is an input: name another output.")


def plan(
    recipe: LabelRecipe, recipe_folder: Path | None
) -> tuple[list[Item], list[Item], list[str]]:
    """Return the structures of a recipe, free atoms, and notes on structures that were left out."""
    keys = recipe.keys.model_copy(update=UNREAD)
    reader = Reader(keys, recipe.units, recipe.faulty, recipe_folder)
    found = [
        _item(structure, index, recipe)
        for index, structure in enumerate(reader.stream(_sources(recipe), need_labels=False))
    ]
    left_out = [note for record in reader.records for note in record.notes()]
    return found, _free_atoms(found, recipe), left_out


def labelled(item: Item, label: Label, recipe: LabelRecipe) -> Structure:
    """Return a structure with its label, and tags that say where the label is from."""
    arrays: dict[str, Any] = {
        name: None if value is None or recipe.forces is False else np.array(value)
        for name, value in (("forces", label.forces), ("stress", label.stress))
    }
    facts = {**recipe.level.tags(), **label.facts, "program": label.program, "units": UNITS}
    tags = {name: item if isinstance(item, str) else float(item) for name, item in facts.items()}
    return replace(
        item.structure,
        energy=label.energy,
        **arrays,
        level_of_theory=recipe.level.name,
        tags={**item.structure.tags, **tags},
    )


def _sources(recipe: LabelRecipe) -> list[str]:
    return [recipe.structures] if isinstance(recipe.structures, str) else [*recipe.structures]


def _item(structure: Structure, index: int, recipe: LabelRecipe) -> Item:
    charge, spin = structure.charge, structure.spin
    if recipe.charge is not None and "charge" not in structure.tags:
        charge = recipe.charge
    if recipe.spin is not None and "spin" not in structure.tags:
        spin = recipe.spin
    without: dict[str, Any] = dict.fromkeys(("energy", "forces", "stress", "level_of_theory"))
    bare = replace(structure, **without, charge=charge, spin=spin)
    return Item(bare, _task(bare), index)


def _task(structure: Structure, free_atom: bool = False) -> Task:
    return Task(
        numbers=[int(number) for number in structure.numbers],
        positions=listed(structure.positions),
        cell=listed(structure.cell),
        pbc=[bool(value) for value in structure.pbc],
        charge=structure.charge,
        spin=structure.spin,
        free_atom=free_atom,
    )


def _free_atoms(items: Sequence[Item], recipe: LabelRecipe) -> list[Item]:
    """Return neutral atoms in their ground states, in the order of atomic numbers."""
    if isinstance(recipe.isolated_atoms, tuple):
        numbers = {atomic_numbers[symbol] for symbol in recipe.isolated_atoms}
    else:
        numbers = {number for item in items for number in item.task.numbers}
        numbers = numbers if recipe.isolated_atoms else set()
    found = []
    for number in sorted(numbers):
        structure = Structure(
            numbers=np.array([number]),
            positions=np.zeros((1, 3)),
            cell=np.zeros((3, 3)),
            pbc=np.zeros(3, dtype=bool),
            spin=round(float(ground_state_magnetic_moments[number])) + 1,
            where=f"isolated atom {chemical_symbols[number]}",
            tags={"config_type": ISOLATED},
        )
        found.append(Item(structure, _task(structure, free_atom=True), None))
    return found
