"""What the suites compare: an untrained potential, distorted structures, and predictions."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk, molecule

from finetune.core.units import Prediction
from finetune.data.graphs import GraphBatch, concatenate, graph
from finetune.data.structures import without_labels
from finetune.potentials.family import UNNAMED
from finetune.potentials.potential import FamilyPotential, Potential
from finetune.testing.analytic import small_potential


@cache
def plain_potential(seed: int = 0, kind: str = UNNAMED) -> FamilyPotential:
    """A potential without reference energies: large numbers would drown small differences."""
    potential = small_potential(kind, seed)
    potential.set_references(dict.fromkeys(potential.elements, 0.0))
    return potential


def graph_of(atoms: Atoms, potential: Potential, skin: float = 0.0) -> GraphBatch:
    """Return atoms without their labels, as a batch of one."""
    return graph(without_labels(atoms, "structure"), potential.cutoff, skin)


def random_rotation() -> torch.Tensor:
    """Return a proper rotation ``[3, 3]``, always the same."""
    generator = torch.Generator().manual_seed(2)
    matrix = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    rotation: torch.Tensor = torch.linalg.qr(matrix)[0]
    return rotation * torch.linalg.det(rotation).sign()


def rotated(batch: GraphBatch, rotation: torch.Tensor) -> GraphBatch:
    """Return structures and labels, turned."""
    return replace(
        batch,
        positions=batch.positions @ rotation.T,
        cell=batch.cell @ rotation.T,
        forces=batch.forces @ rotation.T,
        stress=rotation @ batch.stress @ rotation.T,
        identity=batch.identity + 2,
    )


@cache
def distorted_batch(cutoff: float) -> GraphBatch:
    """A molecule, a smaller one, a free atom and a crystal, all distorted."""
    random = np.random.default_rng(0)
    items = [molecule("CH3CH2OH"), molecule("NH3"), Atoms("H"), bulk("C", "diamond", 3.5)]
    graphs = []
    for atoms in items:
        atoms.positions += random.normal(0.0, 0.08, atoms.positions.shape)
        graphs.append(graph(without_labels(atoms, "structure"), cutoff, skin=0.01))
    return concatenate(graphs)


def predict(potential: Potential, batch: GraphBatch | None = None) -> Prediction:
    """Return energies and forces, of `distorted_batch` if no other is given."""
    return potential(batch or distorted_batch(potential.cutoff), create_graph=False)


def forces_of(prediction: Prediction) -> torch.Tensor:
    """Return the forces [N, 3], eV/Å, of a prediction that has them."""
    assert prediction.forces is not None
    return prediction.forces


def difference(first: Prediction, second: Prediction) -> float:
    """Return the largest difference of two predictions: eV or eV/Å."""
    energy = largest(first.energy - second.energy)
    return max(energy, largest(forces_of(first) - forces_of(second)))


def largest(values: torch.Tensor) -> float:
    """Return the largest absolute value, infinite where one is NaN."""
    found = float(values.detach().abs().max())
    return math.inf if math.isnan(found) else found
