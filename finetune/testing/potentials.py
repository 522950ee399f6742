"""What every potential must hold, as tests to inherit."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from scipy.spatial.transform import Rotation

from finetune.core.errors import FoundationError
from finetune.core.units import Prediction
from finetune.data.graphs import GraphBatch, concatenate
from finetune.potentials.potential import Potential
from finetune.testing.comparing import forces_of, graph_of, largest

ENERGY, FORCES = 1e-9, 1e-9
"""eV and eV/Å: rounding in float64, on total energies of thousands of eV."""
SLOPE, STRESS = 1e-6, 1e-7
"""eV/Å and eV/Å³: central differences."""


class PotentialSuite:
    """Tests of a potential: subclass it in a file of your tests and say how the potential is made.

    ```python
    class TestMine(finetune.testing.PotentialSuite):
        conservative = False

        def potential(self):
            return MyPotential(...)
    ```

    The potential must know H, C, N and O and be in float64, on the CPU, in evaluation mode.
    """

    conservative = True
    """Set to False if forces are not the gradient of the energy."""
    has_stress = True
    """Set to False if there is no stress; asking for it must then raise a `FoundationError`."""
    inversion = True
    """Set to False if the potential is invariant under rotations alone, not under inversion."""
    rotations = True
    """Set to False if the network learns how energies and forces turn, instead of having it built
    in; nothing is then tested but translations."""
    extensive = True
    """Set to False if the energy depends on averages over the structure, so that atoms far apart
    are felt."""
    force_near_cutoff = 1e-6
    """eV/Å: the largest force at 10⁻⁵ Å from the cutoff. Where the second derivative of the energy
    jumps there, the force is proportional to the distance: set to 1e-4."""

    def potential(self) -> Potential:
        """Return the potential to test."""
        raise NotImplementedError

    def molecule(self, seed: int = 0) -> Atoms:
        """Return a distorted molecule."""
        atoms = molecule("CH3CH2OH")
        atoms.positions += np.random.default_rng(seed).normal(0.0, 0.1, atoms.positions.shape)
        return atoms

    def crystal(self) -> Atoms:
        """Return a distorted crystal whose cell is smaller than the cutoff."""
        atoms = bulk("C", "diamond", 3.5)
        atoms.positions[1] += [0.05, -0.08, 0.03]
        return atoms

    def batch(self, potential: Potential) -> GraphBatch:
        """Return structures of different sizes: molecules, a free atom and the crystal."""
        items = [self.molecule(), molecule("NH3"), Atoms("H"), self.crystal()]
        return concatenate([graph_of(atoms, potential) for atoms in items])

    def _predict(self, potential: Potential, atoms: Atoms, **options: bool) -> Prediction:
        return potential(graph_of(atoms, potential), create_graph=False, **options)

    def test_shapes_and_types(self) -> None:
        """Energies are float64, forces in the potential's type; the parts add up."""
        potential = self.potential()
        batch = self.batch(potential)
        found = potential(batch, stress=self.has_stress)
        assert found.energy.shape == (len(batch),)
        assert found.energy.dtype == found.node_energy.dtype == torch.float64
        assert found.forces is not None and found.forces.shape == batch.positions.shape
        assert found.forces.dtype == potential.dtype
        total = batch.sum_atoms(found.node_energy)
        assert largest(total - found.energy) < ENERGY
        if self.has_stress:
            assert found.stress is not None and found.stress.shape == (len(batch), 3, 3)
            assert not found.stress[:3].any(), "structures without a cell have no stress"
        else:
            assert found.stress is None

    def test_nothing_is_computed_unasked(self) -> None:
        potential = self.potential()
        found = potential(self.batch(potential), forces=False)
        assert found.forces is found.stress is None

    def test_the_batch_is_left_as_it_was(self) -> None:
        potential = self.potential()
        batch = self.batch(potential)
        before = vars(deepcopy(batch))
        potential(batch, stress=self.has_stress)
        for name, value in vars(batch).items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(value, before[name]), name
                assert not value.requires_grad, name

    def test_energy_is_invariant_and_forces_turn(self) -> None:
        """Rotation, translation and inversion change the energy not and turn the forces.

        Without inversion symmetry (``inversion``), rotation and translation alone; translation
        alone where even ``rotations`` are learnt.
        """
        potential, atoms = self.potential(), self.molecule()
        here = self._predict(potential, atoms)
        turn = Rotation.from_euler("xyz", [0.3, -1.1, 2.0]).as_matrix()
        matrices = (turn, -np.eye(3)) if self.inversion else (turn,)
        for matrix in matrices if self.rotations else (np.eye(3),):
            moved = atoms.copy()
            moved.positions = atoms.positions @ matrix.T + [1.0, -2.0, 0.5]
            there = self._predict(potential, moved)
            assert largest(here.energy - there.energy) < ENERGY
            expected = forces_of(here) @ torch.from_numpy(matrix.T)
            assert largest(forces_of(there) - expected) < FORCES

    def test_order_of_atoms_does_not_matter(self) -> None:
        potential, atoms = self.potential(), self.molecule()
        order = np.random.default_rng(0).permutation(len(atoms))
        here, there = (self._predict(potential, item) for item in (atoms, atoms[order]))
        assert largest(here.energy - there.energy) < ENERGY
        assert largest(forces_of(there) - forces_of(here)[order.tolist()]) < FORCES

    def test_a_batch_equals_its_structures(self) -> None:
        potential = self.potential()
        batch = self.batch(potential)
        together = potential(batch, stress=self.has_stress)
        parts = map(batch.single, range(len(batch)))
        alone = [potential(part, stress=self.has_stress) for part in parts]
        for name in ("energy", "node_energy", "forces", "stress")[: 4 if self.has_stress else 3]:
            singles = torch.cat([getattr(item, name) for item in alone])
            assert largest(getattr(together, name) - singles) < FORCES, name

    def test_forces_are_the_gradient_of_the_energy(self) -> None:
        """Minus central differences of the energy; of a conservative potential."""
        if not self.conservative:
            pytest.skip("the potential is declared not conservative")
        potential, atoms, step = self.potential(), self.molecule(), 1e-5
        forces = forces_of(self._predict(potential, atoms))
        for atom, axis in ((0, 0), (1, 2), (4, 1)):
            energies = []
            for sign in (1, -1):
                moved = atoms.copy()
                moved.positions[atom, axis] += sign * step
                energies.append(self._predict(potential, moved, forces=False).energy.item())
            slope = (energies[0] - energies[1]) / (2 * step)
            assert forces[atom, axis].item() == pytest.approx(-slope, abs=SLOPE)

    def test_stress_is_the_gradient_by_strain(self) -> None:
        """Central differences by a symmetric strain over the volume, with ASE's sign."""
        potential, atoms, step = self.potential(), self.crystal(), 1e-5
        if not self.has_stress:
            with pytest.raises(FoundationError):
                self._predict(potential, atoms, stress=True)
            return
        found = self._predict(potential, atoms, stress=True).stress
        assert found is not None
        for row, column in ((0, 0), (1, 2)):
            energies = []
            for sign in (1, -1):
                strain = np.zeros((3, 3))
                strain[row, column] += sign * step / 2
                strain[column, row] += sign * step / 2
                moved = atoms.copy()
                moved.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
                energies.append(self._predict(potential, moved, forces=False).energy.item())
            slope = (energies[0] - energies[1]) / (2 * step)
            expected = slope / atoms.get_volume()
            assert found[0, row, column].item() == pytest.approx(expected, abs=STRESS)

    def test_neighbours_beyond_the_cutoff_change_nothing(self) -> None:
        """Edges in the skin are silent, and atoms far apart do not feel each other."""
        potential = self.potential()
        for atoms in (self.molecule(), self.crystal()):
            bare = self._predict(potential, atoms)
            skinned = potential(graph_of(atoms, potential, skin=0.6), create_graph=False)
            assert largest(bare.energy - skinned.energy) < ENERGY
            assert largest(forces_of(bare) - forces_of(skinned)) < FORCES
        if not self.extensive:
            return
        first, second = molecule("CH4"), molecule("NH3")
        second.positions += [0.0, 0.0, 10 * potential.cutoff]
        pair, *parts = (
            self._predict(potential, atoms).energy for atoms in (first + second, first, second)
        )
        assert largest(pair - parts[0] - parts[1]) < ENERGY

    def test_a_neighbour_leaves_smoothly(self) -> None:
        """Forces on two atoms vanish at the cutoff, or are at least the same on both its sides."""
        potential = self.potential()
        inside, outside = (
            forces_of(self._predict(potential, Atoms("CO", [[0, 0, 0], [0, 0, distance]])))
            for distance in (potential.cutoff - 1e-5, potential.cutoff + 1e-5)
        )
        if self.rotations:
            assert max(largest(inside), largest(outside)) < self.force_near_cutoff
        assert largest(inside - outside) < self.force_near_cutoff

    def test_a_free_atom_feels_nothing(self) -> None:
        assert not forces_of(self._predict(self.potential(), Atoms("O"))).any()

    def test_reference_energies_move_the_energy_alone(self) -> None:
        """They count once for each atom of the element and stay in float64."""
        potential, atoms = self.potential(), self.molecule()
        before = self._predict(potential, atoms)
        references = potential.references()
        potential.set_references({1: references[1] - 100.0})
        after = self._predict(potential, atoms)
        assert largest(before.energy - after.energy - 600.0) < ENERGY
        assert torch.equal(forces_of(before), forces_of(after))
        assert potential.float().reference_energies.dtype == torch.float64

    def test_single_precision_is_close(self) -> None:
        """The same potential in float32 gives energies in float64 and forces in float32."""
        potential, atoms = self.potential(), self.molecule()
        exact = self._predict(potential, atoms)
        single = potential.float()
        batch = graph_of(atoms, potential).to(torch.device("cpu"), torch.float32)
        found = single(batch, create_graph=False)
        assert found.energy.dtype == torch.float64
        assert forces_of(found).dtype == torch.float32
        assert largest(found.energy - exact.energy) < 1e-4
        assert largest(forces_of(found).double() - forces_of(exact)) < 1e-3

    def test_forces_can_be_learnt(self) -> None:
        """Energies and forces can be differentiated by the parameters, for losses on both."""
        potential = self.potential().train()
        found = potential(self.batch(potential))
        (found.energy.sum() + forces_of(found).square().sum()).backward()
        gradients = [p.grad for p in potential.parameters() if p.grad is not None]
        assert any(bool(gradient.abs().max() > 0) for gradient in gradients)
        assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients)

    def test_displaced_copies_are_evaluated_as_they_are(self) -> None:
        """A batch displaced within its skin predicts what its new positions do."""
        potential, atoms = self.potential(), self.molecule()
        shift = 0.02 * torch.ones(len(atoms), 3, dtype=torch.float64)
        shift[0] *= -1
        moved = atoms.copy()
        moved.positions += shift.numpy()
        item = graph_of(atoms, potential, skin=0.2)
        found = potential(item.displaced(shift), create_graph=False)
        expected = self._predict(potential, moved)
        assert largest(found.energy - expected.energy) < ENERGY
        assert largest(forces_of(found) - forces_of(expected)) < FORCES

    def test_unknown_elements_are_named(self) -> None:
        potential = self.potential()
        item = graph_of(molecule("NH3"), potential)
        strange = replace(item, numbers=torch.full_like(item.numbers, 117))
        with pytest.raises(FoundationError, match="Ts"):
            potential(strange)
