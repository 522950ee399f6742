"""Extended XYZ and provenance files from the labels at hand."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

import ccsdt_levels as levels
import ccsdt_sample as sampling
import numpy as np
from ase import Atoms
from ase.io import write
from ccsdt_label import fingerprint, labels_path, load_labels
from ccsdt_systems import ATOM_SPINS, SPLITS, SYSTEMS, System

FILES = {
    "train": levels.CCSDT,
    "valid": levels.CCSDT,
    "test": levels.CCSDT,
    "scan": levels.CCSDT,
    "train_pbe0": levels.PBE0,
}
PACKAGES = ("pyscf", "tblite", "ase", "numpy", "scipy")


def _attach(atoms: Atoms, label: dict) -> Atoms:
    frame = atoms.copy()
    frame.info["level_of_theory"] = label["level"]
    frame.info["REF_energy"] = label["energy"]
    if label["forces"] is not None:
        frame.arrays["REF_forces"] = np.array(label["forces"])
    return frame


def labelled_frames(work: Path, system: System, name: str) -> list[Atoms]:
    """Frames of one output file that have a label for exactly their geometry."""
    labels = load_labels(labels_path(work, system.name))
    frames = []
    for atoms in sampling.load_frames(work, system, name.removesuffix("_pbe0")):
        label = labels.get((atoms.info["frame_id"], FILES[name]))
        if label and label["geometry"] == fingerprint(atoms):
            frames.append(_attach(atoms, label))
    return frames


def _write_atomically(path: Path, frames: list[Atoms]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    write(partial, frames, format="extxyz")
    partial.rename(path)


def write_system(work: Path, out: Path, system: System) -> dict[str, dict[str, int]]:
    """Write every file of one molecule that has labels; returns the counts per file."""
    counts = {}
    for name in FILES:
        frames = labelled_frames(work, system, name)
        if frames:
            _write_atomically(out / system.name / f"{name}.xyz", frames)
            with_forces = sum("REF_forces" in frame.arrays for frame in frames)
            counts[name] = {"energies": len(frames), "forces": with_forces}
    return counts


def write_isolated_atoms(work: Path, out: Path) -> None:
    """Write the isolated-atom energies of both levels."""
    labels = load_labels(labels_path(work, "isolated_atoms"))
    for name, level in (("isolated_atoms", levels.CCSDT), ("isolated_atoms_pbe0", levels.PBE0)):
        frames = []
        for symbol, unpaired in ATOM_SPINS.items():
            atoms = Atoms(symbol, positions=np.zeros((1, 3)), pbc=False)
            atoms.info.update(
                frame_id=symbol, config_type="IsolatedAtom", multiplicity=unpaired + 1
            )
            frames.append(_attach(atoms, labels[symbol, level]))
        _write_atomically(out / f"{name}.xyz", frames)


def _timings(work: Path, systems: Iterable[System]) -> dict[str, dict[str, float]]:
    """Median wall seconds per label on one core, by molecule and kind."""
    table: dict[str, dict[str, float]] = {}
    for system in systems:
        seconds: dict[str, list[float]] = {}
        for label in load_labels(labels_path(work, system.name)).values():
            kind = f"{label['level']}{', with forces' if label['forces'] else ''}"
            seconds.setdefault(kind, []).append(label["seconds"])
        table[system.name] = {
            kind: round(float(np.median(values)), 1) for kind, values in seconds.items()
        }
    return table


def write_provenance(work: Path, out: Path, counts: dict[str, dict[str, dict[str, int]]]) -> None:
    """Write versions, settings, counts and timings to ``provenance.json``."""
    content = {
        "versions": {"python": platform.python_version()}
        | {package: version(package) for package in PACKAGES},
        "levels_of_theory": {
            levels.CCSDT: {
                "reference": "RHF (UHF for isolated atoms)",
                "frozen_core": "1s of C, N and O",
                "scf_conv_tol_hartree": levels.SCF_TOL_HARTREE,
                "cc_conv_tol_hartree": levels.CC_TOL_HARTREE,
                "cc_conv_tol_amplitudes": levels.CC_TOL_AMPLITUDES,
                "forces": "analytic",
            },
            levels.PBE0: {
                "reference": "RKS (UKS for isolated atoms)",
                "density_fitting_basis": "PySCF default for def2-SVP",
                "grid_level": levels.PBE0_GRID_LEVEL,
                "scf_conv_tol_hartree": levels.PBE0_TOL_HARTREE,
                "forces": "analytic, with grid response",
            },
        },
        "sampling": {
            "method": "GFN2-xTB Langevin dynamics",
            "timestep_fs": sampling.TIMESTEP_FS,
            "friction_per_fs": sampling.FRICTION_PER_FS,
            "equilibration_fs": sampling.EQUILIBRATION_FS,
            "spacing_fs": sampling.SPACING_FS,
            "trajectories": f"one per split ({', '.join(SPLITS)}) and temperature, own seeds",
            "seeds": {system.name: system.seed for system in SYSTEMS.values()},
        },
        "counts": counts,
        "median_seconds_per_label": _timings(work, SYSTEMS.values()),
    }
    (out / "provenance.json").write_text(json.dumps(content, indent=2) + "\n")


def write_all(work: Path, out: Path) -> None:
    """Write all data files and the provenance."""
    counts = {
        system.name: write_system(work, out, system)
        for system in SYSTEMS.values()
        if labels_path(work, system.name).exists()
    }
    write_isolated_atoms(work, out)
    write_provenance(work, out, counts)
    print(json.dumps(counts, indent=2))
