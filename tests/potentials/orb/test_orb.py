"""ORB holds what every potential must, predicts what orb-models does, and is read and written."""

import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

import finetune
from finetune.core.errors import FoundationError
from finetune.data.graphs import concatenate
from finetune.export.calculator import PotentialCalculator
from finetune.potentials.catalogue import fetch, published
from finetune.potentials.equivariant import default_dtype, quiet_import
from finetune.potentials.loading import load_foundation
from finetune.potentials.orb.checkpoint import write_checkpoint
from finetune.potentials.orb.potential import OrbPotential
from finetune.potentials.potential import FamilyPotential
from finetune.testing import FamilySuite, small_potential
from finetune.testing.comparing import difference, forces_of, graph_of, predict
from tests.conftest import recipe_for

SIZES = {
    "latent_dim": 16,
    "base_mlp_hidden_dim": 32,
    "head_mlp_hidden_dim": 8,
    "num_message_passing_steps": 2,
    "device": "cpu",
}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "direct": ("orb_v3_direct_architecture", {}),
    "conservative": ("orb_v3_conservative_architecture", {}),
    "OrbMol, direct": (
        "orb_v3_direct_architecture",
        {"has_charge_spin_cond": True, "has_stress": False},
    ),
    "OrbMol, conservative": (
        "orb_v3_conservative_architecture",
        {"has_charge_spin_cond": True, "has_stress": False},
    ),
}


