"""GFN2-xTB configurations of one molecule: Langevin dynamics, distortions, bonds, dimers.

Units inside this module: Å, eV, fs, atomic mass units; the labels come from tblite in Hartree.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import ase.units
import numpy as np
from ase.data import atomic_masses, vdw_radii
from numpy.typing import NDArray
from rdkit import Chem
from rdkit.Chem import AllChem
from tblite.interface import Calculator, Result

Array = NDArray[np.float64]
Integers = NDArray[np.int64]

#: Frames kept of each Langevin temperature (K).
FRAMES = {300: 9, 500: 8, 800: 8, 1000: 5, 1500: 5}
STEPS_BETWEEN_FRAMES = 10
EQUILIBRATION_STEPS = 12
TIME_STEP_FS = 1.5
FRICTION_PER_FS = 0.03
#: Hydrogen is given this mass in the sampling (u); the Boltzmann distribution of positions does
#: not depend on the masses, and the longer time step decorrelates the frames faster.
HYDROGEN_MASS = 4.0
#: Configurations with a larger force on any atom are dropped (eV/Å).
MAX_FORCE = 30.0
_FS = ase.units.fs


class SamplingError(RuntimeError):
    """No usable configuration of a molecule could be made."""


@dataclass
class Configurations:
    """Labelled configurations of one molecule; ``temperature`` is 0 where none applies."""

    smiles: str
    numbers: list[Integers] = field(default_factory=list)
    positions: list[Array] = field(default_factory=list)
    forces: list[Array] = field(default_factory=list)
    energy: list[float] = field(default_factory=list)
    kind: list[str] = field(default_factory=list)
    temperature: list[int] = field(default_factory=list)

    def add(
        self,
        numbers: Integers,
        positions: Array,
        energy: float,
        forces: Array,
        kind: str,
        temperature: int = 0,
    ) -> None:
        """Keep one configuration unless a force on it exceeds :data:`MAX_FORCE`."""
        if not np.isfinite(energy) or np.linalg.norm(forces, axis=1).max() > MAX_FORCE:
            return
        self.numbers.append(numbers)
        self.positions.append(positions.copy())
        self.forces.append(forces)
        self.energy.append(energy)
        self.kind.append(kind)
        self.temperature.append(temperature)

    def arrays(self) -> dict[str, NDArray]:
        """Flat arrays, atoms of all configurations one after the other."""
        return {
            "n_atoms": np.array([len(z) for z in self.numbers], dtype=np.int64),
            "numbers": np.concatenate(self.numbers).astype(np.int64),
            "positions": np.concatenate(self.positions).astype(np.float64),
            "forces": np.concatenate(self.forces).astype(np.float64),
            "energy": np.array(self.energy, dtype=np.float64),
            "kind": np.array(self.kind, dtype="S12"),
            "temperature": np.array(self.temperature, dtype=np.int64),
        }


class Xtb:
    """GFN2-xTB of one set of atoms; successive calls start from the last density."""

    def __init__(self, numbers: Integers, positions: Array) -> None:
        self._calculator = Calculator("GFN2-xTB", numbers, positions / ase.units.Bohr)
        self._calculator.set("verbosity", 0)
        self._last: Result | None = None

    def __call__(self, positions: Array) -> tuple[float, Array]:
        """Energy (eV) and forces (eV/Å); ``RuntimeError`` where the SCF does not converge."""
        self._calculator.update(positions / ase.units.Bohr)
        result = self._calculator.singlepoint(self._last, copy=False)
        self._last = result
        forces = -result.get("gradient") * (ase.units.Hartree / ase.units.Bohr)
        return float(result.get("energy")) * ase.units.Hartree, forces

    def forget(self) -> None:
        """Start the next call from the superposition of atomic densities."""
        self._last = None


def embed(
    smiles: str, count: int, seed: int
) -> tuple[Integers, list[Array], list[tuple[int, int]]]:
    """Atomic numbers, ``count`` or fewer conformers (Å, MMFF94 where it applies), bonds."""
    molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
    numbers = np.array([a.GetAtomicNum() for a in molecule.GetAtoms()])
    ids = list(AllChem.EmbedMultipleConfs(molecule, count, randomSeed=seed))
    if not ids:
        ids = list(
            AllChem.EmbedMultipleConfs(molecule, count, randomSeed=seed, useRandomCoords=True)
        )
    if not ids:
        raise SamplingError(f"RDKit found no geometry for {smiles}")
    if AllChem.MMFFHasAllMoleculeParams(molecule):
        AllChem.MMFFOptimizeMoleculeConfs(molecule, maxIters=200)
    bonds = [(b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in molecule.GetBonds()]
    return numbers, [molecule.GetConformer(i).GetPositions() for i in ids], bonds


def _langevin(
    out: Configurations,
    numbers: Integers,
    start: Array,
    frames: dict[int, int],
    rng: np.random.Generator,
) -> list[Array]:
    """BAOAB Langevin dynamics through rising temperatures; returns the kept positions."""
    xtb = Xtb(numbers, start)
    mass = np.where(numbers == 1, HYDROGEN_MASS, atomic_masses[numbers])[:, None]
    half, decay = 0.5 * TIME_STEP_FS * _FS, np.exp(-FRICTION_PER_FS * TIME_STEP_FS)
    x, v, kept = start.copy(), np.zeros_like(start), []
    try:
        energy, f = xtb(x)
        for temperature, count in frames.items():
            thermal = np.sqrt(ase.units.kB * temperature / mass)
            v = thermal * rng.normal(size=x.shape) * np.sqrt(1.5)
            for step in range(1, EQUILIBRATION_STEPS + count * STEPS_BETWEEN_FRAMES + 1):
                v += half * f / mass
                x += half * v
                v = decay * v + np.sqrt(1 - decay**2) * thermal * rng.normal(size=x.shape)
                x += half * v
                energy, f = xtb(x)
                v += half * f / mass
                if (
                    step > EQUILIBRATION_STEPS
                    and (step - EQUILIBRATION_STEPS) % STEPS_BETWEEN_FRAMES == 0
                ):
                    out.add(numbers, x, energy, f, "dynamics", temperature)
                    kept.append(x.copy())
    except RuntimeError:
        pass  # the SCF failed on a strongly distorted geometry: keep what came before it
    return kept


def _label(out: Configurations, numbers: Integers, positions: Array, kind: str) -> None:
    try:
        energy, forces = Xtb(numbers, positions)(positions)
    except RuntimeError:
        return
    out.add(numbers, positions, energy, forces, kind)


def _displace(
    out: Configurations,
    numbers: Integers,
    frames: list[Array],
    count: int,
    rng: np.random.Generator,
) -> None:
    """Independent Gaussian displacements of 0.02-0.15 Å of random frames."""
    for _ in range(count):
        x = frames[rng.integers(len(frames))]
        x = x + rng.uniform(0.02, 0.15) * rng.normal(size=x.shape)
        _label(out, numbers, x, "displaced")


def _side_of(bond: tuple[int, int], bonds: list[tuple[int, int]]) -> set[int]:
    """Atoms on the second atom's side of a bond (both sides for a ring bond)."""
    side, stack = {bond[1]}, [bond[1]]
    while stack:
        here = stack.pop()
        for i, j in bonds:
            if (i, j) == bond:
                continue
            other = j if i == here else i if j == here else None
            if other is not None and other not in side:
                side.add(other)
                stack.append(other)
    return side


