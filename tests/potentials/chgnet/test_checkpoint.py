"""CHGNet's files: opened as inert data, written so that chgnet opens them."""

import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ase.build import bulk, molecule

from finetune.core.errors import FoundationError
from finetune.potentials.archive import read_archive
from finetune.potentials.chgnet.family import ChgnetFamily
from finetune.potentials.chgnet.potential import ChgnetPotential
from finetune.testing import PotentialSuite
from finetune.testing.comparing import forces_of, graph_of, largest
from tests.potentials.chgnet.conftest import (
    FILES,
    example,
    opened,
    own_model,
    own_prediction,
    published,
    quiet,
    written,
)

UNTRAINED = (84, 85, 86, 87, 88)
"""Po to Ra: the moments of the optimiser in the published files say that they were not trained."""


def same(first: ChgnetPotential, second: ChgnetPotential) -> None:
    """Check that two potentials predict the same."""
    batch = PotentialSuite().batch(first)
    one, other = (item(batch, create_graph=False) for item in (first, second))
    assert torch.equal(one.energy, other.energy)
    assert torch.equal(forces_of(one), forces_of(other))


def test_a_written_file_opens_as_the_same_potential(tmp_path: Path) -> None:
    potential = example()
    potential.set_references({1: 0.0, 8: -2041.123456789012})
    path = written(potential, tmp_path / "tuned.pth.tar", name="tuned", level_of_theory="CCSD(T)")
    found = opened(path)
    assert found.settings == potential.settings
    assert found.references() == potential.references()
    assert all(torch.equal(found.unused[name], item) for name, item in potential.unused.items())
    same(potential, found)
    with path.open("rb") as file:
        metadata = read_archive(file).metadata
    assert metadata == {"name": "tuned", "level_of_theory": "CCSD(T)"}


def test_chgnet_opens_a_written_file(tmp_path: Path) -> None:
    potential = example()
    potential.set_references({6: -12.5})
    own = own_model(written(potential, tmp_path / "tuned.pth.tar", name="tuned"))
    for atoms in (molecule("CH3CH2OH", cell=[9.0] * 3, pbc=True), bulk("C", "diamond", 3.5)):
        atoms.positions[0] += [0.05, -0.08, 0.03]
        expected = own_prediction(own, atoms)
        found = potential(graph_of(atoms, potential), create_graph=False)
        assert found.energy.item() == pytest.approx(expected.energy, abs=1e-5 * len(atoms))
        assert largest(forces_of(found) - torch.from_numpy(expected.forces)) < 1e-4


def test_a_written_file_holds_plain_values(tmp_path: Path) -> None:
    """Tensors and builtin types: torch loads it without running code."""
    path = written(example(), tmp_path / "tuned.pth.tar")
    found = torch.load(path, weights_only=True)["model"]
    plain = (bool, int, float, str, list, type(None))
    assert all(type(value) in plain for value in found["model_args"].values())
    assert all(type(value) is torch.Tensor for value in found["state_dict"].values())


@pytest.mark.parametrize("name", FILES)
def test_published_files_survive_a_round_trip(name: str, tmp_path: Path) -> None:
    """In chgnet, too, which needs no further options for 0.2.0."""
    potential = opened(published(name))
    path = written(potential, tmp_path / "copy.pth.tar")
    same(potential, opened(path))
    first, second = (
        own_model(published(name), mlp_out_bias=name == "0.2.0").state_dict(),
        own_model(path).state_dict(),
    )
    assert first.keys() == second.keys()
    known = [number - 1 for number in potential.elements]
    for key, tensor in first.items():
        other = second[key]
        if key == "composition_model.fc.weight":
            tensor, other = tensor[:, known], other[:, known]
        assert torch.equal(tensor, other), key


@pytest.mark.parametrize("name", FILES)
def test_the_elements_known_are_those_trained(name: str) -> None:
    """As the moments of the optimiser tell, which the published files still hold."""
    with published(name).open("rb") as file:
        content = read_archive(file)
    root: Any = content.root
    moments = [entry["exp_avg_sq"] for entry in root["optimizer"]["state"].values()]
    embedding = next(item for item in moments if item.shape == (94, 64))
    trained = [number for number, row in enumerate(embedding, 1) if row.any()]
    settings, _ = ChgnetFamily().read(content)
    assert list(settings.elements_known()) == trained
    assert list(ChgnetFamily().published()[f"chgnet-{name}"].elements) == trained
    assert set(range(1, 95)) - set(trained) == {*UNTRAINED, *([70] if name == "r2scan" else [])}


