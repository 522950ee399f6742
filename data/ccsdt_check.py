"""Sanity checks of the written files; the results go to ``checks.json``."""

from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path

import ccsdt_levels as levels
import numpy as np
from ase import Atoms
from ase.io import read
from ccsdt_systems import SPLITS, System
from ccsdt_write import FILES

DISPLACEMENT_A = 0.003
DISTINCT_A = 1e-3
MAX_NET_FORCE_EV_PER_A = 1e-4
MAX_DERIVATIVE_ERROR_EV_PER_A = 1e-3
MIN_COUNTS = {"train": 100, "valid": 30, "test": 60, "train_pbe0": 100}
MIN_TEST_FORCES = 20

Results = dict[str, object]


def load(out: Path, system: System, name: str) -> list[Atoms]:
    """Read one written file."""
    return read(out / system.name / f"{name}.xyz", index=":", format="extxyz")


def _energies(frames: list[Atoms]) -> np.ndarray:
    return np.array([frame.info["REF_energy"] for frame in frames])


def _forces(frames: list[Atoms]) -> list[np.ndarray]:
    return [f.arrays["REF_forces"] for f in frames if "REF_forces" in f.arrays]


def check_numbers(path: Path, frames: list[Atoms]) -> Results:
    """Counts, energy spread, finite values, force size and net force of one file."""
    energies, forces = _energies(frames), _forces(frames)
    if re.search(r"\bnan\b|\binf\b", path.read_text(), re.IGNORECASE):
        raise ValueError(f"{path} holds a value that is not finite")
    results: Results = {
        "energies": len(energies),
        "forces": len(forces),
        "energy_std_eV": round(float(energies.std()), 4),
        "energy_range_eV": round(float(np.ptp(energies)), 4),
    }
    if forces:
        net = max(float(np.abs(f.sum(axis=0)).max()) for f in forces)
        if net > MAX_NET_FORCE_EV_PER_A:
            raise ValueError(f"{path} has a net force of {net} eV/Å")
        components = np.concatenate(forces).ravel()
        results["force_rms_eV_per_A"] = round(float(np.sqrt(np.mean(components**2))), 4)
        results["max_net_force_eV_per_A"] = float(f"{net:.1e}")
    return results


def _distances(frames: list[Atoms]) -> np.ndarray:
    return np.array([f.get_all_distances()[np.triu_indices(len(f), 1)] for f in frames])


def closest_frames(splits: dict[str, list[Atoms]]) -> Results:
    """Smallest difference (largest change of any interatomic distance) within and across splits.

    Fails when two frames are the same geometry.
    """
    distances = {name: _distances(frames) for name, frames in splits.items()}
    results: Results = {}
    for first, second in (*combinations(SPLITS, 2), *((s, s) for s in SPLITS)):
        gap = np.abs(distances[first][:, None] - distances[second][None]).max(axis=-1)
        if first == second:
            np.fill_diagonal(gap, np.inf)
        smallest = float(gap.min())
        if smallest < DISTINCT_A:
            raise ValueError(f"the same geometry occurs in {first} and {second}")
        results[f"{first}-{second}"] = round(smallest, 3)
    return results


def derivative_error(frame: Atoms, seed: int) -> float:
    """Analytic minus central-difference force (eV/Å) along one random unit displacement."""
    direction = np.random.default_rng(seed).normal(size=(len(frame), 3))
    direction /= np.linalg.norm(direction)
    symbols = frame.get_chemical_symbols()
    energies = []
    for sign in (1, -1):
        positions = frame.positions + sign * DISPLACEMENT_A * direction
        if frame.info["level_of_theory"] == levels.CCSDT:
            energies.append(levels.ccsdt(symbols, positions, False).energy)
        else:
            energies.append(levels.pbe0(symbols, positions).energy)
    numerical = (energies[1] - energies[0]) / (2 * DISPLACEMENT_A)
    return float(np.vdot(frame.arrays["REF_forces"], direction)) - numerical


def check_derivatives(system: System, frames: list[Atoms], count: int) -> Results:
    """Compare forces with finite differences of the energy on ``count`` frames."""
    with_forces = [frame for frame in frames if "REF_forces" in frame.arrays][:count]
    errors = [derivative_error(f, system.seed + i) for i, f in enumerate(with_forces)]
    worst = max(map(abs, errors))
    if worst > MAX_DERIVATIVE_ERROR_EV_PER_A:
        raise ValueError(f"{system.name}: forces and energies differ by {worst} eV/Å")
    return {"frames": len(errors), "max_error_eV_per_A": float(f"{worst:.1e}")}


def compare_levels(ccsdt: list[Atoms], pbe0: list[Atoms]) -> Results:
    """How far relative PBE0 energies are from relative CCSD(T) energies on the same frames."""
    high = {frame.info["frame_id"]: frame.info["REF_energy"] for frame in ccsdt}
    pairs = [(f.info["REF_energy"], high[f.info["frame_id"]]) for f in pbe0]
    difference = np.array([low - up for low, up in pairs])
    return {
        "frames": len(pairs),
        "std_of_difference_meV": round(1000 * float(difference.std()), 1),
        "correlation": round(float(np.corrcoef(np.array(pairs).T)[0, 1]), 5),
    }


def check_system(out: Path, system: System, derivative_frames: int) -> Results:
    """Run every check on one molecule."""
    frames = {name: load(out, system, name) for name in FILES}
    files = {name: check_numbers(out / system.name / f"{name}.xyz", frames[name]) for name in FILES}
    for name, least in MIN_COUNTS.items():
        if len(frames[name]) < least:
            raise ValueError(f"{system.name}/{name} holds fewer than {least} frames")
    if len(_forces(frames["test"])) < MIN_TEST_FORCES:
        raise ValueError(f"{system.name}/test holds fewer than {MIN_TEST_FORCES} with forces")
    results: Results = {
        "files": files,
        "closest_frames_A": closest_frames({split: frames[split] for split in SPLITS}),
        "pbe0_against_ccsdt": compare_levels(frames["train"], frames["train_pbe0"]),
    }
    if derivative_frames:
        results["finite_difference"] = {
            name: check_derivatives(system, frames[name], derivative_frames)
            for name in ("test", "train_pbe0")
        }
    return results


def check_all(out: Path, systems: list[System], derivative_frames: int) -> None:
    """Check the molecules, print the results and keep them in ``checks.json``."""
    path = out / "checks.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    for system in systems:
        fresh = check_system(out, system, derivative_frames)
        kept = results.get(system.name, {}).get("finite_difference")
        if kept and not derivative_frames:
            fresh["finite_difference"] = kept
        results[system.name] = fresh
        path.write_text(json.dumps(results, indent=2) + "\n")
        print(system.name, json.dumps(fresh, indent=2))
