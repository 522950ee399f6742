"""Graphs hold every pair within reach, for any mixture of periodic and open directions."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.neighborlist import neighbor_list

from finetune.data.graphs import GraphBatch, concatenate, graph
from tests.conftest import structure


def slab() -> Atoms:
    atoms = bulk("Si", cubic=True)
    atoms.pbc = (True, True, False)
    return atoms


def shifted() -> Atoms:
    atoms = molecule("CH3CH2OH")
    atoms.positions += 40.0
    atoms.set_cell([3.0, 3.0, 3.0])
    return atoms


@pytest.mark.parametrize(
    "atoms",
    [molecule("CH3CH2OH"), bulk("Si"), bulk("Cu"), slab(), shifted(), Atoms("H")],
    ids=["molecule", "small cell", "metal", "slab", "far from the origin", "atom"],
)
def test_edges_equal_those_of_ase(atoms: Atoms) -> None:
    found = graph(structure(atoms), cutoff=4.5, skin=0.5)
    boxed = atoms.copy()
    for axis in range(3):
        if not atoms.pbc[axis]:
            boxed.center(vacuum=20.0, axis=axis)
    sender, receiver, shift = neighbor_list("ijS", boxed, 5.0)
    expected = sorted(zip(sender.tolist(), receiver.tolist(), shift.tolist(), strict=True))
    ours = zip(*found.edge_index.tolist(), found.unit_shifts.int().tolist(), strict=True)
    assert sorted(ours) == expected


def test_concatenation_keeps_structures_apart(mixed_graphs: list[GraphBatch]) -> None:
    batch = concatenate(mixed_graphs)
    assert batch.atoms.tolist() == [9, 5, 4, 1, 2]
    assert len(batch) == 5
    same = batch.structure[batch.edge_index[0]] == batch.structure[batch.edge_index[1]]
    assert bool(same.all())
    assert batch.sum_atoms(torch.ones(21)).tolist() == batch.atoms.tolist()


def test_absent_labels_are_masked_not_zero() -> None:
    atoms = molecule("H2O")
    atoms.arrays["REF_forces"] = np.ones((3, 3))
    labelled, bare = graph(structure(atoms), 4.0), graph(structure(molecule("CH4")), 4.0)
    batch = concatenate([labelled, bare])
    assert batch.has_energy.tolist() == [False, False]
    assert batch.has_forces.tolist() == [True] * 3 + [False] * 5


def test_displaced_copies_carry_no_labels(mixed_graphs: list[GraphBatch]) -> None:
    batch = concatenate(mixed_graphs)
    moved = batch.displaced(torch.full_like(batch.positions, 0.1))
    assert torch.allclose(moved.positions, batch.positions + 0.1)
    assert not moved.has_energy.any()
    assert not moved.has_forces.any()


def test_only_full_cells_have_a_volume(mixed_graphs: list[GraphBatch], diamond: Atoms) -> None:
    volumes = concatenate(mixed_graphs).volume
    assert volumes[:4].tolist() == [0.0] * 4
    assert volumes[4].item() == pytest.approx(diamond.get_volume())
