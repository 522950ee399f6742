"""Cheap calculators for dynamics: springs between bonded atoms, sound or made to fail."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes

LENGTHS = {(0, 1): 0.96, (0, 2): 0.96, (1, 2): 1.52}


class Springs(Calculator):
    """Water held by springs; eV, Å.

    Args:
        stiffness: eV/Å²; below zero the molecule flies apart.
        breaks: NaN as soon as a bond is longer than this, Å.
    """

    implemented_properties: ClassVar[list[str]] = ["energy", "forces"]

    def __init__(self, stiffness: float = 20.0, breaks: float = np.inf) -> None:
        super().__init__()
        self.stiffness, self.breaks = stiffness, breaks

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        super().calculate(atoms, properties, system_changes)
        positions = self.atoms.positions
        energy, forces = 0.0, np.zeros_like(positions)
        for (first, second), length in LENGTHS.items():
            vector = positions[second] - positions[first]
            distance = np.linalg.norm(vector)
            pull = self.stiffness * (distance - length)
            energy += 0.5 * pull * (distance - length)
            forces[first] += pull * vector / distance
            forces[second] -= pull * vector / distance
            if distance > self.breaks:
                energy = np.nan
        results: dict[str, Any] = {"energy": energy, "forces": forces}
        self.results = results
