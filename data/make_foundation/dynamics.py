"""Constant-energy dynamics of several isolated molecules at once, with ASE."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import ase.units
import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution, Stationary, ZeroRotation
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS
from mace.modules.models import ScaleShiftMACE
from numpy.typing import NDArray
from tblite.ase import TBLite
from torch.fx.experimental.proxy_tensor import make_fx

from .dataset import graph, neighbour_list
from .sampling import embed

#: Largest drift of a run that passes (meV/atom/ps).
MAX_DRIFT = 1.0
#: Largest change of a bond between heavy atoms of a run that passes (Å).
MAX_BOND_CHANGE = 0.3
#: Largest distance of a hydrogen atom from its nearest heavy atom in a run that passes (Å).
MAX_HYDROGEN_DISTANCE = 1.4


@dataclass(frozen=True)
class Trajectory:
    """Outcome of one constant-energy run; changes are relative to the relaxed geometry."""

    smiles: str
    start_temperature_k: float
    mean_temperature_k: float
    picoseconds: float
    drift_mev_per_atom_per_ps: float
    energy_fluctuation_mev_per_atom: float
    max_heavy_bond_change_angstrom: float
    max_hydrogen_bond_change_angstrom: float
    max_hydrogen_distance_angstrom: float
    stable: bool


class IsolatedMolecules(Calculator):
    """Potential of molecules that do not interact, compiled for one set of them.

    Every pair of atoms of a molecule is an edge, whatever its length: beyond the cutoff an edge
    adds exactly nothing, and the shapes stay fixed.
    """

    implemented_properties = ["energy", "forces", "energies_of_molecules"]  # noqa: RUF012

    def __init__(self, model: ScaleShiftMACE, molecules: list[Atoms]) -> None:
        super().__init__()
        sizes = np.array([len(atoms) for atoms in molecules])
        offsets = np.cumsum(sizes) - sizes
        edges = np.concatenate(
            [
                neighbour_list(atoms.positions, np.inf) + offset
                for atoms, offset in zip(molecules, offsets, strict=True)
            ],
            axis=1,
        )
        positions = np.concatenate([atoms.positions for atoms in molecules])
        numbers = np.concatenate([atoms.numbers for atoms in molecules])
        self._dtype = next(model.parameters()).dtype
        fixed = graph(numbers, positions, edges, sizes, self._dtype)

        def run(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            out = model(fixed | {"positions": x.detach().requires_grad_(True)})
            return out["interaction_energy"].detach(), out["forces"].detach()

        model.requires_grad_(False)
        self._run = torch.compile(make_fx(run)(fixed["positions"].detach()), dynamic=False)

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: list[str] | None = None,
        system_changes: list[str] = all_changes,
    ) -> None:
        """Energies in eV, forces in eV/Å."""
        super().calculate(atoms, properties, system_changes)
        with torch.no_grad():
            energies, forces = self._run(torch.as_tensor(self.atoms.positions, dtype=self._dtype))
        self.results = {
            "energy": float(energies.sum()),
            "energies_of_molecules": energies.numpy(),
            "forces": forces.numpy(),
        }


def relaxed(smiles: str, seed: int) -> tuple[Atoms, list[tuple[int, int]]]:
    """The GFN2-xTB minimum next to an RDKit conformer, and the bonds of the molecule."""
    numbers, conformers, bonds = embed(smiles, 1, seed)
    atoms = Atoms(numbers, conformers[0])
    atoms.calc = TBLite(method="GFN2-xTB", verbosity=0)
    BFGS(atoms, logfile=None).run(fmax=0.01, steps=500)
    atoms.calc = None
    return atoms, bonds


def _lengths(positions: NDArray[np.float64], bonds: list[tuple[int, int]]) -> NDArray[np.float64]:
    i, j = np.array(bonds).reshape(-1, 2).T
    return np.linalg.norm(positions[:, i] - positions[:, j], axis=-1)


def _judge(
    smiles: str,
    atoms: Atoms,
    bonds: list[tuple[int, int]],
    start_temperature: float,
    times: NDArray[np.float64],
    energies: NDArray[np.float64],
    kinetic: NDArray[np.float64],
    positions: NDArray[np.float64],
) -> Trajectory:
    """Sum up one molecule's trajectory: times in ps, energies in eV, positions in Å."""
    per_atom = 1e3 * (energies - energies[0]) / len(atoms)
    slope, level = np.polyfit(times, per_atom, 1)
    heavy = [b for b in bonds if atoms.numbers[list(b)].min() > 1]
    light = [b for b in bonds if atoms.numbers[list(b)].min() == 1]

    def change(of: list[tuple[int, int]]) -> float:
        if not of:
            return 0.0
        return float(np.abs(_lengths(positions, of) - _lengths(atoms.positions[None], of)).max())

    hydrogens, others = np.flatnonzero(atoms.numbers == 1), np.flatnonzero(atoms.numbers > 1)
    away = np.linalg.norm(positions[:, hydrogens, None] - positions[:, None, others], axis=-1)
    farthest = float(away.min(axis=-1).max())
    temperature = 2 * kinetic.mean() / (3 * len(atoms) - 6) / ase.units.kB
    stable = bool(
        np.isfinite(per_atom).all()
        and abs(slope) < MAX_DRIFT
        and change(heavy) < MAX_BOND_CHANGE
        and farthest < MAX_HYDROGEN_DISTANCE
    )
    return Trajectory(
        smiles=smiles,
        start_temperature_k=start_temperature,
        mean_temperature_k=float(temperature),
        picoseconds=float(times[-1]),
        drift_mev_per_atom_per_ps=float(slope),
        energy_fluctuation_mev_per_atom=float((per_atom - slope * times - level).std()),
        max_heavy_bond_change_angstrom=change(heavy),
        max_hydrogen_bond_change_angstrom=change(light),
        max_hydrogen_distance_angstrom=farthest,
        stable=stable,
    )


