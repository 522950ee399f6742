"""The input and the output of a program: plain data that passes between processes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

Array = NDArray[np.float64]
UNITS = "eV, eV/Angstrom, eV/Angstrom^3"
"""Of energies, forces and stress; a tag of every label."""


class LabelError(Exception):
    """A structure that cannot be labelled; the message says why, in one line."""


@dataclass(frozen=True)
class Task:
    """A structure to compute: ``positions`` ``[n, 3]`` and ``cell`` ``[3, 3]`` in Å, charge in e.

    ``spin`` is the multiplicity 2S + 1. A ``free_atom`` is in its ground state, for reference
    energies.
    """

    numbers: list[int]
    positions: list[list[float]]
    cell: list[list[float]]
    pbc: list[bool]
    charge: int
    spin: int
    free_atom: bool = False

    @property
    def key(self) -> str:
        """sha256 of everything that decides the label at a given level."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def atoms(self) -> Atoms:
        """Return it as an `ase.Atoms`, charge and spin in ``info``."""
        info = {"charge": self.charge, "spin": self.spin}
        return Atoms(self.numbers, self.positions, cell=self.cell, pbc=self.pbc, info=info)


@dataclass(frozen=True)
class Label:
    """What was computed: energy in eV, forces ``[n, 3]`` in eV/Å, stress ``[3, 3]`` in eV/Å³.

    The stress has ASE's sign. ``without_forces`` says why there are none although they were
    requested; ``facts`` are tags on how it was computed, such as ``reference``; ``program`` has its
    version.
    """

    energy: float
    forces: list[list[float]] | None = None
    stress: list[list[float]] | None = None
    without_forces: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    program: str = ""
    seconds: float = 0.0


def check_electrons(task: Task) -> None:
    """Refuse a charge and multiplicity that the electrons of a structure cannot have."""
    count, unpaired = sum(task.numbers) - task.charge, task.spin - 1
    if count < max(unpaired, 1) or (count - unpaired) % 2:
        raise LabelError(
            f"{count} electrons cannot have the multiplicity {task.spin}. Give charge and spin "
            "(2S + 1) in the structure, or by --charge and --spin."
        )


def listed(array: Any) -> list[Any]:
    """Return an array as nested lists of Python's own floats."""
    found: list[Any] = np.asarray(array, dtype=np.float64).tolist()
    return found
