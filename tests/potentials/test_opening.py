"""MACE files open as what they are, or say what in them is not understood."""

import copy
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ase.io
import pytest
import torch

from finetune.core.errors import DataError, FoundationError
from finetune.data.graphs import GraphBatch, concatenate, graph
from finetune.data.reading import read_structures
from finetune.export.calculator import PotentialCalculator
from finetune.export.formats import write_file
from finetune.potentials.loading import load_foundation
from finetune.potentials.mace import conversion
from finetune.potentials.mace.potential import MacePotential, construct
from finetune.potentials.storage import load, save
from tests.conftest import rattled, structure
from tests.potentials.architectures import ARCHITECTURES, CHARGE_AND_SPIN, ENERGIES, FAST, HEADS
from tests.potentials.plain_mace import assert_as_mace, predict
from tests.tiny import tiny_settings


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in ARCHITECTURES],
)
def test_a_file_comes_in_and_goes_out_as_it_was(
    name: str, tmp_path: Path, mixed_graphs: list[GraphBatch]
) -> None:
    settings = tiny_settings(**{"atomic_energies": ENERGIES[:1], **ARCHITECTURES[name]})
    head = settings.heads[-1] if len(settings.heads) > 1 else None
    model = construct(settings, torch.float64).eval()
    torch.save(model, tmp_path / "some.model")
    opened = load_foundation(tmp_path / "some.model", head=head)
    write_file(opened.potential, tmp_path / "again.model")
    again = torch.load(tmp_path / "again.model", weights_only=False)
    batch = concatenate(mixed_graphs)
    if settings.embedding_specs:
        batch = replace(batch, charge=batch.charge + 1, spin=batch.spin + 1)
    found = opened.potential(batch, stress=True)
    assert_as_mace(found, model, batch, len(settings.heads) - 1)
    assert not opened.potential.training
    assert opened.location == str(tmp_path / "some.model")
    before, after = model.state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    for key, value in before.items():
        assert torch.equal(value, after[key]), key
    assert again.heads == model.heads


@pytest.mark.slow
def test_single_precision_opens_in_both_precisions(
    tmp_path: Path, mixed_graphs: list[GraphBatch]
) -> None:
    single = construct(tiny_settings(r_max=3.3), torch.float32)
    torch.save(single, tmp_path / "single.model")
    torch.save(single.double(), tmp_path / "doubled.model")
    batch = concatenate(mixed_graphs)
    expected = MacePotential(tiny_settings(r_max=3.3), single)(batch)
    for name, dtype in (
        ("single", torch.float64),
        ("doubled", torch.float32),
    ):
        potential = load_foundation(tmp_path / f"{name}.model", dtype).potential
        found = potential(batch.to(torch.device("cpu"), dtype))
        assert potential.cutoff == 3.3
        assert potential.dtype == dtype
        torch.testing.assert_close(found.energy, expected.energy, atol=1e-4, rtol=0)


def test_what_was_opened_is_stored_and_opened_again(
    saved: bytes, tmp_path: Path, built_before: None
) -> None:
    opened = load_foundation(write(tmp_path / "tiny.model", saved))
    config = save(opened.potential, tmp_path / "stored", {})
    assert config.fingerprint == opened.fingerprint
    assert load(tmp_path / "stored")[1].fingerprint == opened.fingerprint
    assert opened.metadata == {}


