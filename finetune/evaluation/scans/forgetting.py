"""How far a fine-tuned potential has moved from its foundation where it was not trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.collections import g2

from finetune.evaluation.metrics import predict
from finetune.evaluation.scans.curves import unlabelled
from finetune.evaluation.statistics import SMALLEST_FORCE, measure
from finetune.foundation.potential import Potential

RATTLE, MOST = 0.05, 40
"""Å by which molecules are rattled, and how many are taken."""


def elsewhere(elements: Sequence[int], apart_from: Sequence[str]) -> list[Atoms]:
    """Return rattled closed-shell molecules of the G2 set (L. A. Curtiss et al. 1997).

    Args:
        elements: Atomic numbers that they may hold.
        apart_from: Formulas (Hill order) to leave out.
    """
    random = np.random.default_rng(0)
    found = []
    for name in g2.names:
        atoms = g2[name]
        if (
            len(atoms) < 2
            or atoms.get_initial_magnetic_moments().any()
            or not set(atoms.numbers.tolist()) <= set(elements)
            or atoms.get_chemical_formula() in apart_from
        ):
            continue
        atoms.positions += random.normal(0.0, RATTLE, atoms.positions.shape)
        found.append(Atoms(atoms.numbers, atoms.positions))
    return found[:MOST]


def change(tuned: Potential, foundation: Potential, frames: Sequence[Atoms]) -> dict[str, Any]:
    """Measure a fine-tuned potential against what its foundation says, as if that were labels.

    Returns:
        ``structures``; every statistic of `Measured` (eV, Å); ``forces_rms``, the root mean square
        of the foundation's force components (eV/Å), and ``relative``, the RMS change of forces as a
        share of it, or of `SMALLEST_FORCE` where it is smaller.
    """
    cutoff = max(tuned.cutoff, foundation.cutoff)
    graphs = []
    for atoms in frames:
        graph = unlabelled(atoms, cutoff)
        item = graph.to(foundation.device, foundation.dtype)
        labels = foundation(item, create_graph=False)
        graphs.append(
            replace(
                graph,
                energy=labels.energy.detach().cpu(),
                has_energy=torch.ones_like(graph.has_energy),
                forces=labels.forces.detach().cpu().double(),
                has_forces=torch.ones_like(graph.has_forces),
            )
        )
    predictions = predict(tuned, graphs)
    measured = measure(predictions)
    size = float(np.sqrt(np.square(predictions.forces[1]).mean()))
    rmse = measured.statistics["forces"].rmse
    return {
        "structures": len(frames),
        **measured.as_dict(),
        "forces_rms": size,
        "relative": rmse / max(size, SMALLEST_FORCE),
    }
