"""What every potential must hold, for SevenNets with and without reflections; features."""

from typing import Any

import pytest
import torch
from ase import Atoms

from finetune.adapters.adapter import matches
from finetune.core.errors import FoundationError
from finetune.potentials.settings import elements_row
from finetune.potentials.sevennet.potential import SevenNetPotential
from finetune.potentials.sevennet.settings import (
    SevenNetSettings,
    inferred_irreps,
    weight_shapes,
)
from finetune.testing import FamilySuite, PotentialSuite
from finetune.testing.comparing import (
    distorted_batch,
    forces_of,
    graph_of,
    largest,
    predict,
    random_rotation,
    rotated,
)
from tests.potentials.sevennet.conftest import FAMILY, built, channels, example

ROTATIONS = {
    "parity": False,
    "irreps": ("4x0e", "4x0e+3x1e+2x2e", "4x0e+3x1e+2x2e", "4x0e"),
    "self_connections": ("nequip", "linear", "linear"),
    "denominators": (2.0, 2.0, 2.0),
}


@pytest.mark.slow
class TestParity(FamilySuite):
    kind = "sevennet"


@pytest.mark.slow
class TestRotationsAlone(PotentialSuite):
    """As SevenNet-l3i5: spherical harmonics of even parity, a polynomial envelope."""

    inversion = False

    def potential(self) -> SevenNetPotential:
        return built(example(**ROTATIONS))


@pytest.mark.slow
class TestXplor(PotentialSuite):
    """As SevenNet-0: the force falls linearly to zero at the cutoff."""

    force_near_cutoff = 1e-4

    def potential(self) -> SevenNetPotential:
        return built(example(cutoff_function="XPLOR", xplor_onset=3.2))


def test_inversion_matters_without_parity() -> None:
    potential = built(example(**ROTATIONS))
    here = distorted_batch(potential.cutoff)
    there = rotated(here, -torch.eye(3).double())
    assert largest(predict(potential, here).energy - predict(potential, there).energy) > 1e-5


DEEP = {
    "irreps": ("3x0e", "3x0e+2x1o", "3x0e+2x1o+2x1e", "3x0e+2x0o+2x1o+2x1e", "3x0e"),
    "self_connections": ("nequip", "linear", "nequip", "linear"),
    "denominators": (1.0,) * 4,
    "edge_degree": 1,
}


def test_pseudovectors_keep_the_symmetry_under_inversion() -> None:
    """They reach the energy from the fourth layer on."""
    potential = built(example(**DEEP))
    batch = distorted_batch(potential.cutoff)
    here = predict(potential, batch)
    for matrix in (random_rotation(), -torch.eye(3).double()):
        there = predict(potential, rotated(batch, matrix))
        assert largest(there.energy - here.energy) < 1e-10
        assert largest(forces_of(there) - forces_of(here) @ matrix.T) < 1e-10
    weights = potential.model.get_parameter("2_self_interaction_1.linear.weight")
    pseudovectors = slice(9 + 4, None)  # behind those of scalars and vectors
    with torch.no_grad():
        weights[pseudovectors] += 1.0
    assert largest(predict(potential, batch).energy - here.energy) > 1e-8


def test_features_are_invariant_scalars_of_every_layer() -> None:
    potential = built(FAMILY.example())
    batch = distorted_batch(potential.cutoff)
    features = potential.descriptors(batch)
    assert features.shape == (len(batch.numbers), potential.feature_size)
    assert potential.feature_size == 4 + 4
    for matrix in (random_rotation(), -torch.eye(3).double()):
        assert largest(potential.descriptors(rotated(batch, matrix)) - features) < 1e-10
    alone = built(example(**ROTATIONS))
    turned = alone.descriptors(rotated(batch, random_rotation()))
    assert largest(turned - alone.descriptors(batch)) < 1e-10


def test_features_can_be_differentiated() -> None:
    potential = built(FAMILY.example())
    batch = distorted_batch(potential.cutoff)
    element = potential.element_index(batch.numbers)
    _, positions, _, features = potential.interaction_and_features(batch, element, False)
    (gradient,) = torch.autograd.grad(features.square().sum(), positions)
    assert bool(gradient.any())


