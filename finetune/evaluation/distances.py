"""Bonds and distances between atoms, and how far two sets of frames differ in them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from ase.neighborlist import natural_cutoffs, neighbor_list
from numpy.typing import NDArray
from scipy.spatial.distance import pdist

Array = NDArray[np.float64]
BONDED = 1.25
"""Two atoms closer than this multiple of the sum of their covalent radii are bonded."""
WIDTH = 0.05
"""Å, width of a bin of distances."""
FURTHEST_MOLECULE, FURTHEST_CELL = 10.0, 6.0
"""Å up to which distances are counted in molecules and in periodic structures."""
FEWEST = 10
"""Frames that a distribution takes at least."""


@dataclass(frozen=True)
class Bonds:
    """The bonds of a structure, each once."""

    pairs: NDArray[np.int64]  # indices of the two atoms [b, 2]
    shifts: Array  # lattice translations of the second [b, 3]
    lengths: Array  # Å [b]

    def measure(self, atoms: Atoms) -> Array:
        """Return the lengths ``[b]``, Å, in another geometry of the same atoms, not wrapped."""
        first, second = self.pairs.T
        vectors = atoms.positions[second] - atoms.positions[first] + self.shifts @ atoms.cell.array
        return np.asarray(np.linalg.norm(vectors, axis=1))


def find_bonds(atoms: Atoms) -> Bonds:
    """Find the pairs of atoms within `BONDED` times the sum of their covalent radii."""
    reach = natural_cutoffs(atoms, mult=BONDED)
    first, second, shifts, lengths = neighbor_list("ijSd", atoms, reach)
    backwards = [tuple(shift) < (0, 0, 0) for shift in shifts]
    once = (first < second) | ((first == second) & ~np.array(backwards, dtype=bool))
    return Bonds(
        pairs=np.stack([first, second], axis=1)[once].astype(np.int64),
        shifts=shifts[once].astype(np.float64),
        lengths=lengths[once],
    )


def mean_lengths(bonds: Bonds, frames: Sequence[Atoms]) -> Array | None:
    """Return mean bond lengths ``[b]``, Å; None without frames, and in cells (may be wrapped)."""
    if not frames or bonds.shifts.any() or any(atoms.pbc.any() for atoms in frames):
        return None
    return np.asarray(np.mean([bonds.measure(atoms) for atoms in frames], axis=0))


def comparable(frame: Atoms, start: Atoms, bonds: bool) -> bool:
    """Return whether a frame has the start's atoms in the same order, and the same ``bonds``."""
    if not (np.array_equal(frame.numbers, start.numbers) and (frame.pbc == start.pbc).all()):
        return False
    if not bonds or start.pbc.any():
        return True
    return np.array_equal(find_bonds(frame).pairs, find_bonds(start).pairs)


def at_temperature(frames: Sequence[Atoms], temperature: float) -> list[Atoms]:
    """Return the frames whose ``info`` has this temperature, K; all of them if none has any."""
    if not any("temperature" in atoms.info for atoms in frames):
        return list(frames)
    return [
        atoms for atoms in frames if abs(atoms.info.get("temperature", np.inf) - temperature) < 1.0
    ]


def distribution(frames: Sequence[Atoms]) -> tuple[Array, Array]:
    """Return bin centres ``[k]``, Å, and the distribution of distances between atoms there ``[k]``.

    In molecules this is h(r), whose integral over r is 1 (1/Å); with a cell in all directions it is
    the radial distribution function g(r); else h(r) of the pairs within reach.
    """
    furthest = FURTHEST_CELL if frames[0].pbc.any() else FURTHEST_MOLECULE
    edges = np.arange(0.0, furthest + WIDTH / 2, WIDTH)
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
    """Return the first Wasserstein distance, Å, of the lengths of each type of bond (``C-H``).

    None are returned for fewer than `FEWEST` frames, and in cells, where frames may be wrapped.
    """
    if min(len(frames), len(reference)) < FEWEST or frames[0].pbc.any():
        return {}
    from scipy.stats import wasserstein_distance  # takes a second

    types: dict[str, list[int]] = defaultdict(list)
    for index, pair in enumerate(frames[0].numbers[bonds.pairs]):
        types["-".join(chemical_symbols[number] for number in sorted(pair)[::-1])].append(index)
    found = np.array([bonds.measure(atoms) for atoms in frames])
    wanted = np.array([bonds.measure(atoms) for atoms in reference])
    return {
        name: float(wasserstein_distance(found[:, columns].ravel(), wanted[:, columns].ravel()))
        for name, columns in sorted(types.items())
    }
