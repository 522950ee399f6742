"""Structures with labels that an embedded potential itself gives."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ase import Atoms

from finetune.data.graphs import batches, graph
from finetune.data.structures import Structure
from finetune.potentials.loading import load_foundation
from tests.conftest import structure

NAME = "tiny-xtb-hcno"


def exact(frames: Sequence[Atoms]) -> list[Structure]:
    """Return structures with the potential's own labels."""
    potential, found = load_foundation(NAME).potential, []
    for index, atoms in enumerate(frames):
        item = structure(atoms, f"'made.xyz', structure {index}")
        (batch,) = batches([graph(item, potential.cutoff)], 1)
        predicted = potential(batch, forces=True, stress=bool(atoms.pbc.all()))
        labels: dict[str, Any] = {
            "energy": float(predicted.energy[0].detach()),
            "forces": predicted.forces.detach().numpy(),
        }
        if predicted.stress is not None:
            labels["stress"] = predicted.stress[0].detach().numpy()
        found.append(replace(item, **labels))
    return found
