"""Compare two potentials on structures in which every element that they know occurs."""

from __future__ import annotations

from itertools import cycle, islice

import numpy as np

from finetune.data.graphs import GraphBatch, concatenate, graph
from finetune.data.labels import Structure
from finetune.foundation.potential import Potential

_SPACING, _RATTLE, _ATOMS = 1.8, 0.3, 8  # Å, Å and atoms of a structure


def difference(first: Potential, second: Potential) -> tuple[float, float, float]:
    """Return the largest differences of energies, eV, and forces, eV/Å, and a scale for both.

    The scale is one plus the largest force.
    """
    batch = structures(first).to(first.device, first.dtype)
    one, other = (potential(batch, create_graph=False) for potential in (first, second))
    assert one.forces is not None and other.forces is not None
    return (
        float((one.energy - other.energy).abs().max()),
        float((one.forces - other.forces).abs().max()),
        1.0 + float(one.forces.abs().max()),
    )


def structures(potential: Potential) -> GraphBatch:
    """Return clusters, the first one periodic, in which every element of a potential occurs."""
    draw = np.random.default_rng(0)
    grid = _SPACING * np.array(list(np.ndindex(2, 2, 2)), dtype=np.float64)
    numbers = cycle(potential.elements)
    found = []
    for index in range(1 + len(potential.elements) // _ATOMS):
        item = Structure(
            numbers=np.array(list(islice(numbers, _ATOMS)), dtype=np.int64),
            positions=grid + draw.uniform(-_RATTLE, _RATTLE, grid.shape),
            cell=2 * _SPACING * np.eye(3),
            pbc=np.array([index == 0] * 3),
        )
        found.append(graph(item, potential.cutoff))
    return concatenate(found)
