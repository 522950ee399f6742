"""One structure with whatever labels it has."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from numpy.typing import NDArray

from finetune.core.errors import DataError
from finetune.core.units import Units
from finetune.data import values
from finetune.data.distances import nearest
from finetune.data.keys import label
from finetune.recipe.sections import LabelKeys

CLOSEST = 0.2
"""Å; atoms nearer than this are a damaged file, not chemistry."""
LARGEST_EXTENT = 1e4
"""Å, of a structure or a cell."""
LARGEST_LABEL = {"energy": 1e7, "forces": 1e5, "stress": 1e3}
"""eV/atom, eV/Å and eV/Å³ that no structure has: a uranium atom has −8·10⁵ eV, and atoms 0.2 Å
apart push each other with less than 10⁴ eV/Å."""


def check(structure: Structure, keys: LabelKeys) -> None:
    """Refuse a structure that no potential could evaluate, or with absurd labels.

    Args:
        structure: Whose arrays have the right shapes.
        keys: Names of the labels, for messages.

    Raises:
        DataError: Naming the structure and what is wrong.
    """
    check_geometry(structure)
    check_sizes(structure, keys)
    for name, least in (("charge", -values.LARGEST_NUMBER), ("spin", 1)):
        value = getattr(structure, name)
        if not least <= value <= values.LARGEST_NUMBER:
            raise DataError(
                f"{structure.where}: '{name}' is {value}; it must lie from {least} to "
                f"{values.LARGEST_NUMBER}."
            )


def check_geometry(structure: Structure) -> None:
    """Refuse geometries that no potential could evaluate.

    Raises:
        DataError: Naming the structure and the atoms.
    """
    where = structure.where
    if len(structure) == 0:
        raise DataError(f"{where} has no atoms.")
    if not np.isfinite(structure.positions).all() or not np.isfinite(structure.cell).all():
        raise DataError(f"{where} has positions or a cell that are NaN or infinite.")
    strange = (structure.numbers < 1) | (structure.numbers >= len(chemical_symbols))
    if strange.any():
        raise DataError(
            f"{where} has an atom of unknown element (atomic number "
            f"{structure.numbers[strange][0]}{' or X' if structure.numbers.min() == 0 else ''})."
        )
    if structure.pbc.any() and np.linalg.norm(structure.cell[structure.pbc], axis=1).min() < 1e-6:
        raise DataError(f"{where} is periodic along a direction whose cell vector is zero.")
    periodic = structure.cell[structure.pbc]
    if np.linalg.matrix_rank(periodic, tol=1e-6) < len(periodic):
        raise DataError(f"{where} is periodic but its cell vectors are parallel.")
    lengths = np.linalg.norm(periodic, axis=1)
    if len(lengths) and lengths.min() < CLOSEST:
        raise DataError(
            f"{where} has a cell vector of {lengths.min():.3g} Å: an atom would be that close to "
            "its own image. Check the unit of the cell (Å)."
        )
    geometry = (structure.positions, structure.cell, structure.pbc)
    extent = float(np.ptp(structure.positions, axis=0).max())
    if max(extent, *lengths, 0.0) > LARGEST_EXTENT:
        raise DataError(
            f"{where} spreads over {max(extent, *lengths, 0.0):.3g} Å. Check the file's units (Å) "
            "and its numbers, or drop it."
        )
    distance, partner = nearest(*geometry, CLOSEST)
    first = int(distance.argmin())
    if distance[first] < CLOSEST:
        raise DataError(
            f"{where}: atoms {first} and {partner[first]} are {distance[first]:.3f} Å "
            f"apart (closer than {CLOSEST} Å). Check the file's units (Å) and its cell, or drop it."
        )


def check_sizes(structure: Structure, keys: LabelKeys) -> None:
    """Refuse labels so large that they are damaged or of another unit.

    Raises:
        DataError: Naming the structure and the label.
    """
    units = {"energy": "eV/atom", "forces": "eV/Å", "stress": "eV/Å³"}
    for name, largest in LARGEST_LABEL.items():
        value = getattr(structure, name)
        if value is None:
            continue
        found = float(np.abs(value).max()) / (len(structure) if name == "energy" else 1)
        if found > largest:
            raise DataError(
                f"{structure.where}: '{getattr(keys, name)}' reaches {found:.3g} {units[name]}; "
                f"nothing has more than {largest:.0e}. Is the file damaged, or are the numbers in "
                "another unit? Mend or drop the structure."
            )


Array = NDArray[np.float64]


@dataclass(frozen=True)
class Structure:
    """A structure and its labels; a label that is absent is None, never zero.

    Attributes:
        numbers: Atomic numbers ``[n]``.
        positions: ``[n, 3]``, Å.
        cell: Lattice vectors as rows ``[3, 3]``, Å.
        pbc: Periodic directions ``[3]``.
        energy: Total energy, eV.
        forces: ``[n, 3]``, eV/Å.
        stress: ``[3, 3]``, eV/Å³, ASE's sign; None unless all three directions are periodic.
        charge: Total charge, e.
        spin: Spin multiplicity 2S + 1.
        where: File and index, for messages.
        level_of_theory: What the labels were computed with, as far as the file says.
        tags: Further words and numbers that the file has on the structure as a whole, such as
            ``config_type``, ``temperature`` and ``scan_value``.
    """

    numbers: NDArray[np.int64]
    positions: Array
    cell: Array
    pbc: NDArray[np.bool_]
    energy: float | None = None
    forces: Array | None = None
    stress: Array | None = None
    charge: int = 0
    spin: int = 1
    where: str = "structure"
    level_of_theory: str | None = None
    tags: Mapping[str, str | float] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.numbers)


def from_atoms(atoms: Atoms, keys: LabelKeys, where: str, units: Units | None = None) -> Structure:
    """Take geometry and labels from an `ase.Atoms`, checking both.

    Args:
        atoms: Geometry, with labels in info, arrays or calculator results.
        keys: Names of the labels.
        where: File and index, for messages.
        units: What geometry and labels are in; eV and Å where None.

    Raises:
        DataError: For no atoms, non-finite or colliding positions, a flat periodic cell, and labels
            of the wrong shape or with NaN or infinite values.
    """
    energy = values.energy(label(atoms, keys.energy), keys.energy, where)
    forces = values.forces(label(atoms, keys.forces), keys.forces, len(atoms), where)
    stress = (
        values.stress(label(atoms, keys.stress), keys.stress, where) if atoms.pbc.all() else None
    )
    scale = (units or Units()).factors()
    structure = replace(
        without_labels(atoms, where, keys, scale["length"]),
        energy=None if energy is None else energy * scale["energy"],
        forces=None if forces is None else forces * scale["forces"],
        stress=None if stress is None else stress * scale["stress"],
        level_of_theory=_text(atoms.info.get("level_of_theory")),
        tags=_tags(atoms, {keys.energy, keys.forces, keys.stress}),
    )
    check(structure, keys)
    return structure


def without_labels(
    atoms: Atoms, where: str, keys: LabelKeys | None = None, length: float = 1.0
) -> Structure:
    """Take geometry, charge and spin from an `ase.Atoms`; the geometry is not checked.

    Args:
        atoms: What to take them from.
        where: What it is called in messages.
        keys: Names of charge and spin.
        length: Unit of the geometry, Å.

    Raises:
        DataError: If charge or spin is no whole number.
    """
    keys = keys or LabelKeys()
    return Structure(
        numbers=np.asarray(atoms.numbers, dtype=np.int64),
        positions=np.array(atoms.positions, dtype=np.float64) * length,
        cell=np.array(atoms.cell.array, dtype=np.float64) * length,
        pbc=np.array(atoms.pbc, dtype=bool),
        charge=values.whole_number(atoms.info.get(keys.charge, 0), keys.charge, where),
        spin=values.whole_number(atoms.info.get(keys.spin, 1), keys.spin, where, least=1),
        where=where,
    )


def to_atoms(structure: Structure) -> Atoms:
    """Return a structure as an `ase.Atoms`, with charge, spin and tags but without labels."""
    info = {**structure.tags, "charge": structure.charge, "spin": structure.spin}
    return Atoms(
        structure.numbers, structure.positions, cell=structure.cell, pbc=structure.pbc, info=info
    )


def fingerprint(splits: Mapping[str, Iterable[Structure]]) -> str:
    """Return the sha256 (hex) over geometries and labels of structures by split."""
    digest = hashlib.sha256()
    for split, structures in splits.items():
        digest.update(split.encode())
        for item in structures:
            digest.update(f"{len(item)} {item.energy!r} {item.charge} {item.spin}".encode())
            for array in (item.numbers, item.positions, item.cell, item.pbc):
                digest.update(np.ascontiguousarray(array).tobytes())
            for given in (item.forces, item.stress):
                digest.update(b"-" if given is None else np.ascontiguousarray(given).tobytes())
    return digest.hexdigest()


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _tags(atoms: Atoms, labels: set[str]) -> dict[str, str | float]:
    return {
        str(key): value if isinstance(value, str) else float(value)
        for key, value in atoms.info.items()
        if isinstance(value, (str, int, float, np.integer, np.floating))
        and not isinstance(value, bool)
        and key not in labels
    }


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
