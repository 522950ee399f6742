"""Physical facts that hold for every potential."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from scipy.spatial.transform import Rotation

from finetune.data.graphs import GraphBatch, concatenate, graph
from finetune.data.labels import Structure
from finetune.errors import FoundationError
from finetune.foundation.mace import MacePotential
from finetune.testing import tiny_mace
from tests.conftest import rattled, structure
from tests.tolerances import FINITE_DIFFERENCE, ROUNDING_ENERGY, ROUNDING_FORCES


def test_energy_is_invariant_and_forces_turn_with_the_molecule(potential: MacePotential) -> None:
    atoms = rattled("CH3CH2OH", 3)
    turn = Rotation.from_euler("xyz", [0.3, -1.1, 2.0]).as_matrix()
    turned = atoms.copy()
    turned.positions = atoms.positions @ turn.T + [1.0, -2.0, 0.5]
    mirrored = atoms.copy()
    mirrored.positions *= -1
    here, there, mirror = (
        potential(graph(structure(item), potential.cutoff)) for item in (atoms, turned, mirrored)
    )
    assert abs(here.energy - there.energy).item() < ROUNDING_ENERGY
    assert abs(here.energy - mirror.energy).item() < ROUNDING_ENERGY
    expected = here.forces.numpy() @ turn.T
    np.testing.assert_allclose(there.forces.numpy(), expected, atol=ROUNDING_FORCES)
    np.testing.assert_allclose(mirror.forces.numpy(), -here.forces.numpy(), atol=ROUNDING_FORCES)


def test_order_of_atoms_does_not_matter(potential: MacePotential) -> None:
    atoms = rattled("CH3CH2OH", 4)
    order = np.random.default_rng(0).permutation(len(atoms))
    here = potential(graph(structure(atoms), potential.cutoff))
    there = potential(graph(structure(atoms[order]), potential.cutoff))
    assert abs(here.energy - there.energy).item() < ROUNDING_ENERGY
    np.testing.assert_allclose(there.forces, here.forces[order], atol=ROUNDING_FORCES)


def test_forces_are_minus_the_gradient_of_the_energy(potential: MacePotential) -> None:
    atoms, step = rattled("CH3OH", 5), 1e-4

    def energy(atom: int, axis: int, shift: float) -> float:
        moved = atoms.copy()
        moved.positions[atom, axis] += shift
        return potential(graph(structure(moved), potential.cutoff), forces=False).energy.item()

    forces = potential(graph(structure(atoms), potential.cutoff)).forces
    for atom, axis in ((0, 0), (1, 2), (4, 1)):
        slope = (energy(atom, axis, step) - energy(atom, axis, -step)) / (2 * step)
        assert forces[atom, axis].item() == pytest.approx(-slope, abs=FINITE_DIFFERENCE)


def test_stress_is_the_gradient_by_strain_over_volume(
    potential: MacePotential, diamond: Atoms
) -> None:
    step = 1e-5

    def energy(row: int, column: int, size: float) -> float:
        strain = np.zeros((3, 3))
        strain[row, column] += size / 2
        strain[column, row] += size / 2
        strained = diamond.copy()
        strained.set_cell(diamond.cell.array @ (np.eye(3) + strain), scale_atoms=True)
        return potential(graph(structure(strained), potential.cutoff), forces=False).energy.item()

    found = potential(graph(structure(diamond), potential.cutoff), stress=True)
    for row, column in ((0, 0), (1, 2)):
        slope = (energy(row, column, step) - energy(row, column, -step)) / (2 * step)
        assert found.stress[0, row, column].item() == pytest.approx(
            slope / diamond.get_volume(), abs=1e-7
        )


def test_a_batch_of_mixed_sizes_equals_its_structures_one_by_one(
    potential: MacePotential, mixed_graphs: list[GraphBatch]
) -> None:
    together = potential(concatenate(mixed_graphs), stress=True)
    alone = [potential(item, stress=True) for item in mixed_graphs]
    for name, tolerance in (
        ("energy", ROUNDING_ENERGY),
        ("forces", ROUNDING_FORCES),
        ("stress", ROUNDING_FORCES),
        ("node_energy", ROUNDING_ENERGY),
    ):
        singles = torch.cat([getattr(item, name) for item in alone])
        np.testing.assert_allclose(
            getattr(together, name).detach(), singles.detach(), atol=tolerance, rtol=0
        )


def test_far_apart_fragments_add_up(potential: MacePotential) -> None:
    first, second = molecule("CH4"), molecule("NH3")
    second.positions += [0.0, 0.0, 50.0]
    pair = potential(graph(structure(first + second), potential.cutoff)).energy
    parts = [potential(graph(structure(a), potential.cutoff)).energy for a in (first, second)]
    assert abs(pair - sum(parts)).item() < ROUNDING_ENERGY


def test_a_free_atom_feels_nothing(potential: MacePotential) -> None:
    found = potential(graph(structure(Atoms("O")), potential.cutoff), stress=True)
    assert not found.forces.any()
    assert not found.stress.any()


def test_neighbours_in_the_skin_change_nothing(
    potential: MacePotential, mixed: list[Structure]
) -> None:
    for item in mixed:
        bare = potential(graph(item, potential.cutoff), stress=True)
        skinned = potential(graph(item, potential.cutoff, skin=0.6), stress=True)
        assert abs(bare.energy - skinned.energy).item() < ROUNDING_ENERGY
        np.testing.assert_allclose(skinned.forces, bare.forces, atol=ROUNDING_FORCES)


def test_single_precision_keeps_total_energies_exact_in_the_references(
    potential: MacePotential,
) -> None:
    item = graph(structure(rattled("CH3CH2OH", 6)), potential.cutoff)
    single = tiny_mace().float()
    assert single.reference_energies.dtype == torch.float64
    found = single(item.to(torch.device("cpu"), torch.float32))
    assert found.energy.dtype == torch.float64
    assert found.forces.dtype == torch.float32
    assert abs(found.energy - potential(item).energy).item() < 1e-5


def test_nothing_but_energies_is_computed_unasked(
    potential: MacePotential, mixed_graphs: list[GraphBatch], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a gradient was taken")

    monkeypatch.setattr(torch.autograd, "grad", refuse)
    found = potential(mixed_graphs[0], forces=False)
    assert found.forces is None
    assert found.stress is None


def test_unknown_elements_are_named(potential: MacePotential) -> None:
    with pytest.raises(FoundationError, match=r"knows H C N O but not .*Cl"):
        potential(graph(structure(molecule("CH3Cl")), potential.cutoff))