def _stretch(
    out: Configurations,
    numbers: Integers,
    frames: list[Array],
    bonds: list[tuple[int, int]],
    count: int,
    rng: np.random.Generator,
) -> None:
    """Bonds that are not in a ring, pressed to 0.7 or drawn to 2.5 times their length."""
    acyclic = [(b, side) for b in bonds if b[0] not in (side := _side_of(b, bonds))]
    if not acyclic:
        return
    for _ in range(count):
        (i, j), side = acyclic[rng.integers(len(acyclic))]
        x = frames[rng.integers(len(frames))].copy()
        factor = rng.uniform(0.7, 1.0) if rng.random() < 0.35 else rng.uniform(1.1, 2.5)
        x[list(side)] += (factor - 1) * (x[j] - x[i])
        _label(out, numbers, x, "stretched")


def random_rotation(rng: np.random.Generator) -> Array:
    """A rotation matrix, uniform over all rotations."""
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q if np.linalg.det(q) > 0 else -q


def _dimers(
    out: Configurations,
    numbers: Integers,
    frames: list[Array],
    partners: tuple[str, ...],
    count: int,
    rng: np.random.Generator,
) -> None:
    """A partner drawn up to 0.45-1.3 times the sum of van der Waals radii, at random angles."""
    for _ in range(count):
        smiles = partners[rng.integers(len(partners))]
        z, conformers, _ = embed(smiles, 1, int(rng.integers(2**31 - 1)))
        partner = conformers[0] + 0.03 * rng.normal(size=conformers[0].shape)
        partner = (partner - partner.mean(axis=0)) @ random_rotation(rng).T
        x = frames[rng.integers(len(frames))]
        x = x - x.mean(axis=0)
        direction = random_rotation(rng)[0]
        contact = vdw_radii[numbers][:, None] + vdw_radii[z][None, :]
        target = rng.uniform(0.45, 1.3)
        for distance in np.arange(14.0, 0.0, -0.02):
            shifted = partner + distance * direction
            gap = np.linalg.norm(x[:, None] - shifted[None], axis=-1) / contact
            if gap.min() < target:
                break
        _label(out, np.concatenate([numbers, z]), np.concatenate([x, shifted]), "dimer")


def sample_molecule(
    smiles: str, seed: int, partners: tuple[str, ...], copies: int
) -> Configurations:
    """Labelled configurations of ``smiles`` from ``copies`` conformers, reproducible by seed."""
    rng = np.random.default_rng(seed)
    out = Configurations(smiles)
    numbers, conformers, bonds = embed(smiles, copies, int(rng.integers(2**31 - 1)))
    for copy in range(copies):
        start = conformers[copy % len(conformers)]
        frames = _langevin(out, numbers, start, FRAMES, rng) or [start]
        _displace(out, numbers, frames, 3, rng)
        _stretch(out, numbers, frames, bonds, 5, rng)
        _dimers(out, numbers, frames, partners, 5, rng)
    if not out.energy:
        raise SamplingError(f"GFN2-xTB gave no configuration of {smiles}")
    return out
