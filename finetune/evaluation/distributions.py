"""Distributions of distances between atoms, and how far apart two of them are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from ase.neighborlist import neighbor_list
from numpy.typing import NDArray
from scipy.spatial.distance import pdist
from scipy.stats import wasserstein_distance

from finetune.evaluation.trajectory import Bonds

Array = NDArray[np.float64]
WIDTH = 0.05
"""Å of a bin."""
FURTHEST_MOLECULE, FURTHEST_CELL = 10.0, 6.0
"""Å to which distances are counted in molecules and in periodic structures."""
FEWEST = 10
"""Frames below which no distribution is drawn up."""


def at_temperature(frames: Sequence[Atoms], temperature: float) -> list[Atoms]:
    """Return the frames that were sampled at a temperature, K, as their ``info`` says.

    All of them, if none says.
    """
    if not any("temperature" in atoms.info for atoms in frames):
        return list(frames)
    return [
        atoms for atoms in frames if abs(atoms.info.get("temperature", np.inf) - temperature) < 1.0
    ]


def furthest(atoms: Atoms) -> float:
    """Return the distance, Å, to which the distributions of a structure go."""
    return FURTHEST_CELL if atoms.pbc.any() else FURTHEST_MOLECULE


def distribution(frames: Sequence[Atoms]) -> tuple[Array, Array]:
    """Return bin centres ``[k]``, Å, and the distribution of distances between atoms there ``[k]``.

    In molecules this is h(r), whose integral over r is 1 (1/Å); with a cell in all directions the
    radial distribution function g(r), which goes to 1 far away; else h(r) of the pairs in reach.
    """
    edges = np.arange(0.0, furthest(frames[0]) + WIDTH / 2, WIDTH)
    centres = (edges[1:] + edges[:-1]) / 2
    counts, pairs = np.zeros(len(centres)), 0
    for atoms in frames:
        periodic = bool(atoms.pbc.any())
        found = neighbor_list("d", atoms, edges[-1]) if periodic else pdist(atoms.positions)
        counts += np.histogram(found, edges)[0]
        pairs += len(found)
    if frames[0].pbc.all():
        density = np.mean([len(atoms) / atoms.get_volume() for atoms in frames])
        shells = 4.0 * np.pi * centres**2 * WIDTH
        return centres, counts / (len(frames) * len(frames[0]) * shells * density)
    return centres, counts / (max(pairs, 1) * WIDTH)


def distribution_distance(frames: Sequence[Atoms], reference: Sequence[Atoms]) -> float | None:
    """Return how far two sets of frames of the same atoms differ in their distances.

    For h(r) this is ∫ |h − h_ref| dr, from 0 (equal) to 2 (nothing in common), as in *Forces are
    not enough*; for g(r) the mean of |g − g_ref| over r. None for fewer than `FEWEST` frames.
    """
    if min(len(frames), len(reference)) < FEWEST:
        return None
    difference = np.abs(distribution(frames)[1] - distribution(reference)[1])
    if frames[0].pbc.all():
        return float(difference.mean())
    return float(difference.sum() * WIDTH)


def bond_distances(
    bonds: Bonds, frames: Sequence[Atoms], reference: Sequence[Atoms]
) -> dict[str, float]:
    """Return how far the lengths of each type of bond differ from the reference's, Å.

    The measure is the first Wasserstein distance between the two distributions of lengths: by how
    much, on average, one has to be moved to become the other.

    Args:
        bonds: Of the molecule.
        frames: Of a trajectory.
        reference: Of the same atoms in the same order.

    Returns:
        By type of bond, such as ``C-H``; empty for fewer than `FEWEST` frames, and in cells, where
        reference frames may be wrapped.
    """
    if min(len(frames), len(reference)) < FEWEST or frames[0].pbc.any():
        return {}
    types: dict[str, list[int]] = defaultdict(list)
    for index, pair in enumerate(frames[0].numbers[bonds.pairs]):
        types["-".join(chemical_symbols[number] for number in sorted(pair)[::-1])].append(index)
    found = np.array([bonds.measure(atoms) for atoms in frames])
    wanted = np.array([bonds.measure(atoms) for atoms in reference])
    return {
        name: float(wasserstein_distance(found[:, columns].ravel(), wanted[:, columns].ravel()))
        for name, columns in sorted(types.items())
    }