def test_a_file_from_before_the_newer_options_opens(
    plain: torch.nn.Module, saved: bytes, tmp_path: Path, mixed_graphs: list[GraphBatch]
) -> None:
    model: Any = torch.load(io.BytesIO(saved), weights_only=False)
    for name in ("heads", "use_reduced_cg", "use_so3", "use_agnostic_product", "apply_cutoff"):
        delattr(model, name)
    for block in model.interactions:
        del block.cueq_config, block.oeq_config, block.edge_irreps, block.radial_MLP
    for product in model.products:
        del product.use_agnostic_product, product.cueq_config
        for contraction in product.symmetric_contractions.contractions:
            del contraction._buffers["weights_max_zeroed"]
    del model.readouts[1].num_heads
    energies = model.atomic_energies_fn
    energies.atomic_energies = energies.atomic_energies[0]
    cutoff = model.radial_embedding.cutoff_fn
    cutoff.p = cutoff.p.double()
    torch.save(model, tmp_path / "older.model")
    batch = concatenate(mixed_graphs)
    expected = MacePotential(tiny_settings(), copy.deepcopy(plain))(batch)
    found = load_foundation(tmp_path / "older.model").potential(batch)
    torch.testing.assert_close(found.energy, expected.energy, atol=1e-10, rtol=0)


def test_heads_are_chosen_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = construct(tiny_settings(**HEADS), torch.float64)
    torch.save(model, tmp_path / "heads.model")
    monkeypatch.setattr(conversion, "construct", lambda *_: copy.deepcopy(model))
    assert load_foundation(tmp_path / "heads.model", head="cc").potential.references()[1] == -1.4
    with pytest.raises(FoundationError, match="several heads: dft, cc. Choose one"):
        load_foundation(tmp_path / "heads.model")
    with pytest.raises(FoundationError, match="no head 'xx'"):
        load_foundation(tmp_path / "heads.model", head="xx")


def _set(name: str, value: object) -> Callable[[torch.nn.Module], None]:
    *path, last = name.split(".")

    def change(model: torch.nn.Module) -> None:
        target: Any = model.get_submodule(".".join(path))
        if last in target._buffers:
            target._buffers[last] = value
        elif last in target._parameters:
            target._parameters[last] = value
        else:
            setattr(target, last, value)

    return change


WEIGHT = torch.nn.Parameter(torch.full((16,), float("nan"), dtype=torch.float64))
SHORT = torch.nn.Parameter(torch.ones(9, dtype=torch.float64))
BASIS = torch.tensor([0.7, 1.6, 2.4, 3.1], dtype=torch.float64)
CHANGED: dict[str, tuple[str, object, str]] = {
    "weights that are not finite": ("products.0.linear.weight", WEIGHT, "NaN or infinite"),
    "weights of another shape": ("interactions.0.linear_up.weight", SHORT, "linear_up.weight"),
    "another basis": ("radial_embedding.bessel_fn.bessel_weights", BASIS, "bessel_weights"),
    "trained basis": (
        "radial_embedding.bessel_fn.trained",
        torch.nn.Parameter(BASIS),
        "bessel_fn.trained.*not understood",
    ),
    "a part of its own": ("les", torch.nn.Linear(1, 1), "'les'.*not understood"),
    "joint embedding": ("joint_embedding", torch.nn.Linear(1, 1), "'joint_embedding'"),
    "an attribute of its own": ("polar", 3, "3 at 'polar'"),
    "another number": ("interactions.1.avg_num_neighbors", 7.0, "7.0 .* where 6.0"),
    "another activation": (
        "interactions.0.conv_tp_weights.layer0.act.f",
        torch.nn.functional.gelu,
        "gelu",
    ),
    "a further input of another kind": (
        "embedding_specs",
        {"elec_temp": {"type": "continuous", "per": "graph", "in_dim": 1, "emb_dim": 4}},
        "no such attribute",
    ),
    "a wrong cutoff": ("radial_embedding.cutoff_fn.r_max", torch.tensor(-1.0), "'r_max' = -1.0"),
    "an unknown transform": (
        "radial_embedding.distance_transform",
        torch.nn.Linear(1, 1),
        "'distance_transform' = 'Linear'",
    ),
    "an element that is none": (
        "atomic_numbers",
        torch.tensor([1, 6, 7, 200]),
        "distinct elements",
    ),
    "elements twice": ("atomic_numbers", torch.tensor([1, 1, 7, 8]), "distinct elements"),
    "too few references": (
        "atomic_energies_fn.atomic_energies",
        torch.zeros(1, 3),
        "do not match its 4 elements",
    ),
    "a forged width": ("interactions.0.radial_MLP", [10**6, 10**6], "at least 1000"),
    "a negative width": ("interactions.0.radial_MLP", [10**5, 10**5, -(10**6)], "not positive"),
    "a forged basis": ("radial_embedding.out_dim", 10**15, "but holds"),
    "a forged degree": ("spherical_harmonics._lmax", 11, "'max_ell' of 11"),
    "a forged correlation": (
        "products.0.symmetric_contractions.contractions.0.correlation",
        99,
        "'correlation' of 99",
    ),
}


