"""Figures of the trained potential: held-out errors and constant-energy dynamics."""

from __future__ import annotations

import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mace.modules.models import ScaleShiftMACE
from numpy.typing import NDArray

from .dataset import Configurations, labels_of, load
from .dynamics import constant_energy
from .model import R_MAX, parameter_count
from .molecules import EMPHASISED, canonical
from .predictions import predict
from .repulsion import repulsion

#: Ethanol, malonaldehyde (enol form), acetic acid, glycine.
NVE_MOLECULES = ["CCO", "O=CC=CO", "CC(=O)O", "NCC(=O)O"]
NVE_TEMPERATURES = [300.0, 600.0]
LIBRARIES = ("ase", "e3nn", "mace-torch", "numpy", "rdkit", "tblite", "torch")

Figures = dict[str, Any]


def bands(data: Configurations) -> dict[str, NDArray[np.bool_]]:
    """Named groups of configurations: temperatures of the dynamics, kinds of distortion."""
    dynamics = data.kind == "dynamics"
    found = {"300-800 K": dynamics & (data.temperature <= 800)}
    found |= {
        f"{t} K": dynamics & (data.temperature == t)
        for t in sorted(set(data.temperature[dynamics].tolist()))
    }
    found |= {kind: data.kind == kind for kind in ("displaced", "stretched", "dimer")}
    return found | {"all": np.ones(len(data), dtype=bool)}


def errors(
    data: Configurations,
    indices: NDArray[np.int64],
    energies: NDArray[np.float64],
    forces: NDArray[np.float64],
) -> Figures:
    """Errors by band for predictions of the configurations ``indices``.

    ``relative`` energies are compared after taking off the mean error of each molecule over its
    configurations in the band.
    """
    energy_labels, force_labels = labels_of(data, indices)
    sizes = data.n_atoms[indices]
    per_atom = 1e3 * (energies - energy_labels) / sizes
    force_error = 1e3 * (forces - force_labels)
    figures: Figures = {}
    for name, selected in bands(data).items():
        mask = selected[indices]
        if not mask.any():
            continue
        on_atoms = np.repeat(mask, sizes)
        molecule = data.molecule[indices][mask]
        _, group = np.unique(molecule, return_inverse=True)
        mean = np.bincount(group, per_atom[mask]) / np.bincount(group)
        figures[name] = {
            "molecules": int(group.max() + 1),
            "configurations": int(mask.sum()),
            "force_mae_mev_per_angstrom": float(np.abs(force_error[on_atoms]).mean()),
            "force_rmse_mev_per_angstrom": float(np.sqrt((force_error[on_atoms] ** 2).mean())),
            "force_label_rms_mev_per_angstrom": float(
                1e3 * np.sqrt((force_labels[on_atoms] ** 2).mean())
            ),
            "energy_mae_mev_per_atom": float(np.abs(per_atom[mask]).mean()),
            "energy_rmse_mev_per_atom": float(np.sqrt((per_atom[mask] ** 2).mean())),
            "relative_energy_mae_mev_per_atom": float(np.abs(per_atom[mask] - mean[group]).mean()),
        }
    return figures


def data_figures(data: Configurations, splits: dict[str, NDArray[np.int64]]) -> Figures:
    """Numbers of molecules and configurations, whole and by split and kind."""
    kinds, counts = np.unique(data.kind, return_counts=True)
    return {
        "molecules": len(data.smiles),
        "configurations": len(data),
        "atoms_per_configuration": float(data.n_atoms.mean()),
        "by_kind": dict(zip(kinds.tolist(), counts.tolist(), strict=True)),
        "by_split": {
            name: {"molecules": len(np.unique(data.molecule[i])), "configurations": len(i)}
            for name, i in splits.items()
        },
    }


def setting(model: torch.nn.Module, data: Configurations, seed: int) -> Figures:
    """Return what the figures are about: seed, size, data, versions."""
    return {
        "seed": seed,
        "parameters": parameter_count(model),
        "data": data_figures(data, data.splits(seed)),
        "libraries": {
            "python": platform.python_version(),
            **{name: version(name) for name in LIBRARIES},
        },
    }


def evaluate(
    model: ScaleShiftMACE, double: ScaleShiftMACE, work: Path, seed: int, nve_steps: int
) -> Figures:
    """All figures: ``model`` in single precision for errors, ``double`` for the dynamics."""
    start = time.monotonic()
    data = load(work / "configurations", R_MAX)
    splits = data.splits(seed)
    named = {canonical(s) for s in EMPHASISED}
    emphasised = np.array([s in named for s in data.smiles])[data.molecule]
    groups = {
        "test": splits["test"],
        "valid": splits["valid"],
        "emphasised_training_molecules": np.flatnonzero(emphasised),
    }
    held_out = {
        name: errors(data, indices, *predict(model, data, indices))
        for name, indices in groups.items()
    }
    return setting(model, data, seed) | {
        "errors": held_out,
        "nve": constant_energy(double, NVE_MOLECULES, NVE_TEMPERATURES, nve_steps, 0.5, seed),
        "repulsion": repulsion(double, seed),
        "evaluation_wall_s": time.monotonic() - start,
    }
