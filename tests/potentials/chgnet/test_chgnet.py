"""CHGNet holds what every potential must, and evaluates each structure as if it were alone."""

import sys
from typing import Any

import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from finetune.core.errors import FoundationError
from finetune.data.graphs import concatenate
from finetune.potentials.chgnet.family import ChgnetFamily
from finetune.potentials.potential import Potential
from finetune.testing import FamilySuite, PotentialSuite
from finetune.testing.comparing import forces_of, graph_of, largest
from tests.potentials.chgnet.conftest import example, opened, own_interaction, published, quiet


class TestChgnet(FamilySuite):
    kind = "chgnet"


@pytest.mark.slow
class TestNewest(PotentialSuite):
    def potential(self) -> Potential:
        return opened(published("0.3.0"))


@pytest.mark.slow
class TestOldest(PotentialSuite):
    def potential(self) -> Potential:
        return opened(published("0.2.0"))


@pytest.mark.slow
class TestR2scan(PotentialSuite):
    def potential(self) -> Potential:
        return opened(published("r2scan"))


OTHERS: dict[str, dict[str, Any]] = {
    "without updates of angles": {"update_angle": False},
    "without updates of bonds": {"update_bond": False},
    "one convolution": {"n_conv": 1},
    "two convolutions": {"n_conv": 2},
    "fixed frequencies": {"learnable_rbf": False},
    "biased": {"mlp_out_bias": True},
    "without normalisation": {"gMLP_norm": None, "readout_norm": None},
    "normalised after convolutions": {"conv_norm": "layer"},
    "totals": {"is_intensive": False, "composition_model": "MPF"},
    "other widths": {
        "atom_fea_dim": 5,
        "bond_fea_dim": 6,
        "angle_fea_dim": 7,
        "atom_conv_hidden_dim": (9, 4),
        "bond_conv_hidden_dim": 0,
        "angle_layer_hidden_dim": 3,
        "mlp_hidden_dims": 11,
    },
    "another activation": {"non_linearity": "tanh"},
    "another envelope": {"cutoff_coeff": 5, "atom_graph_cutoff": 3.5, "bond_graph_cutoff": 2.5},
}


@pytest.mark.parametrize("what", OTHERS)
def test_architectures_are_those_of_chgnet(what: str) -> None:
    """The same settings and weights predict the same in chgnet, in float64."""
    potential = example(1, **OTHERS[what])
    potential.set_references(dict.fromkeys(potential.elements, 0.0))
    with quiet():
        from chgnet.model import CHGNet

        arguments = potential.settings.network_arguments()
        own = CHGNet(**arguments, composition_model=None).double()
    weights = {**dict(potential.model.named_parameters()), **potential.unused}
    assert weights.keys() == dict(own.named_parameters()).keys()
    own.load_state_dict(weights, strict=False)
    for atoms in (box("CH3CH2OH"), box("H2"), bulk("C", "diamond", 3.5)):
        atoms.positions[1] += [0.05, -0.08, 0.03]
        expected = own_interaction(own, atoms)
        found = potential(graph_of(atoms, potential), stress=True)
        assert found.stress is not None
        assert found.energy.item() == pytest.approx(expected.energy, abs=1e-9)
        assert largest(forces_of(found) - torch.from_numpy(expected.forces)) < 1e-9
        assert largest(found.stress[0] - torch.from_numpy(expected.stress)) < 1e-10


def box(name: str) -> Atoms:
    atoms = molecule(name)
    atoms.set_cell([9.0, 10.0, 11.0])
    atoms.center()
    atoms.pbc = True
    return atoms


@pytest.mark.parametrize("bias", [False, True])
def test_angles_of_one_structure_leave_the_others_alone(bias: bool) -> None:
    """Biases act on all bonds of a structure, and on none of one that has no angles."""
    potential = example(1, mlp_out_bias=bias)
    items = [graph_of(molecule(name), potential) for name in ("H2", "CH4", "N2")]
    alone = torch.cat([potential(item, create_graph=False).energy for item in items])
    together = potential(concatenate(items), create_graph=False).energy
    assert largest(alone - together) < 1e-12


