"""Duplicates: structures that differ by a motion, a permutation of like atoms, or a small change.

Two structures are compared by their distances between pairs of elements, sorted: the same for every
translation, rotation, reflection and permutation of like atoms. They count as duplicates where no
distance differs by more than a tolerance.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree
from scipy.spatial.distance import pdist

from finetune.core.errors import DataError
from finetune.data.distances import neighbours
from finetune.data.structures import Structure

Array = NDArray[Any]
Distances = Mapping[int, Array]
TOLERANCE = 0.001
"""Å, the largest difference of two distances."""
REACH = 5.0
"""Å, up to which distances in periodic structures are compared."""
RANKS = 12
"""Number of distances of each structure by which candidates are found."""
PAIRS = 20_000
"""Pairs compared at once."""
BLOCK = 256
"""Structures whose candidates are kept in memory at once."""


def clusters(structures: Iterable[Structure], tolerance: float = TOLERANCE) -> NDArray[np.int64]:
    """Return the number of the group of duplicates that each structure belongs to ``[S]``.

    Duplicates of duplicates share a group; structures of different composition, charge, spin or
    periodicity never do. Refuses a tolerance (Å) that is below zero or not finite.
    """
    if not 0 <= tolerance < np.inf:
        raise DataError(f"tolerance is {tolerance:g} Å; it must be finite and not below zero.")
    groups: dict[bytes, list[int]] = defaultdict(list)
    found: list[Distances] = []
    for index, item in enumerate(structures):
        state = np.array([item.charge, item.spin, *item.pbc])
        groups[np.sort(item.numbers).tobytes() + state.tobytes()].append(index)
        found.append(distances(item))
    numbers = np.empty(len(found), dtype=np.int64)
    count = 0
    for members in groups.values():
        labels = _connected(_padded([found[index] for index in members]), tolerance)
        numbers[members] = count + labels
        count += int(labels.max()) + 1
    return numbers


def distances(structure: Structure) -> Distances:
    """Return the sorted distances (Å) by pair of elements: all of them, or those in reach."""
    numbers = structure.numbers
    if structure.pbc.any():
        geometry = (structure.positions, structure.cell, structure.pbc)
        first, second, values = neighbours("ijd", *geometry, REACH)
    else:
        first, second = np.triu_indices(len(numbers), 1)
        values = pdist(structure.positions) if len(numbers) > 1 else np.empty(0)
    low = np.minimum(numbers[first], numbers[second])
    high = np.maximum(numbers[first], numbers[second])
    pairs = low * 1000 + high
    return {
        int(pair): np.sort(values[pairs == pair]).astype(np.float32) for pair in np.unique(pairs)
    }


def _padded(found: Sequence[Distances]) -> Array:
    """Return distances as rows; those of which a structure has fewer are filled in at the edge."""
    lengths: dict[int, int] = defaultdict(int)
    for item in found:
        for pair, values in item.items():
            lengths[pair] = max(lengths[pair], len(values))
    rows = np.full((len(found), sum(lengths.values())), REACH, dtype=np.float32)
    for row, item in zip(rows, found, strict=True):
        start = 0
        for pair, length in lengths.items():
            values = item.get(pair, np.empty(0))
            row[start : start + len(values)] = values
            start += length
    return rows


def _connected(rows: Array, tolerance: float) -> NDArray[np.int64]:
    """Return group numbers of rows that differ by no more than the tolerance, or are linked so."""
    count, width = rows.shape
    if count == 1 or width == 0:
        return np.zeros(count, dtype=np.int64)
    tolerance += 1e-5  # what single precision loses
    columns = np.linspace(0, width - 1, min(RANKS, width), dtype=int)
    tree = cKDTree(rows[:, columns])
    labels = np.arange(count)
    for start in range(0, count, BLOCK):
        block = range(start, min(start + BLOCK, count))
        near = tree.query_ball_point(rows[block.start : block.stop, columns], tolerance, p=np.inf)
        first = np.repeat(block, [len(item) for item in near])
        second = np.concatenate([np.asarray(item, dtype=np.int64) for item in near])
        ahead = second > first
        first, second = first[ahead], second[ahead]
        same = np.empty(len(first), dtype=bool)
        for at in range(0, len(first), PAIRS):
            part = slice(at, at + PAIRS)
            same[part] = np.abs(rows[first[part]] - rows[second[part]]).max(axis=1) <= tolerance
        ends = np.stack([first[same], second[same]])
        links = np.concatenate([ends, np.stack([np.arange(count), labels])], axis=1)
        graph = coo_array((np.ones(links.shape[1]), (links[0], links[1])), shape=(count, count))
        labels = connected_components(graph, directed=False)[1]
        labels = np.unique(labels, return_index=True)[1][labels]  # a member stands for each
    return np.asarray(np.unique(labels, return_inverse=True)[1], dtype=np.int64)
