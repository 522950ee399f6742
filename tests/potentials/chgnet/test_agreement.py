"""The published checkpoints predict what chgnet itself predicts with them."""

import numpy as np
import pytest
import torch

from finetune.data.graphs import concatenate
from finetune.testing.comparing import forces_of, graph_of
from tests.potentials.chgnet.conftest import (
    FILES,
    opened,
    own_interaction,
    own_model,
    own_prediction,
    published,
    structures,
)

NAMES = [name if name == "0.3.0" else pytest.param(name, marks=pytest.mark.slow) for name in FILES]
ENERGY, FORCES, STRESS = 1e-5, 1e-4, 1e-5
"""eV an atom, eV/Å, eV/Å³: chgnet's float32. Its coordinates are fractions of the cell, so that
atoms are off by up to 1e-6 Å; found are 5e-6, 8e-5 and 7e-6."""


@pytest.mark.parametrize("name", NAMES)
def test_predictions_are_those_of_chgnets_calculator(name: str) -> None:
    """Also those of structures together in one batch, in float64."""
    potential = opened(published(name))
    own = own_model(published(name), mlp_out_bias=name == "0.2.0")
    items = structures()
    found = potential(
        concatenate([graph_of(atoms, potential) for atoms in items.values()]), stress=True
    )
    assert found.stress is not None
    forces = torch.split(forces_of(found).detach(), [len(atoms) for atoms in items.values()])
    for index, (what, atoms) in enumerate(items.items()):
        expected = own_prediction(own, atoms)
        energy = float(found.energy[index].detach()) / len(atoms)
        assert energy == pytest.approx(expected.energy / len(atoms), abs=ENERGY), what
        assert np.abs(forces[index].numpy() - expected.forces).max() < FORCES, what
        stress = found.stress[index].detach().numpy()
        assert np.abs(stress - expected.stress).max() < STRESS, what


@pytest.mark.parametrize("name", NAMES)
def test_predictions_are_chgnets_to_rounding_in_float64(name: str) -> None:
    potential = opened(published(name))
    potential.set_references(dict.fromkeys(potential.elements, 0.0))
    own = own_model(published(name), mlp_out_bias=name == "0.2.0")
    for what, atoms in structures().items():
        expected = own_interaction(own, atoms)
        found = potential(graph_of(atoms, potential), stress=True, create_graph=False)
        assert found.stress is not None
        assert float(found.energy) == pytest.approx(expected.energy, abs=1e-9), what
        assert np.abs(forces_of(found).numpy() - expected.forces).max() < 1e-9, what
        assert np.abs(found.stress[0].numpy() - expected.stress).max() < 1e-10, what
