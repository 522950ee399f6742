"""Rigid scans of a structure: bonds, torsions, and the volume of a cell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from finetune.evaluation.scans.curves import Array, Curve, energies_of
from finetune.evaluation.stability.failure import find_bonds
from finetune.foundation.potential import Potential

STRETCH = (0.6, 1.8)
"""Shares of a bond's length."""
SQUEEZE = (0.75, 1.2)
"""Shares of a cell's lengths."""
BOND_WALL, CELL_WALL = 0.85, 0.9
"""Share of the given length below which the energy has to rise inwards."""


def scans(potentials: Mapping[str, Potential], atoms: Atoms, where: str) -> list[Curve]:
    """Return the scans of one structure: of its volume if periodic, else of bonds and torsions.

    Bonds within rings are left alone, and of bonds between the same elements with the same numbers
    of neighbours only the first is taken. Everything but the coordinate stays as it is given.

    Args:
        potentials: By name.
        atoms: The structure.
        where: What the curves call it.
    """
    if atoms.pbc.all():
        return [_volume(potentials, atoms, where)]
    if atoms.pbc.any():
        return []
    curves = []
    for first, second, moving in _hinges(atoms):
        curves.append(_bond(potentials, atoms, (first, second), moving, where))
        if not _terminal(atoms, first) and not _terminal(atoms, second):
            curves.append(_torsion(potentials, atoms, (first, second), moving, where))
    return curves


def _volume(potentials: Mapping[str, Potential], atoms: Atoms, where: str) -> Curve:
    shares = np.linspace(*SQUEEZE, 31)
    frames = []
    for share in shares:
        frames.append(atoms.copy())
        frames[-1].set_cell(share * atoms.cell.array, scale_atoms=True)
    energies = _relative(potentials, frames, atoms)
    return Curve("volume", where, "a / a₀", shares, energies, wall=CELL_WALL)


def _bond(
    potentials: Mapping[str, Potential],
    atoms: Atoms,
    bond: tuple[int, int],
    moving: NDArray[np.intp],
    where: str,
) -> Curve:
    vector = atoms.positions[bond[1]] - atoms.positions[bond[0]]
    length = float(np.linalg.norm(vector))
    values = length * np.linspace(*STRETCH, 37)
    start = atoms.positions[moving]
    frames = [_moved(atoms, moving, start + (value / length - 1.0) * vector) for value in values]
    name = f"{_label(atoms, bond)}, {where}"
    energies = _relative(potentials, frames, atoms)
    return Curve("bond", name, "Å", values, energies, wall=BOND_WALL * length)


def _torsion(
    potentials: Mapping[str, Potential],
    atoms: Atoms,
    bond: tuple[int, int],
    moving: NDArray[np.intp],
    where: str,
) -> Curve:
    values = np.arange(0.0, 361.0, 15.0)
    centre = atoms.positions[bond[0]]
    axis = atoms.positions[bond[1]] - centre
    frames = []
    for value in values:
        turned = atoms[moving]
        turned.rotate(value, axis, center=centre)
        frames.append(_moved(atoms, moving, turned.positions))
    name = f"{_label(atoms, bond)}, {where}"
    return Curve("torsion", name, "°", values, _relative(potentials, frames, atoms))


def _hinges(atoms: Atoms) -> Iterator[tuple[int, int, NDArray[np.intp]]]:
    """Yield bonds that are in no ring, one of each type, and the atoms on the smaller side."""
    pairs = find_bonds(atoms).pairs
    degrees = np.bincount(pairs.ravel(), minlength=len(atoms))
    seen = set()
    for index, (first, second) in enumerate(pairs.tolist()):
        ends = ((int(atoms.numbers[i]), int(degrees[i])) for i in (first, second))
        kind = tuple(sorted(ends))
        others = np.delete(pairs, index, axis=0)
        links = (np.ones(len(others)), (others[:, 0], others[:, 1]))
        part = connected_components(coo_array(links, shape=(len(atoms),) * 2), directed=False)[1]
        if kind in seen or part[first] == part[second]:
            continue
        seen.add(kind)
        sides = [np.flatnonzero(part == part[end]) for end in (first, second)]
        if len(sides[0]) < len(sides[1]):
            yield second, first, sides[0]
        else:
            yield first, second, sides[1]


def _terminal(atoms: Atoms, index: int) -> bool:
    return int((find_bonds(atoms).pairs == index).sum()) < 2


def _moved(atoms: Atoms, moving: NDArray[np.intp], positions: Array) -> Atoms:
    """Return a copy in which some atoms are elsewhere."""
    frame = atoms.copy()
    frame.positions[moving] = positions
    return frame


def _relative(
    potentials: Mapping[str, Potential], frames: list[Atoms], given: Atoms
) -> dict[str, Array]:
    found = energies_of(potentials, [*frames, given])
    return {name: energies[:-1] - energies[-1] for name, energies in found.items()}


def _label(atoms: Atoms, bond: tuple[int, int]) -> str:
    return "-".join(f"{chemical_symbols[atoms.numbers[index]]}{index}" for index in bond)
