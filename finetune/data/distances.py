"""Distances: pairs of atoms within reach, with periodic images; points far from each other."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
from ase.geometry import complete_cell
from matscipy.neighbours import neighbour_list
from numpy.typing import NDArray
from scipy.spatial import cKDTree

Array = NDArray[np.float64]
SAME = 1e-9
"""Distance up to which points are the same."""


def full_cell(cell: Array, pbc: NDArray[np.bool_]) -> Array:
    """Return lattice vectors ``[3, 3]``, with unit vectors along open directions."""
    return np.asarray(complete_cell(np.where(pbc[:, None], cell, 0.0)), dtype=np.float64)


def fractional(cell: Array, vectors: Array) -> Array:
    """Return vectors ``[n, 3]`` in units of the lattice vectors ``[3, 3]``."""
    return np.asarray(np.linalg.solve(cell.T, vectors.T).T)


def neighbours(
    quantities: str, positions: Array, cell: Array, pbc: NDArray[np.bool_], reach: float
) -> Any:
    """Return matscipy's `neighbour_list` of all directed pairs within ``reach``.

    ``quantities`` are its letters, such as ``ijS``. Positions ``[n, 3]``, ``cell`` (lattice vectors
    as rows; those of open directions do not matter) and ``reach`` are in Å.
    """
    box = full_cell(cell, pbc)
    if not pbc.all():
        # Along open directions the neighbour search needs a box around the atoms.
        places = fractional(box, positions)
        low, high = places.min(axis=0), places.max(axis=0)
        margin = 1.0
        positions = positions - np.where(pbc, 0.0, low - margin) @ box
        box = box * np.where(pbc, 1.0, high - low + 2 * margin)[:, None]
    return neighbour_list(quantities, cutoff=reach, positions=positions, cell=box, pbc=pbc)


def nearest(
    positions: Array, cell: Array, pbc: NDArray[np.bool_], reach: float
) -> tuple[Array, NDArray[np.int64]]:
    """Return the distance to the nearest other atom or image ``[n]``, Å, and its index ``[n]``.

    ``cell`` has lattice vectors as rows, Å. Where no other atom is within ``reach`` (Å), the
    distance is infinite and the index -1.
    """
    n = len(positions)
    owners = np.arange(n)
    images = positions
    if pbc.any():
        box = full_cell(cell, pbc)
        inside = fractional(box, positions)
        inside = np.where(pbc, inside % 1.0, inside)
        margin = reach * np.linalg.norm(np.linalg.inv(box), axis=0)
        steps = [
            range(-int(np.ceil(m)), int(np.ceil(m)) + 1) if p else (0,)
            for m, p in zip(margin, pbc, strict=True)
        ]
        found, owned = [inside], [owners]
        for shift in product(*steps):
            moved = inside + shift
            near = (((moved > -margin) & (moved < 1 + margin)) | ~pbc).all(axis=1)
            if any(shift):
                found.append(moved[near])
                owned.append(owners[near])
        images, owners = np.concatenate(found) @ box, np.concatenate(owned)
        positions = images[:n]
    tree = cKDTree(images)
    distances, places = tree.query(positions, k=2, distance_upper_bound=reach)
    itself = places[:, 0] == np.arange(n)
    column = np.where(itself, 1, 0)
    chosen = places[np.arange(n), column]
    beyond = chosen >= len(images)
    partner = np.where(beyond, -1, owners[np.minimum(chosen, len(owners) - 1)])
    return distances[np.arange(n), column], partner


def farthest(
    points: Array, count: int, known: Array | None = None
) -> tuple[list[int], list[float]]:
    """Choose at most ``count`` points ``[n, d]``, each the farthest from all chosen before.

    T. F. Gonzalez, Theor. Comput. Sci. 38, 293 (1985). Points in ``known`` ``[k, d]`` count as
    chosen before; without any, the first is the one nearest to the mean. There are fewer where the
    rest equal points chosen already.

    Returns:
        The indices of the points in the order chosen, and the distance of each from those before;
        for a first one that is the largest distance from it to any other.
    """
    chosen: list[int] = []
    far: list[float] = []
    distance = np.full(len(points), np.inf)
    if known is not None and len(known):
        for item in known:
            distance = np.minimum(distance, np.linalg.norm(points - item, axis=1))
    else:
        chosen.append(int(np.linalg.norm(points - points.mean(axis=0), axis=1).argmin()))
        distance = np.linalg.norm(points - points[chosen[0]], axis=1)
        far.append(float(distance.max()))
    while len(chosen) < count and distance.max() > SAME:
        index = int(distance.argmax())
        chosen.append(index)
        far.append(float(distance[index]))
        distance = np.minimum(distance, np.linalg.norm(points - points[index], axis=1))
    return chosen, far
