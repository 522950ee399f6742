"""What happens when two molecules are pressed together: the potential against GFN2-xTB."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from ase.data import vdw_radii
from mace.modules.models import ScaleShiftMACE
from numpy.typing import NDArray

from .dataset import graph, neighbour_list
from .model import R_MAX
from .sampling import Array, Integers, Xtb, embed, random_rotation

MOLECULES = ("O", "C", "C=O", "CCO", "NC=O", "C=C")
ORIENTATIONS = 5
#: Shortest distance between the molecules over the sum of the van der Waals radii.
CONTACTS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
APART = 30.0  # Å


def _approaches(smiles: str, rng: np.random.Generator) -> Iterator[tuple[Integers, list[Array]]]:
    """Atomic numbers and positions (Å) of a dimer: far apart first, then at the contacts."""
    numbers, conformers, _ = embed(smiles, 1, int(rng.integers(2**31 - 1)))
    x = conformers[0] - conformers[0].mean(axis=0)
    contact = vdw_radii[numbers][:, None] + vdw_radii[numbers][None]
    for _ in range(ORIENTATIONS):
        turned, along = x @ random_rotation(rng).T, random_rotation(rng)[0]
        path = [np.concatenate([x, turned + APART * along])]
        for target in CONTACTS:
            for distance in np.arange(20.0, 0.0, -0.01):
                gap = np.linalg.norm(x[:, None] - turned[None] - distance * along, axis=-1)
                if (gap / contact).min() < target:
                    break
            path.append(np.concatenate([x, turned + distance * along]))
        yield np.concatenate([numbers, numbers]), path


def _energy(model: ScaleShiftMACE, numbers: Integers, positions: Array) -> float:
    dtype: torch.dtype = next(model.parameters()).dtype
    edges: NDArray[np.int64] = neighbour_list(positions, R_MAX)
    out = model(graph(numbers, positions, edges, np.array([len(numbers)]), dtype))
    return float(out["interaction_energy"].detach())


def repulsion(model: ScaleShiftMACE, seed: int) -> dict[str, Any]:
    """Interaction energies (eV) of rigid dimers by contact.

    ``rising`` is the share of approaches on which the energy of the potential grows at every
    step from contact 0.7 inwards.
    """
    rng = np.random.default_rng(seed)
    ours, theirs = [], []
    for smiles in MOLECULES:
        for numbers, path in _approaches(smiles, rng):
            ours.append([_energy(model, numbers, x) for x in path])
            theirs.append([Xtb(numbers, x)(x)[0] for x in path])
    potential, xtb = (np.array(e)[:, 1:] - np.array(e)[:, :1] for e in (ours, theirs))
    inward = np.diff(potential[:, CONTACTS.index(0.7) :], axis=1)
    return {
        "molecules": list(MOLECULES),
        "approaches": len(potential),
        "rising": float((inward > 0).all(axis=1).mean()),
        "contacts": [
            {
                "contact": c,
                "xtb_median_ev": float(np.median(xtb[:, k])),
                "potential_median_ev": float(np.median(potential[:, k])),
                "potential_lowest_ev": float(potential[:, k].min()),
                "mae_ev": float(np.abs(potential - xtb)[:, k].mean()),
            }
            for k, c in enumerate(CONTACTS)
        ],
    }