def test_what_an_adapter_added_is_refused(tmp_path: Path) -> None:
    potential: Any = example()
    potential.model.mlp.extra = torch.nn.Linear(2, 2)
    with pytest.raises(FoundationError, match=r"no place for what .*: mlp\.extra\.bias and others"):
        written(potential, tmp_path / "tuned.pth.tar")


def content_of(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(path, weights_only=True)
    return found


def changed(tmp_path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Write the example with a change of what is under ``model``."""
    path = written(example(), tmp_path / "tuned.pth.tar")
    content = content_of(path)
    change(content["model"])
    torch.save(content, path)
    return path


def test_other_forms_of_the_file(tmp_path: Path) -> None:
    """A trainer's checkpoint, `as_dict` alone, half precision, and energies of one's own fit."""
    with quiet():
        from chgnet.model.composition_model import AtomRef

        fitted = AtomRef(is_intensive=True)
    path = written(example(), tmp_path / "tuned.pth.tar")
    model = content_of(path)["model"]
    forms = [
        {"model": model, "optimizer": {"state": {}}, "trainer_args": {"targets": "ef"}},
        model,
        {"model": {**model, "model_args": {**model["model_args"], "composition_model": fitted}}},
    ]
    for form in forms:
        torch.save(form, path)
        same(example(), opened(path))
    half = {name: item.half() for name, item in model["state_dict"].items()}
    torch.save({"model": {**model, "state_dict": half}}, path)
    assert opened(path).settings.elements_known() == (1, 6, 7, 8)


def test_without_a_composition_model_all_references_are_zero(tmp_path: Path) -> None:
    def remove(model: dict[str, Any]) -> None:
        del model["state_dict"]["composition_model.fc.weight"]
        model["model_args"] |= {"composition_model": None, "elements": None}

    potential = opened(changed(tmp_path, remove))
    assert potential.elements == tuple(range(1, 95))
    assert not potential.reference_energies.any()


def arguments(**values: Any) -> Callable[[dict[str, Any]], object]:
    return lambda model: model["model_args"].update(values)


def weights(**values: Any) -> Callable[[dict[str, Any]], object]:
    return lambda model: model["state_dict"].update(
        {name.replace("__", "."): value for name, value in values.items()}
    )


FAULTS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "no arguments": (lambda m: m.pop("model_args"), "without the arguments of its class"),
    "another option": (arguments(frills=3), "has an option 'frills' of CHGNet that is not known"),
    "averages": (arguments(mlp_first=False), "'mlp_first' = False, which is not supported"),
    "a tensor for a flag": (arguments(mlp_first=torch.ones(2)), "'mlp_first' = a tensor"),
    "skips": (arguments(skip_connection=True), "'skip_connection' = True, not supported"),
    "batch norms": (arguments(gMLP_norm="batch"), "'gMLP_norm' = 'batch' that cannot be used"),
    "text for a number": (arguments(n_conv="many"), "'n_conv' = 'many' that cannot be used"),
    "a tensor for a number": (arguments(n_conv=torch.ones(3)), "'n_conv' = a tensor"),
    "not a number": (arguments(atom_graph_cutoff=float("nan")), "'atom_graph_cutoff' = nan"),
    "even": (arguments(num_angular=6), "num_angular must be odd"),
    "cutoffs": (arguments(bond_graph_cutoff=7.0), "must not be above atom_graph_cutoff"),
    "no width": (arguments(mlp_hidden_dims=[]), "'mlp_hidden_dims'.*positive"),
    "totals": (arguments(is_intensive=False), "is_intensive=False does not go with"),
    "per atom": (arguments(composition_model="MPF"), "is_intensive=True does not go with"),
    "another data set": (arguments(composition_model="OC20"), "'composition_model' = 'OC20'"),
    "another composition model": (
        arguments(composition_model=torch.nn.Linear(2, 2)),
        "composition model 'Linear'; only AtomRef",
    ),
    "elements": (arguments(elements=[1, True]), "'elements' that are no list of atomic numbers"),
    "elements twice": (arguments(elements=[1, 1]), "atomic_numbers must be different"),
    "elements beyond": (arguments(elements=[95]), "'elements' that are no list"),
    "large": (arguments(atom_fea_dim=10**9), "at least [0-9]+ weights but holds"),
    "huge": (arguments(atom_conv_hidden_dim=10**15), "at least a large number weights but holds"),
    "deep": (arguments(n_conv=10**6), "'n_conv' = 1000000, above the 16 supported"),
    "long": (arguments(mlp_hidden_dims=[1] * 10**5), "perceptrons of more than 16 layers"),
    "other widths": (
        arguments(angle_fea_dim=7),
        r"'angle_embedding\.weight' of the shape \(8, 5\)",
    ),
    "fixed frequencies": (
        lambda m: (
            arguments(learnable_rbf=False)(m),
            m["state_dict"]["bond_basis_expansion.rbf_expansion_ag.frequencies"].add_(1),
        ),
        "has other numbers in .*rbf_expansion_ag",
    ),
    "a missing weight": (
        lambda m: m["state_dict"].pop("site_wise.bias"),
        r"has no weight 'site_wise\.bias'",
    ),
    "missing energies": (
        lambda m: m["state_dict"].pop("composition_model.fc.weight"),
        "has no energies of 94 elements",
    ),
    "energies of more": (
        weights(composition_model__fc__weight=torch.zeros(1, 95)),
        "has no energies of 94 elements",
    ),
    "energies of none": (arguments(composition_model=None), "but no composition model"),
    "a superfluous weight": (
        weights(mlp__layers__9__weight=torch.zeros(2)),
        r"a weight 'mlp\.layers\.9\.weight' that no layer takes",
    ),
    "a number for a weight": (weights(site_wise__bias=3.0), "no real numbers at .* but 3.0"),
    "whole numbers": (
        weights(site_wise__bias=torch.ones(1, dtype=torch.int64)),
        "no real numbers at .* but a tensor",
    ),
    "not finite": (weights(site_wise__bias=torch.tensor([torch.inf])), "NaN or infinite .*site_wi"),
    "a name of another type": (lambda m: m["state_dict"].update({3: 4}), "a weight named 3"),
}


@pytest.mark.parametrize("what", FAULTS)
def test_faults_are_named_in_a_line(what: str, tmp_path: Path) -> None:
    change, message = FAULTS[what]
    with pytest.raises(FoundationError, match=message) as told:
        opened(changed(tmp_path, change))
    assert "\n" not in str(told.value)
    assert len(str(told.value).replace(str(tmp_path), "")) < 200


def test_other_objects_of_chgnet_are_named(tmp_path: Path) -> None:
    path = written(example(), tmp_path / "tuned.pth.tar")
    state = content_of(path)["model"]["state_dict"]
    with quiet():
        from chgnet.model import CHGNet

        torch.save(CHGNet(n_conv=1), tmp_path / "object.pt")
    with pytest.raises(FoundationError, match="holds a pickled 'CHGNet' object. Save"):
        opened(tmp_path / "object.pt")
    for content in (state, {"state_dict": state}, {"model": state, "epoch": 3}):
        torch.save(content, path)
        with pytest.raises(FoundationError, match="without the arguments of its class"):
            opened(path)


def test_foreign_files_are_not_recognised(tmp_path: Path) -> None:
    path = tmp_path / "other.pt"
    for content in (
        {"model_state_dict": {"0.weight": torch.zeros(2)}, "config": {}},
        {"state_dict": {"layer.weight": torch.zeros(2)}, "model_args": {"layers": 2}},
        {"model": {}, "epoch": 3},
        torch.nn.Linear(2, 2),
        torch.zeros(2),
        [1, 2],
        {3: 4, "model": None},
    ):
        torch.save(content, path)
        with path.open("rb") as file:
            assert not ChgnetFamily().recognises(read_archive(file).root)


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("touch trace",)


def test_code_in_a_file_is_not_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    hostile = Evil()
    places: list[Callable[[dict[str, Any]], object]] = [
        *(arguments(**{name: hostile}) for name in ("version", "n_conv", "elements", "frills")),
        arguments(composition_model=hostile, mlp_first=True),
        arguments(mlp_first=hostile),
        arguments(skip_connection=hostile),
        weights(site_wise__bias=hostile),
        weights(composition_model__fc__weight=hostile),
        lambda model: model.update(model_args=hostile),
        lambda model: model.update(state_dict=hostile),
    ]
    for place in places:
        with pytest.raises(FoundationError) as told:
            opened(changed(tmp_path, place))
        assert "\n" not in str(told.value)
    path = changed(tmp_path, lambda model: model.update(notes=hostile))
    same(example(), opened(path))  # what is beside the model is not looked at
    assert not (tmp_path / "trace").exists()


def test_truncated_and_damaged_files_are_refused(tmp_path: Path) -> None:
    path = written(example(), tmp_path / "tuned.pth.tar", name="tuned")
    whole = path.read_bytes()
    for content in (b"", whole[: len(whole) // 2], whole[:-1], whole[:900] + whole[1800:]):
        path.write_bytes(content)
        with pytest.raises(FoundationError, match="empty|truncated|damaged"):
            opened(path)
    with zipfile.ZipFile(io.BytesIO(whole)) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            kept = old.read(name)
            new.writestr(name, kept[: len(kept) // 2] if name.endswith("data.pkl") else kept)
    with pytest.raises(FoundationError, match="damaged"):
        opened(path)
