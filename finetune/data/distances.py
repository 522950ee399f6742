"""Pairs of atoms within a distance, under whatever periodic boundaries there are."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
from ase.geometry import complete_cell
from matscipy.neighbours import neighbour_list
from numpy.typing import NDArray
from scipy.spatial import cKDTree


def neighbours(
    quantities: str,
    positions: NDArray[np.float64],
    cell: NDArray[np.float64],
    pbc: NDArray[np.bool_],
    reach: float,
) -> Any:
    """Return what matscipy's `neighbour_list` gives for all directed pairs within ``reach``.

    Args:
        quantities: Letters of what to return, such as ``ijS`` or ``ijd``.
        positions: ``[n, 3]``, Å.
        cell: Lattice vectors as rows ``[3, 3]``, Å; rows of open directions do not matter.
        pbc: Periodic directions ``[3]``.
        reach: Å.
    """
    box = np.asarray(complete_cell(np.where(pbc[:, None], cell, 0.0)), dtype=np.float64)
    if not pbc.all():
        # The neighbour search wants a box around the atoms along directions that are not periodic.
        fractional = np.linalg.solve(box.T, positions.T).T
        low, high = fractional.min(axis=0), fractional.max(axis=0)
        margin = 1.0
        positions = positions - np.where(pbc, 0.0, low - margin) @ box
        box = box * np.where(pbc, 1.0, high - low + 2 * margin)[:, None]
    return neighbour_list(quantities, cutoff=reach, positions=positions, cell=box, pbc=pbc)


def nearest(
    positions: NDArray[np.float64],
    cell: NDArray[np.float64],
    pbc: NDArray[np.bool_],
    reach: float,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the distance to the nearest other atom (or image), and which atom that is.

    Args:
        positions: ``[n, 3]``, Å.
        cell: Lattice vectors as rows ``[3, 3]``, Å.
        pbc: Periodic directions ``[3]``.
        reach: Å; an atom without another one within it has an infinite distance and the index -1.

    Returns:
        Distances ``[n]`` in Å and indices ``[n]``.
    """
    n = len(positions)
    owners = np.arange(n)
    images = positions
    if pbc.any():
        box = np.asarray(complete_cell(np.where(pbc[:, None], cell, 0.0)), dtype=np.float64)
        fractional = np.linalg.solve(box.T, positions.T).T
        fractional = np.where(pbc, fractional % 1.0, fractional)
        margin = reach * np.linalg.norm(np.linalg.inv(box), axis=0)
        steps = [
            range(-int(np.ceil(m)), int(np.ceil(m)) + 1) if p else (0,)
            for m, p in zip(margin, pbc, strict=True)
        ]
        found, owned = [fractional], [owners]
        for shift in product(*steps):
            moved = fractional + shift
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


Array = NDArray[np.float64]
SAME = 1e-9
"""Distance up to which points are the same."""


def farthest(
    points: Array, count: int, known: Array | None = None
) -> tuple[list[int], list[float]]:
    """Choose points, each the farthest from all before.

    T. F. Gonzalez, Theor. Comput. Sci. 38, 293 (1985).

    Args:
        points: ``[n, d]``.
        count: How many, at most; fewer where the rest is there already.
        known: ``[k, d]``, chosen before. Without any, the first is the one nearest to the mean.

    Returns:
        The places of the points in the order chosen, and the distance of each from those before;
        for a first one that is the largest from it to any other.
    """
    chosen: list[int] = []
    far: list[float] = []
    distance = np.full(len(points), np.inf)
    if known is not None and len(known):
        for item in known:
            distance = np.minimum(distance, _distances(points, item))
    else:
        chosen.append(int(_distances(points, points.mean(axis=0)).argmin()))
        distance = _distances(points, points[chosen[0]])
        far.append(float(distance.max()))
    while len(chosen) < count and distance.max() > SAME:
        index = int(distance.argmax())
        chosen.append(index)
        far.append(float(distance[index]))
        distance = np.minimum(distance, _distances(points, points[index]))
    return chosen, far


def _distances(points: Array, item: Array) -> Array:
    found: Array = np.linalg.norm(points - item, axis=1)
    return found
