"""Notice that a trajectory has left what is physical."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from ase import Atoms
from ase.neighborlist import natural_cutoffs, neighbor_list
from numpy.typing import NDArray

Array = NDArray[np.float64]
Ensemble = Literal["nve", "nvt"]
BONDED = 1.25
"""Two atoms closer than this multiple of the sum of their covalent radii are bonded."""


@dataclass(frozen=True)
class Limits:
    """What a trajectory may do before it has failed.

    Attributes:
        bond: Å that a bond may be longer or shorter than in the reference; 0 checks no bonds, as
            for liquids and reactions.
        lost: Å; an atom without another one this near is lost.
        collision: Two atoms closer than this share of the sum of their covalent radii collide.
        temperature: How many times the temperature asked for the kinetic one may reach; more for a
            few degrees of freedom, where chance alone goes further.
        energy: eV/atom that the potential energy may differ from the start's.
        drift: eV/atom that the total energy may differ from the start's, without a thermostat.
    """

    bond: float = 0.5
    lost: float = 4.0
    collision: float = 0.4
    temperature: float = 5.0
    energy: float = 1.0
    drift: float = 0.1


@dataclass(frozen=True)
class Bonds:
    """The bonds of a structure, each once.

    Attributes:
        pairs: Indices of the two atoms ``[b, 2]``.
        shifts: Lattice translations of the second ``[b, 3]``.
        lengths: Å ``[b]``.
    """

    pairs: NDArray[np.int64]
    shifts: Array
    lengths: Array

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


class Watch:
    """Says of a trajectory whether, and how, it has failed.

    Args:
        start: The structure that it starts from, with a calculator and momenta.
        limits: What it may do.
        temperature: K.
        ensemble: ``nve`` or ``nvt``.
        lengths: Length that each bond of the start should have ``[b]``, Å; the start's own if None.
    """

    def __init__(
        self,
        start: Atoms,
        limits: Limits,
        temperature: float,
        ensemble: Ensemble,
        lengths: Array | None = None,
    ) -> None:
        self.limits, self.ensemble = limits, ensemble
        self.bonds = find_bonds(start)
        self.lengths = self.bonds.lengths if lengths is None else lengths
        self.alone = _alone(start, limits.lost)
        freedom = max(start.get_number_of_degrees_of_freedom(), 1)
        self.hottest = temperature * max(limits.temperature, 1.0 + 12.0 * (2.0 / freedom) ** 0.5)
        self.potential = start.get_potential_energy()
        self.total = self.potential + start.get_kinetic_energy()

    def fault(self, atoms: Atoms, pairs: bool = True) -> str | None:
        """Return what is wrong with a frame: one of the words below, or None.

        Args:
            atoms: The frame, with calculator and momenta.
            pairs: Whether to look for lost and colliding atoms too, which takes longer.
        """
        potential, kinetic = atoms.get_potential_energy(), atoms.get_kinetic_energy()
        if not np.isfinite([potential, kinetic]).all() or not np.isfinite(atoms.positions).all():
            return "not finite"
        if atoms.get_temperature() > self.hottest:
            return "temperature"
        if abs(potential - self.potential) > self.limits.energy * len(atoms):
            return "energy"
        moved = abs(potential + kinetic - self.total)
        if self.ensemble == "nve" and moved > self.limits.drift * len(atoms):
            return "energy"
        if self.limits.bond > 0 and len(self.lengths):
            off = np.abs(self.bonds.measure(atoms) - self.lengths)
            if off.max() > self.limits.bond:
                return "bond"
        return self._pair_fault(atoms) if pairs else None

    def _pair_fault(self, atoms: Atoms) -> str | None:
        if (_alone(atoms, self.limits.lost) & ~self.alone).any():
            return "lost atom"
        reach = natural_cutoffs(atoms, mult=self.limits.collision)
        return "collision" if len(neighbor_list("i", atoms, reach)) else None


def mean_lengths(bonds: Bonds, frames: Sequence[Atoms]) -> Array | None:
    """Return the mean length of each bond over frames of the same molecule ``[b]``, Å.

    None without frames, or where cells take part: their frames may be wrapped.
    """
    if not frames or bonds.shifts.any() or any(atoms.pbc.any() for atoms in frames):
        return None
    return np.asarray(np.mean([bonds.measure(atoms) for atoms in frames], axis=0))


def comparable(frame: Atoms, start: Atoms, bonds: bool) -> bool:
    """Return whether a frame is one of the same atoms, in the same order, as a start.

    Args:
        frame: The frame.
        start: The start.
        bonds: Whether the atoms of molecules must have the same bonds too, for isomers and
            dissociated molecules say nothing of their lengths.
    """
    if not (np.array_equal(frame.numbers, start.numbers) and (frame.pbc == start.pbc).all()):
        return False
    if not bonds or start.pbc.any():
        return True
    return np.array_equal(find_bonds(frame).pairs, find_bonds(start).pairs)


def _alone(atoms: Atoms, reach: float) -> NDArray[np.bool_]:
    """Return which atoms have no other atom (nor image) within ``reach``."""
    alone = np.ones(len(atoms), dtype=bool)
    alone[neighbor_list("i", atoms, reach)] = False
    return alone