def test_settings_follow_the_reference_energies() -> None:
    potential = built(channels(), "high")
    potential.set_references({6: -5.0})
    assert potential.settings.shift == (
        (-13.0, -1030.0, -1480.0, -2040.0),
        (-14.0, -5.0, -1481.0, -2041.0),
    )
    assert built(potential.settings, "high").references()[6] == -5.0
    assert built(potential.settings, "low").references()[6] == -1030.0


def test_an_input_without_an_element_is_kept_apart() -> None:
    """Universal models of sevenn have one for the atomic number 0."""
    row = (-1.0, -13.0, -1030.0, -1480.0, -2040.0)
    settings = example(atomic_numbers=(0, 1, 6, 7, 8), shift=(row,), scale=((1.0,) * 5,))
    potential = built(settings)
    assert potential.elements == settings.elements_known() == (1, 6, 7, 8)
    assert potential.settings == settings
    assert potential.references()[1] == -13.0
    with pytest.raises(FoundationError, match="but not X"):
        potential(graph_of(Atoms("X"), potential))


def test_a_structure_without_edges_has_features_and_stress() -> None:
    potential = built(FAMILY.example())
    atoms = Atoms("O", cell=[20.0] * 3, pbc=True)
    found = potential(graph_of(atoms, potential), stress=True, create_graph=False)
    assert not forces_of(found).any()
    assert found.stress is not None and not found.stress.any()
    assert potential.descriptors(graph_of(atoms, potential)).shape == (1, potential.feature_size)


def test_irreps_that_are_not_listed() -> None:
    assert inferred_irreps(4, 2, 2, True, 3) == (
        "4x0e",
        "4x0e+4x1o+4x2e",
        "4x0e+4x1o+4x1e+4x2o+4x2e",
        "4x0e",
    )
    assert inferred_irreps(8, 1, 3, False, 2) == ("8x0e", "8x0e+8x1e", "8x0e")


@pytest.mark.parametrize("settings", [FAMILY.example(), channels(), example(bias=True)])
def test_the_shapes_of_weights_are_known_beforehand(settings: SevenNetSettings) -> None:
    parameters = (
        built(settings).model.named_parameters()
        if len(settings.heads) == 1
        else (built(settings, "low").model.named_parameters())
    )
    assert {name: tuple(item.shape) for name, item in parameters} == weight_shapes(settings)


@pytest.mark.parametrize("settings", [FAMILY.example(), example(**ROTATIONS), channels()])
def test_settings_are_described(settings: SevenNetSettings) -> None:
    rows = dict(settings.description())
    assert rows["architecture"] == "SevenNet"
    assert rows["elements"] == "4: H C N O"
    assert elements_row((6, 1, 8))[1] == "3: H C O"
    assert ("heads" in rows) == (len(settings.heads) > 1)
    assert ("SO(3)" in rows["symmetry"]) != settings.parity


@pytest.mark.parametrize("changes", [{}, {"trained_bessel": False, "readout_MLP": (5,)}])
def test_every_weight_is_of_a_group(changes: dict[str, Any]) -> None:
    names = list(weight_shapes(example(**changes)))
    found = {
        group: {name for name in names for pattern in patterns if matches(name, pattern)}
        for group, patterns in FAMILY.groups.items()
    }
    parts = [found[group] for group in ("embedding", "interactions", "readout")]
    assert sorted(name for part in parts for name in part) == sorted(names)
    assert all(found.values())
    assert found["radial"] & found["interactions"] == {n for n in names if "weight_nn" in n}


FAULTS = {
    "irreps": (("4x0e", "4y0e", "4x0e"), "not understood as irreps"),
    "denominators": ((1.0,), "an entry for each of the 2 layers"),
    "scale": (((1.0,),), "1 rows of 4 numbers"),
    "atomic_numbers": ((1, 6, 7, 7), "twice"),
    "head_layers": (("before",), "several heads"),
    "cutoff_function": ("XPLOR", "below the cutoff"),
    "readout_MLP": ((0,), "positive"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_settings_that_contradict_themselves_are_refused(name: str) -> None:
    value, message = FAULTS[name]
    changes = {"xplor_onset": 5.0} if name == "cutoff_function" else {}
    with pytest.raises(ValueError, match=message):
        example(**{name: value, **changes})


def test_unknown_heads_are_refused() -> None:
    with pytest.raises(FoundationError, match="several heads: low, high. Choose one"):
        built(channels())
    with pytest.raises(FoundationError, match="no head 'hihg'.*high"):
        built(channels(), "hihg")
