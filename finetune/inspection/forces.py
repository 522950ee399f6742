"""Do energies and forces belong together? Between near neighbours ΔE is −F·ΔR."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.spatial.distance import pdist

from finetune.core.units import Units
from finetune.data.structures import Structure

Array = NDArray[np.float64]
MOST = 600
"""Structures of a composition that are looked at."""
FAR = 0.4
"""Å, root mean square displacement of an atom beyond which neighbours are not near."""
ENOUGH = 6
"""Pairs below which nothing is said."""


_UNITS = ("eV", "kcal/mol", "kJ/mol", "Hartree", "Rydberg", "meV")


@dataclass(frozen=True)
class Slope:
    """A straight line through the origin.

    Attributes:
        value: Its slope; 1 where labels are what they should be.
        correlation: Of both sides; below 0.7 the slope says nothing.
        pairs: Pairs of structures that it is fitted to.
        expected: What the labels predict, one for each pair, eV.
        found: What the energies say, eV.
    """

    value: float
    correlation: float
    pairs: int
    expected: tuple[float, ...] = ()
    found: tuple[float, ...] = ()

    @property
    def told(self) -> bool:
        """Whether the slope says anything."""
        return self.pairs >= ENOUGH and abs(self.correlation) > 0.7

    @property
    def tolerance(self) -> float:
        """How far off the slope may be, relative to itself, by how well the points lie on it."""
        return 0.04 + 1.5 * (1 - abs(self.correlation))

    @property
    def right(self) -> bool:
        """Whether the slope is 1, as far as it can be told."""
        return abs(self.value - 1) < 0.1 + self.tolerance


def force_slope(structures: Sequence[Structure]) -> Slope | None:
    """Fit ΔE = slope · (−F̄·ΔR) over near neighbours of one composition, atom order and cell.

    Neighbours are aligned rigidly; F̄ is the mean of the forces at both ends, so that the error is
    of third order in ΔR. None where there are too few neighbours.
    """
    pairs = [pair for group in _groups(structures) for pair in _neighbours(group)]
    pairs = sorted(pairs, key=lambda pair: pair[0])[: max(50, len(pairs) // 3)]
    if len(pairs) < ENOUGH:
        return None
    _, expected, found = np.array(pairs).T
    return fit(expected, found)


def fit(expected: Array, found: Array) -> Slope | None:
    """Fit a line through the origin, without what lies far off it."""
    keep = np.ones(len(expected), dtype=bool)
    for _ in range(2):
        x, y = expected[keep], found[keep]
        if len(x) < ENOUGH or not x.any() or not y.any():
            return None
        slope = float(x @ y / (x @ x))
        residual = np.abs(found - slope * expected)
        keep = residual <= 8 * max(float(np.median(residual[keep])), 1e-12)
    correlation = float(x @ y / np.sqrt((x @ x) * (y @ y)))
    return Slope(slope, correlation, len(x), tuple(x.tolist()), tuple(y.tolist()))


def diagnosis(slope: float, atoms: int | None, tolerance: float = 0.04) -> str:
    """Say what a slope other than 1 means, and the mend; nothing where that is unknown.

    Args:
        slope: Of ΔE on −F·ΔR.
        tolerance: How far off it may be, relative to itself.
        atoms: Of each structure, where all have as many.
    """
    sign = "-" if slope < 0 else ""
    size = abs(slope)
    turned = "the forces have the wrong sign (they are gradients)"
    if abs(size - 1) < 0.1 + tolerance:
        return f"{turned}: set data.units.forces=-eV/Å" if sign else ""
    known = []
    for energy in _UNITS:
        for force in _UNITS:
            for length in ("Å", "Bohr") if force in {"eV", "Hartree", "Rydberg"} else ("Å",):
                units = Units(energy=energy, forces=f"{sign}{force}/{length}")
                factors = units.factors()
                ratio = abs(factors["forces"]) / factors["energy"]
                if abs(size / ratio - 1) < tolerance:
                    atomic = energy == force == "Hartree" and length == "Bohr"
                    strange = 0 if atomic else 1 + ("eV" not in (energy, force)) + (length != "Å")
                    known.append((strange, energy, units.forces))
    if atoms is not None and atoms > 1 and abs(size * atoms - 1) < 0.06 + tolerance:
        return "the energies are per atom; give those of whole structures"
    if not known:
        return turned if sign else ""
    said = [
        f"energies in {energy} with forces in {str(forces).removeprefix('-')} "
        f"(data.units.energy={energy} data.units.forces={forces})"
        for _, energy, forces in sorted(known, key=lambda item: item[0])[:2]
    ]
    return f"{f'{turned}, and ' if sign else ''}the units differ, as those of " + " or ".join(said)


def _groups(structures: Sequence[Structure]) -> Iterator[list[Structure]]:
    groups: dict[Any, list[Structure]] = defaultdict(list)
    for item in structures:
        if item.energy is None or item.forces is None or len(item) < 2:
            continue
        cell = item.cell.round(4).tobytes() if item.pbc.any() else b""
        state = (item.charge, item.spin, item.pbc.tobytes(), cell)
        groups[(item.numbers.tobytes(), item.level_of_theory, state)].append(item)
    for group in groups.values():
        if len(group) > 1:
            chosen = np.linspace(0, len(group) - 1, min(len(group), MOST), dtype=int)
            yield [group[index] for index in chosen]


def _neighbours(group: Sequence[Structure]) -> Iterator[tuple[float, float, float]]:
    """Yield how far apart, −F̄·ΔR and ΔE of each structure and the nearest other one."""
    periodic = bool(group[0].pbc.any())
    if periodic:
        features = np.stack([minimum_image(item, group[0]).ravel() for item in group])
    else:
        features = np.stack([pdist(item.positions) for item in group])
    columns = np.linspace(0, features.shape[1] - 1, min(features.shape[1], 300), dtype=int)
    features = features[:, columns]
    nearest = cKDTree(features).query(features, k=2)[1]
    done = set()
    for index, places in enumerate(nearest):
        other = int(places[1] if places[0] == index else places[0])
        pair = (min(index, other), max(index, other))
        if pair in done:
            continue
        done.add(pair)
        first, second = group[index], group[other]
        assert first.forces is not None and second.forces is not None
        assert first.energy is not None and second.energy is not None
        if periodic:
            moved, forces = minimum_image(second, first), second.forces
        else:
            moved, rotation = aligned(second.positions, first.positions)
            forces = second.forces @ rotation
        distance = float(np.sqrt((moved**2).sum() / len(moved)))
        if 1e-5 < distance < FAR:
            work = -0.5 * float(((first.forces + forces) * moved).sum())
            yield distance, work, second.energy - first.energy


def aligned(positions: Array, onto: Array) -> tuple[Array, Array]:
    """Move positions rigidly onto others; return the displacements left and the rotation.

    Kabsch, Acta Cryst. A 32, 922 (1976). Rows are atoms; a vector v turns into v @ rotation.
    """
    centred, target = positions - positions.mean(axis=0), onto - onto.mean(axis=0)
    left, _, right = np.linalg.svd(centred.T @ target)
    turn = np.diag([1.0, 1.0, np.sign(np.linalg.det(left @ right)) or 1.0])
    rotation = left @ turn @ right
    return centred @ rotation - target, rotation


def minimum_image(structure: Structure, reference: Structure) -> Array:
    """Return the displacements from another structure in the same cell, net drift taken off."""
    moved = structure.positions - reference.positions
    if structure.pbc.any():
        from ase.geometry import complete_cell

        cell = np.asarray(complete_cell(np.where(structure.pbc[:, None], structure.cell, 0.0)))
        fractional = np.linalg.solve(cell.T, moved.T).T
        moved = moved - np.where(structure.pbc, np.round(fractional), 0.0) @ cell
    return np.asarray(moved - moved.mean(axis=0))
