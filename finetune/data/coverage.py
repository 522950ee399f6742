"""Which structures carry which labels."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ase.data import chemical_symbols

from finetune.data.labels import Structure


@dataclass(frozen=True)
class Coverage:
    """How many structures there are, and how many of them carry which labels.

    Attributes:
        structures: Number of structures.
        atoms: Number of atoms in all of them.
        energy: Structures with an energy.
        forces: Structures with forces.
        stress: Structures with a stress.
        elements: Symbols, by atomic number.
        compositions: Number of different compositions.
    """

    structures: int
    atoms: int
    energy: int
    forces: int
    stress: int
    elements: tuple[str, ...]
    compositions: int


def coverage(structures: Iterable[Structure]) -> Coverage:
    """Count structures and labels."""
    count, atoms = 0, 0
    labels = dict.fromkeys(("energy", "forces", "stress"), 0)
    elements: set[int] = set()
    compositions: set[tuple[int, ...]] = set()
    for item in structures:
        count += 1
        atoms += len(item)
        for name in labels:
            labels[name] += getattr(item, name) is not None
        composition = tuple(sorted(item.numbers.tolist()))
        elements.update(composition)
        compositions.add(composition)
    return Coverage(
        structures=count,
        atoms=atoms,
        energy=labels["energy"],
        forces=labels["forces"],
        stress=labels["stress"],
        elements=tuple(chemical_symbols[number] for number in sorted(elements)),
        compositions=len(compositions),
    )
