"""One structure with whatever labels it has."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from finetune.data import values
from finetune.data.checks import check
from finetune.data.keys import label
from finetune.sections import LabelKeys
from finetune.units import Units

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