@pytest.mark.parametrize("what", CHANGED)
def test_what_is_not_understood_is_named(
    what: str, saved: bytes, plain: torch.nn.Module, tmp_path: Path, built_before: None
) -> None:
    name, value, message = CHANGED[what]
    model = torch.load(io.BytesIO(saved), weights_only=False)
    _set(name, value)(model)
    torch.save(model, tmp_path / "changed.model")
    with pytest.raises(FoundationError, match=rf"changed\.model' .*{message}"):
        load_foundation(tmp_path / "changed.model")


def test_charge_and_spin_reach_the_model(tmp_path: Path) -> None:
    settings = tiny_settings(embedding_specs=CHARGE_AND_SPIN)
    model = construct(settings, torch.float64).eval()
    potential = MacePotential(settings, copy.deepcopy(model))
    energies = []
    for charge, spin in ((0, 1), (-1, 2), (1, 2)):
        atoms = rattled("CH3OH", 2)
        if charge:
            atoms.info.update(charge=charge, spin=spin)
        ase.io.write(tmp_path / "charged.xyz", atoms)
        (read,) = read_structures(str(tmp_path / "charged.xyz"), need_labels=False)
        item = graph(read, potential.cutoff)
        expected = predict(model, item)
        assert potential(item).energy.item() == pytest.approx(expected["energy"].item(), abs=1e-9)
        atoms.calc = PotentialCalculator(potential)
        energies.append(atoms.get_potential_energy())
        assert energies[-1] == pytest.approx(expected["energy"].item(), abs=1e-6)  # digits in xyz
    assert len({round(energy, 6) for energy in energies}) == 3
    atoms.info.update(charge=0, spin=1)
    assert atoms.get_potential_energy() == pytest.approx(energies[0], abs=1e-9)
    with pytest.raises(FoundationError, match="test has a total charge of -11; .* -10 to 10"):
        potential(graph(replace(structure(rattled("CH3OH", 2)), charge=-11), potential.cutoff))


@pytest.mark.parametrize("charge", [0.5, "x", [1, 2]])
def test_a_charge_that_is_none_is_refused(charge: object) -> None:
    atoms = rattled("CH3OH", 2)
    atoms.info["charge"] = charge
    with pytest.raises(DataError, match="'charge'"):
        structure(atoms)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_classes": 10**9}, "describes a model of at least"),
        ({"emb_dim": 10**9}, "describes a model of at least"),
        ({"emb_dim": -1}, "'emb_dim' is not a positive number"),
        ({"num_classes": 12}, r"at 'joint_embedding.specs"),
        ({"per": "atom"}, "further input 'total_spin'"),
    ],
)
def test_forged_embeddings_are_refused(
    change: dict[str, object], message: str, tmp_path: Path
) -> None:
    model: Any = construct(tiny_settings(embedding_specs=CHARGE_AND_SPIN), torch.float64)
    model.embedding_specs = {**CHARGE_AND_SPIN}
    model.embedding_specs["total_spin"] = {**CHARGE_AND_SPIN["total_spin"], **change}
    torch.save(model, tmp_path / "forged.model")
    with pytest.raises(FoundationError, match=rf"forged\.model' .*{message}"):
        load_foundation(tmp_path / "forged.model")
