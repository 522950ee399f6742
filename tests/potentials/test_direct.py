"""Potentials whose forces come from a head of their own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ase import Atoms
from ase.build import molecule

from finetune.core.errors import RecipeError
from finetune.data.graphs import concatenate
from finetune.potentials.direct.potential import DirectPotential
from finetune.potentials.potential import FamilyPotential
from finetune.testing import FamilySuite, small_potential
from finetune.testing.comparing import forces_of, graph_of, largest


class TestDirect(FamilySuite):
    """On the first family's features."""

    kind = "direct"
    conservative = False


def on(base: FamilyPotential, **options: Any) -> DirectPotential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return DirectPotential(base, **{"channels": 4, **options}).eval()


@pytest.mark.slow
class TestOnSevenNet(FamilySuite):
    """On SevenNet's features."""

    kind = "direct"
    conservative = False
    force_near_cutoff = 1e-3

    def potential(self) -> FamilyPotential:
        return on(small_potential("sevennet"))


@pytest.mark.parametrize("removed", ["nothing", "force", "force_and_torque"])
def test_net_force_and_torque_are_removed(removed: Any) -> None:
    potential = on(small_potential(), removed=removed)
    bent, chain = molecule("CH3CH2OH"), Atoms("CO", [[0, 0, 0], [0, 0, 1.3]])
    bent.rattle(0.1)
    batch = concatenate([graph_of(atoms, potential) for atoms in (bent, chain, Atoms("O"))])
    forces = forces_of(potential(batch)).detach()
    torque = torch.linalg.cross(batch.positions, forces)
    assert (largest(batch.sum_atoms(forces)) < 1e-12) == (removed != "nothing")
    assert (largest(batch.sum_atoms(torque)) < 1e-12) == (removed == "force_and_torque")
    assert forces[:9].any()


def test_gradient_forces_are_those_of_the_base() -> None:
    potential = on(small_potential())
    batch = graph_of(molecule("CH3OH"), potential)
    expected = forces_of(potential.base(batch))
    assert torch.equal(potential.gradient_forces(batch), expected)
    both = potential(batch, gradient=True, stress=True)
    assert torch.equal(both.gradient_forces, expected) and both.stress is not None
    assert not torch.allclose(forces_of(both), expected)
    alone = potential.base(batch, gradient=True)
    assert torch.equal(alone.gradient_forces, forces_of(alone))


def test_held_gradients_teach_the_head_alone() -> None:
    potential = on(small_potential()).train()
    batch = graph_of(molecule("CH3OH"), potential)
    found = potential(batch, gradient="held")
    assert not found.gradient_forces.requires_grad
    (forces_of(found) - found.gradient_forces).square().mean().backward()
    readouts = [item for name, item in potential.named_parameters() if "readouts" in name]
    head = list(potential.model.force_head.parameters())
    assert all(item.grad is None for item in readouts)
    assert all(bool(item.grad.any()) for item in head)


def test_what_cannot_have_a_head_is_refused() -> None:
    direct = on(small_potential())
    with pytest.raises(RecipeError, match="has a head for forces already"):
        DirectPotential(direct)
    with pytest.raises(RecipeError, match="features of atoms that are vectors"):
        DirectPotential(small_potential("chgnet"))
