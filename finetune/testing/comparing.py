"""What the suites compare: an untrained potential, distorted structures, and predictions."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk, molecule

from finetune.core.prediction import Prediction
from finetune.data.graphs import GraphBatch, concatenate, graph
from finetune.potentials.potential import Potential
from finetune.testing.analytic import tiny_mace
from finetune.testing.runs import structure_of


@cache
def plain_potential() -> Potential:
    """A potential without reference energies: large numbers would drown small differences."""
    potential = tiny_mace()
    potential.set_references(dict.fromkeys(potential.elements, 0.0))
    return potential


@cache
def distorted_batch() -> GraphBatch:
    """A molecule, a smaller one, a free atom and a crystal, all distorted."""
    random = np.random.default_rng(0)
    items = [molecule("CH3CH2OH"), molecule("NH3"), Atoms("H"), bulk("C", "diamond", 3.5)]
    graphs = []
    for atoms in items:
        atoms.positions += random.normal(0.0, 0.08, atoms.positions.shape)
        graphs.append(graph(structure_of(atoms), plain_potential().cutoff, skin=0.01))
    return concatenate(graphs)


def predict(potential: Potential, batch: GraphBatch | None = None) -> Prediction:
    """Return energies and forces, of `distorted_batch` if no other is given."""
    return potential(distorted_batch() if batch is None else batch, create_graph=False)


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
