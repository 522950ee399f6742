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
