"""Two atoms brought together, for every pair of elements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations_with_replacement

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols, covalent_radii

from finetune.evaluation.scans.curves import Curve, energies_of
from finetune.foundation.potential import Potential

INNERMOST, WALL = 0.3, 0.7
"""Shares of the sum of covalent radii: where curves begin, and the foot of the wall (below the
bond of any diatomic molecule)."""
POINTS = 120


def dimers(potentials: Mapping[str, Potential], elements: Sequence[int]) -> list[Curve]:
    """Return the energy of each pair of elements, relative to the free atoms, out to the cutoff.

    Args:
        potentials: By name.
        elements: Atomic numbers.
    """
    cutoff = max(potential.cutoff for potential in potentials.values())
    free = energies_of(potentials, [Atoms([number]) for number in elements])
    curves = []
    for first, second in combinations_with_replacement(range(len(elements)), 2):
        pair = [elements[first], elements[second]]
        radius = float(covalent_radii[pair].sum())
        values = np.linspace(INNERMOST * radius, cutoff, POINTS)
        frames = [Atoms(pair, [[0.0, 0.0, 0.0], [0.0, 0.0, value]]) for value in values]
        energies = {
            name: found - free[name][first] - free[name][second]
            for name, found in energies_of(potentials, frames).items()
        }
        name = "-".join(chemical_symbols[number] for number in pair)
        curves.append(Curve("dimer", name, "Å", values, energies, wall=WALL * radius))
    return curves