@pytest.fixture(autouse=True)
def orb_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tree", reason="needs the extra: pip install 'piwsl-finetune[orb]'")
    if not quiet_import("importlib.util").find_spec("orb_models"):
        pytest.skip("needs the extra: pip install 'piwsl-finetune[orb]'")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def orb(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The module of orb-models with its architectures; what fetches their weights is left out."""
    monkeypatch.setitem(sys.modules, "cached_path", ModuleType("cached_path"))
    sys.modules["cached_path"].cached_path = None  # type: ignore[attr-defined]
    with default_dtype(torch.float64):
        yield quiet_import("orb_models.forcefield.pretrained")


def architecture(orb: ModuleType, kind: str, neighbours: int = 120) -> Any:
    """Return a small network made by orb-models itself, with normalisers that do something."""
    name, options = KINDS[kind]
    system = quiet_import("orb_models.forcefield.atomic_system")
    config = system.SystemConfig(radius=6.0, max_num_neighbors=neighbours)
    torch.manual_seed(0)
    model = getattr(orb, name)(**SIZES, **options, system_config=config).eval()
    for head, numbers in (("energy", (0.3, 1.7)), ("forces", (0.01, 2.5))):
        if head in model.heads:
            mean, variance = numbers
            model.heads[head].normalizer.bn.running_mean.fill_(mean)
            model.heads[head].normalizer.bn.running_var.fill_(variance)
    return model


def checkpoint(model: Any, path: Path) -> Path:
    torch.save(model.state_dict(), path)
    return path


def structures() -> dict[str, Atoms]:
    """Molecules, a cation, an atom, crystals."""
    found = {
        "ethanol": molecule("CH3CH2OH"),
        "ammonium": molecule("NH3"),
        "atom": Atoms("O"),
        "diamond": bulk("C", "diamond", 3.5) * (2, 1, 1),
        "copper": bulk("Cu", "fcc", 3.6),
    }
    draw = np.random.default_rng(1)
    for name, atoms in found.items():
        atoms.positions += draw.normal(0, 0.1, atoms.positions.shape)
        atoms.info |= {"charge": int(name == "ammonium"), "spin": 1}
    found["atom"].info["spin"] = 3
    return found


def of_orb(model: Any, atoms: Atoms) -> dict[str, Any]:
    """Return what orb-models' own calculator finds."""
    calculator = quiet_import("orb_models.forcefield.calculator").ORBCalculator
    atoms = atoms.copy()
    atoms.calc = calculator(model, device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        atoms.get_potential_energy()
    return dict(atoms.calc.results)


class TestDirect(FamilySuite):
    kind = "orb"
    conservative = rotations = extensive = False


class TestConservative(FamilySuite):
    kind = "orb"
    rotations = extensive = False

    def potential(self) -> FamilyPotential:
        return small_potential("orb", direct=False, charge_and_spin=True)


@pytest.mark.parametrize("kind", KINDS)
def test_it_predicts_what_orb_models_does(kind: str, orb: ModuleType, tmp_path: Path) -> None:
    model = architecture(orb, kind)
    potential = load_foundation(checkpoint(model, tmp_path / "orb.ckpt")).potential
    assert potential.direct_forces == ("direct" in kind)
    ours = PotentialCalculator(potential)
    for atoms in structures().values():
        if not potential.further_inputs:
            atoms.info.clear()
        theirs = of_orb(model, atoms)
        assert ours.get_potential_energy(atoms) == pytest.approx(theirs["energy"], abs=1e-10)
        np.testing.assert_allclose(ours.get_forces(atoms), theirs["forces"], atol=1e-10, rtol=0)
        if kind == "conservative" and atoms.pbc.all():
            np.testing.assert_allclose(ours.get_stress(atoms), theirs["stress"], atol=1e-12)


def test_no_more_neighbours_than_the_settings_say(orb: ModuleType, tmp_path: Path) -> None:
    """Three for each atom that sends messages, as orb-models chooses them."""
    model = architecture(orb, "direct", neighbours=3)
    opened = load_foundation(checkpoint(model, tmp_path / "orb.ckpt")).potential
    assert isinstance(opened, OrbPotential)
    few = OrbPotential.build(opened.settings.model_copy(update={"max_neighbours": 3}))
    few.load_state_dict(opened.state_dict())
    atoms = structures()["ethanol"]
    found, every = (predict(item, graph_of(atoms, item)) for item in (few, opened))
    theirs = of_orb(model, atoms)
    assert found.energy.item() == pytest.approx(theirs["energy"], abs=1e-10)
    np.testing.assert_allclose(forces_of(found).numpy(), theirs["forces"], atol=1e-10, rtol=0)
    assert abs(every.energy.item() - theirs["energy"]) > 1e-4


@pytest.mark.parametrize("kind", ["direct", "OrbMol, conservative"])
def test_what_is_written_is_loaded_by_orb_models(
    kind: str, orb: ModuleType, tmp_path: Path
) -> None:
    potential = load_foundation(
        checkpoint(architecture(orb, kind), tmp_path / "orb.ckpt")
    ).potential
    with torch.no_grad():
        for parameter in potential.parameters():
            parameter.mul_(1.1)
    potential.set_references({6: -1030.5})
    finetune.potentials.storage.save(potential, tmp_path / "stored", {})
    stored = load_foundation(tmp_path / "stored").potential
    (tmp_path / "tuned.ckpt").write_bytes(write_checkpoint(stored, torch.float64, {}))
    fresh = architecture(orb, kind)
    weights = torch.load(tmp_path / "tuned.ckpt", weights_only=True)
    assert weights.keys() == fresh.state_dict().keys()
    fresh.load_state_dict(weights)
    atoms = structures()["ethanol"]
    found = of_orb(fresh, atoms)
    expected = predict(potential, graph_of(atoms, potential))
    assert found["energy"] == pytest.approx(expected.energy.item(), abs=1e-8)
    np.testing.assert_allclose(found["forces"], forces_of(expected).numpy(), atol=1e-8, rtol=0)
    again = load_foundation(tmp_path / "tuned.ckpt").potential
    assert difference(predict(again), predict(potential)) < 1e-10


def test_charge_and_spin_matter(tmp_path: Path) -> None:
    potential = small_potential("orb", direct=True, charge_and_spin=True)
    assert potential.further_inputs == {"charge", "spin"}
    atoms, energies = molecule("NH3"), []
    for charge, spin in ((0, 1), (1, 2), (0, 3)):
        atoms.info = {"charge": charge, "spin": spin}
        energies.append(predict(potential, graph_of(atoms, potential)).energy.item())
    assert len({round(energy, 6) for energy in energies}) == 3
    together = [molecule("NH3"), atoms]
    batch = concatenate([graph_of(item, potential) for item in together])
    assert predict(potential, batch).energy.tolist() == pytest.approx(
        [energies[0], energies[2]], abs=1e-9
    )


def test_the_head_learns_from_energies_alone(workspace: Path, tmp_path: Path) -> None:
    finetune.potentials.storage.save(small_potential("orb"), tmp_path / "orb", {"name": "small"})
    result = finetune.run(
        recipe_for(
            *(workspace, tmp_path / "run"),
            foundation=str(tmp_path / "orb"),
            losses={"energy": {}, "gradient_match": {"displacement": None}},
            train={"epochs": 3, "learning_rate": 0.01, "ema": None},
        )
    )
    first, last = result.history[0], result.history[result.best_epoch]
    assert result.best_epoch > 0
    assert last["valid/inconsistency_mae"] < first["valid/inconsistency_mae"]


def damaged(changes: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Return the state dict of a file with some tensors replaced; None takes one out."""
    import io

    from finetune.potentials.archive import read_archive

    content = write_checkpoint(small_potential("orb"), torch.float64, {})  # type: ignore[arg-type]
    root: Any = read_archive(io.BytesIO(content)).root
    return {name: item for name, item in {**root, **changes}.items() if item is not None}


NODES = "model._encoder._node_fn"
FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "ORB v2": ({f"{NODES}.layer_norm.bias": torch.zeros(8)}, "before v3"),
    "no embedding": ({"model.atom_emb.embeddings.weight": None}, "no weight 'model.atom_emb"),
    "another shape": ({f"{NODES}.mlp.NN-0.bias": torch.zeros(3)}, r"of the shape \(3,\), not"),
    "no matrix": ({f"{NODES}.mlp.NN-0.weight": torch.zeros(3)}, "is no matrix"),
    "other features": (
        {"model._encoder._edge_fn.mlp.NN-0.weight": torch.zeros(16, 23)},
        "has 23 features of an edge",
    ),
    "no head": ({"heads.energy.mlp.NN-0.weight": None}, "no perceptron 'heads.energy.mlp'"),
    "not finite": ({"heads.energy.mlp.NN-0.bias": torch.tensor([float("nan")] * 8)}, "NaN"),
    "no references": ({"heads.energy.reference.linear.weight": None}, "no reference energies"),
    "another cutoff": ({"model.rbf_transform.r_max": torch.tensor(5.0)}, "other numbers in"),
    "no spread": (
        {"heads.energy.normalizer.bn.running_var": torch.zeros(1)},
        "energy_std = 0.0: .*greater than 0",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_no_orb_v3_is_refused(fault: str, tmp_path: Path) -> None:
    changes, message = FAULTS[fault]
    torch.save(damaged(changes), tmp_path / "odd.ckpt")
    with pytest.raises(FoundationError, match=rf"odd.ckpt' .*{message}"):
        load_foundation(tmp_path / "odd.ckpt")


def test_the_package_is_named_where_it_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(damaged({}), tmp_path / "orb.ckpt")
    monkeypatch.setitem(sys.modules, "orb_models.forcefield.gns", None)
    with pytest.raises(FoundationError, match=r"needs the package orb-models .*\[orb\]'"):
        load_foundation(tmp_path / "orb.ckpt")


def test_a_download_without_a_network_says_what_to_fetch(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr("socket.create_connection", offline)
    entry = published()["orb-v3-direct-omol"]
    assert entry.licence == "Apache-2.0" and entry.inputs == {"charge", "spin"}
    with pytest.raises(FoundationError, match=r"orb-v3-direct-omol-20250820.ckpt .*save it as"):
        fetch("orb-v3-direct-omol")