def test_a_batch_without_edges() -> None:
    potential = example()
    atoms = Atoms("HO", [[0, 0, 0], [0, 0, 20.0]])
    found = potential(concatenate([graph_of(atoms, potential)] * 2), stress=True)
    assert found.stress is not None
    assert not forces_of(found).any() and not found.stress.any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_straight_angles_have_finite_derivatives(dtype: torch.dtype) -> None:
    """Forces, and gradients of a loss on them, where the angle's cosine is −1 to rounding."""
    potential = example().to(dtype).train()
    straight = Atoms("OCO", [[0, 0, -1.18], [0, 0, 0], [0, 0, 1.18]])
    items = [straight, bulk("C", "diamond", 3.57), bulk("C", "sc", 2.1)]
    batch = concatenate([graph_of(atoms, potential) for atoms in items])
    found = potential(batch.to(torch.device("cpu"), dtype), stress=True)
    assert found.stress is not None
    forces = forces_of(found)
    assert bool(torch.isfinite(forces).all()) and bool(torch.isfinite(found.stress).all())
    assert float(forces[3:].detach().abs().max()) < (1e-9 if dtype == torch.float64 else 1e-3)
    (found.energy.sum() + forces.square().sum() + found.stress.square().sum()).backward()
    for name, parameter in potential.named_parameters():
        assert parameter.grad is not None and bool(torch.isfinite(parameter.grad).all()), name


@pytest.mark.slow
def test_straight_angles_have_curvatures_of_their_own() -> None:
    """The restoring force of an atom in a perfect crystal is not proportional to its shift."""
    potential, constants = opened(published("0.3.0")), []
    for shift in (1e-4, 1e-2):
        atoms = bulk("Cu", cubic=True) * (2, 2, 2)
        atoms.positions[0, 0] += shift
        found = potential(graph_of(atoms, potential), create_graph=False)
        constants.append(-forces_of(found)[0, 0].item() / shift)
    assert constants == pytest.approx([1.44, 3.10], abs=0.01)


@pytest.mark.parametrize("bias", [False, True])
def test_the_first_angle_appears_smoothly_without_biases(bias: bool) -> None:
    potential = example(1, mlp_out_bias=bias)
    energies = []
    for length in (3 - 1e-6, 3 + 1e-6):
        atoms = Atoms("COO", [[0, 0, 0], [1.2, 0, 0], [0, length, 0]])
        energies.append(potential(graph_of(atoms, potential), forces=False).energy.item())
    assert (abs(energies[0] - energies[1]) > 1e-5) == bias


def test_what_no_energy_depends_on_is_no_parameter() -> None:
    """It cannot be trained, but is stored; every parameter has a gradient."""
    potential = example().train()
    potential(graph_of(molecule("CH3CH2OH"), potential)).energy.sum().backward()
    assert all(item.grad is not None and item.grad.any() for item in potential.parameters())
    assert {name.split(".")[0] for name in potential.unused} == {"site_wise", "angle_layers"}
    assert all(name.startswith("unused/") for name in potential.further_weights())
    assert not potential.unused.keys() & dict(potential.model.named_parameters()).keys()


def test_stored_weights_give_the_same_potential() -> None:
    """Without those that no energy depends on, too; a misshapen one is named."""
    family, potential = ChgnetFamily(), example()
    own = dict(potential.model.named_parameters())
    stored = {**own, **potential.further_weights()}
    fresh, weights = family.assemble(potential.settings, stored, torch.float32, None)
    assert weights.keys() == own.keys() and fresh.dtype == torch.float32
    for name, tensor in fresh.unused.items():
        assert largest(tensor.double() - potential.unused[name]) < 1e-6, name
    fresh, _ = family.assemble(potential.settings, own, torch.float64, None)
    assert not any(tensor.any() for tensor in fresh.unused.values())
    wrong = {**stored, "unused/site_wise.bias": torch.zeros(2)}
    with pytest.raises(FoundationError, match=r"site_wise\.bias' has the shape"):
        family.assemble(potential.settings, wrong, torch.float64, None)


def test_building_follows_torchs_generator_and_assembling_leaves_it_alone() -> None:
    assert all(
        torch.equal(one, other)
        for one, other in zip(example(3).parameters(), example(3).parameters(), strict=True)
    )
    state = torch.get_rng_state()
    ChgnetFamily().assemble(ChgnetFamily().example(), {}, torch.float64, None)
    assert torch.equal(state, torch.get_rng_state())


def test_groups_name_parameters_once() -> None:
    """Every group matches in the smallest and the largest network; readouts come last."""
    from finetune.adapters.adapter import matching

    for potential in (example(), example(1, n_conv=1, readout_norm=None)):
        names = [name for name, _ in potential.model.named_parameters()]
        groups = [matching(names, group, "weight") for group in ChgnetFamily.groups.values()]
        found = [name for group in groups for name in group]
        assert len(found) == len(set(found))
        assert {name.split(".")[0] for name in set(names) - set(found)} <= {"readout_norm"}


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "chgnet.model.model", None)
    with pytest.raises(FoundationError, match=r"pip install 'piwsl-finetune\[chgnet\]'") as told:
        ChgnetFamily().build(ChgnetFamily().example(), torch.float64)
    assert "\n" not in str(told.value)


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    example()
    assert capfd.readouterr() == ("", "")
