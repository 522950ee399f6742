"""Molecules, split sizes and extrapolation scans of the sparse coupled-cluster sets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.build import molecule as g2_molecule

SPLITS = ("train", "valid", "test")
TEMPERATURES_K = (300, 600)

# Ground-state spin multiplicities minus one (number of unpaired electrons).
ATOM_SPINS = {"H": 1, "C": 2, "N": 3, "O": 2}


@dataclass(frozen=True)
class Scan:
    """A relaxed one-dimensional scan used as the extrapolation set.

    ``indices`` holds two atoms (a distance in Å) or four atoms (a dihedral in degrees).
    """

    name: str
    indices: tuple[int, ...]
    values: tuple[float, ...]

    @property
    def unit(self) -> str:
        """Unit of ``values``."""
        return "A" if len(self.indices) == 2 else "deg"


@dataclass(frozen=True)
class System:
    """One molecule: where its geometry starts, how many frames, which scan."""

    name: str
    g2_name: str
    seed: int
    counts: dict[str, int]
    scan: Scan

    def start(self) -> Atoms:
        """Geometry of ASE's G2 collection (Å), without a cell."""
        atoms = g2_molecule(self.g2_name)
        atoms.info.clear()
        return Atoms(numbers=atoms.numbers, positions=atoms.positions, pbc=False)


def _grid(first: float, last: float, points: int) -> tuple[float, ...]:
    return tuple(float(x) for x in np.round(np.linspace(first, last, points), 4))


SYSTEMS = {
    system.name: system
    for system in (
        # G2 order: C O H H H H; the C-O stretch.
        System(
            "methanol",
            "CH3OH",
            1100,
            {"train": 120, "valid": 40, "test": 60},
            Scan("c_o_stretch", (0, 1), _grid(1.20, 1.90, 25)),
        ),
        # G2 order: C C O H ...; the torsion C-C-O-H.
        System(
            "ethanol",
            "CH3CH2OH",
            2200,
            {"train": 120, "valid": 40, "test": 60},
            Scan("ccoh_torsion", (0, 1, 2, 3), _grid(0.0, 180.0, 25)),
        ),
        # G2 order: C O O H C ...; the rotation O=C-O-H from syn (0) to anti (180).
        System(
            "acetic_acid",
            "CH3COOH",
            3300,
            {"train": 100, "valid": 30, "test": 60},
            Scan("syn_anti_rotation", (1, 0, 2, 3), _grid(0.0, 180.0, 25)),
        ),
    )
}
