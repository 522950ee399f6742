"""Harmonic frequencies at each potential's own minimum, and its change against the baseline."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.build import minimize_rotation_and_translation
from ase.collections import g2
from ase.optimize import BFGS

from finetune.core.errors import FinetuneError
from finetune.evaluation.curves import unlabelled
from finetune.evaluation.distances import Array
from finetune.evaluation.statistics import SMALLEST_FORCE, measure
from finetune.potentials.errors import predict
from finetune.potentials.potential import Potential

FORCE, STEPS = 0.005, 500
"""eV/Å to which structures are relaxed, and the steps allowed."""
DISPLACEMENT = 0.01
"""Å."""
SADDLE, SADDLES, WAY_DOWN = 50.0, 2, 0.1
"""Size of an imaginary frequency (cm⁻¹) that marks a saddle, how often a structure is moved off one
and relaxed again, and the largest move of an atom along the mode (Å)."""
RATTLE, MOST = 0.05, 40
"""Å by which molecules are rattled, and how many are used at most."""


def frequencies(calculators: Mapping[str, Any], atoms: Atoms, where: str) -> dict[str, Any]:
    """Relax a structure and find its harmonic frequencies with each potential (at Γ, fixed cell).

    The calculators give −dE/dr: forces of a head have no symmetric matrix of force constants.
    Returns for each ``relaxed`` (whether a minimum was found), ``moved`` (RMSD from the start, Å,
    molecules superposed), ``frequencies`` (cm⁻¹, ascending, imaginary ones negative, without the 3,
    5 or 6 of translations and rotations), ``imaginary`` (their number); and ``shift``, the mean
    absolute difference of two potentials, None where the numbers differ (linear and bent minima).
    """
    found = {name: _one(calculator, atoms) for name, calculator in calculators.items()}
    result: dict[str, Any] = {"structure": where, "potentials": found, "shift": None}
    lists = [item["frequencies"] for item in found.values() if item["relaxed"]]
    if len(lists) == 2 and len(lists[0]) == len(lists[1]) > 0:
        result["shift"] = float(np.abs(np.subtract(*lists)).mean())
    return result


def _one(calculator: Any, atoms: Atoms) -> dict[str, Any]:
    moving = atoms.copy()
    moving.calc = calculator
    found: list[float] = []
    try:
        for _ in range(SADDLES + 1):
            with BFGS(moving, logfile=None) as optimiser, np.errstate(all="ignore"):
                relaxed = bool(optimiser.run(fmax=FORCE, steps=STEPS))
            if not relaxed:
                break
            found, way_down = _vibrations(moving)
            if not found or found[0] >= -SADDLE:
                break
            at_saddle = moving.positions.copy()
            moving.positions += way_down
        else:
            moving.positions = at_saddle
    except (FinetuneError, np.linalg.LinAlgError):  # atoms collide, or the relaxation diverges
        relaxed = False
    if not relaxed:
        return {"relaxed": False, "moved": None, "frequencies": [], "imaginary": None}
    if not atoms.pbc.any():
        minimize_rotation_and_translation(atoms, moving)
    moved = np.sqrt(np.square(moving.positions - atoms.positions).sum(axis=1).mean())
    return {
        "relaxed": True,
        "moved": float(moved),
        "frequencies": found,
        "imaginary": sum(value < 0 for value in found),
    }


def _vibrations(atoms: Atoms) -> tuple[list[float], Array]:
    """Return the frequencies, cm⁻¹, and a step ``[n, 3]``, Å, along the mode of the lowest one."""
    with tempfile.TemporaryDirectory() as folder:
        from ase.vibrations import Vibrations  # imports matplotlib

        work = Vibrations(atoms, name=f"{folder}/vibrations", delta=DISPLACEMENT)
        work.run()
        found = work.get_frequencies()
        values = np.where(found.imag != 0, -np.abs(found.imag), found.real)
        mode = work.get_mode(int(values.argmin()))
    order = np.argsort(np.abs(values), kind="stable")
    step = WAY_DOWN * mode / np.linalg.norm(mode, axis=1).max()
    return sorted(values[order[_rigid(atoms) :]].tolist()), step


def _rigid(atoms: Atoms) -> int:
    """Return the number of translations and rotations."""
    if atoms.pbc.any() or len(atoms) == 1:
        return 3
    spread = np.linalg.svd(atoms.positions - atoms.positions.mean(axis=0), compute_uv=False)
    return 5 if spread[1] < 1e-2 * spread[0] else 6


def elsewhere(elements: Sequence[int], apart_from: Sequence[str]) -> list[Atoms]:
    """Return rattled closed-shell molecules of the G2 set (Curtiss et al. 1997), by element."""
    random = np.random.default_rng(0)
    found = []
    for name in g2.names:
        atoms = g2[name]
        known = set(atoms.numbers.tolist()) <= set(elements)
        closed = len(atoms) > 1 and not atoms.get_initial_magnetic_moments().any()
        if known and closed and atoms.get_chemical_formula() not in apart_from:
            atoms.positions += random.normal(0.0, RATTLE, atoms.positions.shape)
            found.append(Atoms(atoms.numbers, atoms.positions))
    return found[:MOST]


def change(tuned: Potential, baseline: Potential, frames: Sequence[Atoms]) -> dict[str, Any]:
    """Measure the errors of a potential with the predictions of its baseline as labels.

    Adds to the statistics of `Measured` (eV, Å) ``forces_rms`` of the baseline's force components
    (eV/Å), and ``relative``, the RMS change as a share of it (or of `SMALLEST_FORCE`, if larger).
    """
    cutoff = max(tuned.cutoff, baseline.cutoff)
    graphs = []
    for atoms in frames:
        graph = unlabelled(atoms, cutoff)
        labels = baseline(graph.to(baseline.device, baseline.dtype), create_graph=False)
        energy, forces = labels.energy.detach().cpu(), labels.forces.detach().cpu().double()
        graph = replace(graph, energy=energy, has_energy=torch.ones_like(graph.has_energy))
        graphs.append(replace(graph, forces=forces, has_forces=torch.ones_like(graph.has_forces)))
    predictions = predict(tuned, graphs)
    measured = measure(predictions)
    size = float(np.sqrt(np.square(predictions.forces[1]).mean()))
    relative = measured.statistics["forces"].rmse / max(size, SMALLEST_FORCE)
    found = {"structures": len(frames), **measured.as_dict()}
    return {**found, "forces_rms": size, "relative": relative}
