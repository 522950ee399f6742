"""Geometries: GFN2-xTB Langevin dynamics and relaxed GFN2-xTB scans."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.constraints import FixInternals
from ase.io import read, write
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.optimize import BFGS
from ccsdt_systems import SPLITS, TEMPERATURES_K, Scan, System
from tblite.ase import TBLite

TIMESTEP_FS = 0.5
EQUILIBRATION_FS = 2000.0
SPACING_FS = 100.0
FRICTION_PER_FS = 0.01
SCAN_FMAX_EV_PER_A = 0.02
POSITION_DECIMALS = 8  # what extended XYZ keeps, so labels belong to the written digits

log = logging.getLogger(__name__)


def gfn2() -> TBLite:
    """A fresh GFN2-xTB calculator."""
    return TBLite(method="GFN2-xTB", verbosity=0)


def bare_frame(atoms: Atoms, **info: object) -> Atoms:
    """Copy ``atoms`` centred on its centre of mass, rounded, with only ``info`` attached."""
    positions = np.round(atoms.positions - atoms.get_center_of_mass(), POSITION_DECIMALS)
    frame = Atoms(numbers=atoms.numbers, positions=positions, pbc=False)
    frame.info.update(info)
    return frame


def relaxed(system: System) -> Atoms:
    """The G2 geometry relaxed with GFN2-xTB."""
    atoms = system.start()
    atoms.calc = gfn2()
    BFGS(atoms, logfile=None).run(fmax=SCAN_FMAX_EV_PER_A, steps=300)
    return atoms


def run_dynamics(system: System, split: str, temperature_k: int, count: int) -> list[Atoms]:
    """Sample ``count`` frames from one Langevin trajectory with its own seed."""
    trajectory = SPLITS.index(split) * len(TEMPERATURES_K) + TEMPERATURES_K.index(temperature_k)
    rng = np.random.default_rng(system.seed + trajectory)
    atoms = relaxed(system)
    atoms.calc = gfn2()
    MaxwellBoltzmannDistribution(atoms, temperature_K=temperature_k, rng=rng)
    dynamics = Langevin(
        atoms,
        timestep=TIMESTEP_FS * units.fs,
        temperature_K=temperature_k,
        friction=FRICTION_PER_FS / units.fs,
        fixcm=False,
        rng=rng,
    )
    dynamics.run(round(EQUILIBRATION_FS / TIMESTEP_FS))
    frames = []
    for index in range(count):
        dynamics.run(round(SPACING_FS / TIMESTEP_FS))
        frames.append(
            bare_frame(
                atoms,
                frame_id=f"{system.name}-{split}-{temperature_k}K-{index:04d}",
                config_type=f"md_{temperature_k}K",
                temperature=temperature_k,
                split=split,
            )
        )
    return frames


def _constraint(scan: Scan, value: float) -> FixInternals:
    indices = list(scan.indices)
    if len(indices) == 2:
        return FixInternals(bonds=[[value, indices]])
    return FixInternals(dihedrals_deg=[[value, indices]])


def _set_coordinate(atoms: Atoms, scan: Scan, value: float) -> None:
    """Move the smaller fragment so that the scanned coordinate takes ``value``."""
    indices = scan.indices
    if len(indices) == 2:
        atoms.set_distance(*indices, value, fix=0, indices=_far_side(atoms, *indices))
    else:
        atoms.set_dihedral(*indices, value, indices=[indices[3]])


def _far_side(atoms: Atoms, anchor: int, first: int) -> list[int]:
    """Indices bonded through ``first`` when the bond ``anchor``-``first`` is cut."""
    bonded = atoms.get_all_distances() < 1.2
    side, frontier = {first}, [first]
    while frontier:
        here = frontier.pop()
        for other in np.flatnonzero(bonded[here]):
            if int(other) not in side and int(other) != anchor:
                side.add(int(other))
                frontier.append(int(other))
    return sorted(side)


def run_scan(system: System) -> list[Atoms]:
    """Relax every point of the scan with GFN2-xTB, the scanned coordinate held fixed."""
    scan = system.scan
    atoms = relaxed(system)
    frames = []
    for index, value in enumerate(scan.values):
        atoms.set_constraint()
        _set_coordinate(atoms, scan, value)
        atoms.set_constraint(_constraint(scan, value))
        atoms.calc = gfn2()
        converged = BFGS(atoms, logfile=None).run(fmax=SCAN_FMAX_EV_PER_A, steps=300)
        log.info("%s %s=%g converged=%s", system.name, scan.name, value, converged)
        frame = bare_frame(
            atoms,
            frame_id=f"{system.name}-scan-{index:04d}",
            config_type=scan.name,
            split="scan",
            scan_value=value,
            scan_unit=scan.unit,
        )
        frames.append(frame)
    return frames


def frames_path(work: Path, system: System, split: str) -> Path:
    """Where the unlabelled geometries of one split lie."""
    return work / "frames" / system.name / f"{split}.xyz"


def sample(system: System, work: Path) -> None:
    """Sample every split of ``system`` that is not on disk yet."""
    for split in (*SPLITS, "scan"):
        path = frames_path(work, system, split)
        if path.exists():
            continue
        if split == "scan":
            frames = run_scan(system)
        else:
            # Interleave the temperatures so that any prefix of a file holds both.
            share = system.counts[split] // len(TEMPERATURES_K)
            runs = [run_dynamics(system, split, t, share) for t in TEMPERATURES_K]
            frames = [frame for group in zip(*runs, strict=True) for frame in group]
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        write(partial, frames, format="extxyz")
        partial.rename(path)
        log.info("%s %s: %d frames", system.name, split, len(frames))


def load_frames(work: Path, system: System, split: str) -> list[Atoms]:
    """Read the unlabelled geometries of one split."""
    return read(frames_path(work, system, split), index=":", format="extxyz")