def constant_energy(
    model: ScaleShiftMACE,
    smiles: list[str],
    temperatures: list[float],
    steps: int,
    step_fs: float,
    seed: int,
    every: int = 10,
) -> list[dict[str, object]]:
    """NVE runs from relaxed geometries, one for each SMILES string and start temperature (K).

    Velocities are drawn from the Maxwell-Boltzmann distribution of the start temperature, without
    overall translation and rotation. About half of that kinetic energy goes into the potential.
    """
    rng = np.random.default_rng(seed)
    runs = [(s, t, *relaxed(s, seed)) for s in smiles for t in temperatures]
    together = Atoms()
    for _, temperature, atoms, _ in runs:
        moving = atoms.copy()
        MaxwellBoltzmannDistribution(moving, temperature_K=temperature, force_temp=True, rng=rng)
        Stationary(moving)
        ZeroRotation(moving)
        together += moving
    sizes = [len(atoms) for _, _, atoms, _ in runs]
    first = np.cumsum([0, *sizes])
    together.calc = IsolatedMolecules(model, [atoms for _, _, atoms, _ in runs])
    dynamics = VelocityVerlet(together, timestep=step_fs * ase.units.fs)
    energies, kinetics, frames = [], [], []

    def record() -> None:
        kinetic = 0.5 * (together.get_momenta() ** 2).sum(axis=1) / together.get_masses()
        kinetic = np.add.reduceat(kinetic, first[:-1])
        kinetics.append(kinetic)
        energies.append(together.calc.results["energies_of_molecules"] + kinetic)
        frames.append(together.get_positions())

    dynamics.attach(record, interval=every)
    dynamics.run(steps)
    times = np.arange(len(energies)) * every * step_fs / 1000.0
    total, kinetic, positions = np.array(energies), np.array(kinetics), np.array(frames)
    return [
        asdict(
            _judge(
                s,
                atoms,
                bonds,
                temperature,
                times,
                total[:, k],
                kinetic[:, k],
                positions[:, first[k] : first[k + 1]],
            )
        )
        for k, (s, temperature, atoms, bonds) in enumerate(runs)
    ]
