"""A fine-tuned potential, in whatever form, is the foundation of the next run."""

import json
from pathlib import Path

import ase.io
import pytest
import torch
from typer.testing import CliRunner

import finetune
from finetune.commands import app
from finetune.core.errors import FoundationError
from finetune.data.graphs import GraphBatch, concatenate
from finetune.potentials.description import describe
from finetune.potentials.loading import load_foundation
from finetune.runs.preparation import described
from tests.conftest import recipe_for

runner = CliRunner()
FORMS = {"run folder": "", "bundle": "model", "adapter": "adapter", "file": "first.model"}


def labelled(workspace: Path, folder: Path, level: str) -> dict[str, str]:
    """Write the workspace's labels with a level of theory."""
    folder.mkdir()
    for split in ("train", "valid", "test"):
        frames = ase.io.read(workspace / f"{split}.xyz", ":")
        for atoms in frames:
            atoms.info["level_of_theory"] = level
        ase.io.write(folder / f"{split}.xyz", frames)
    return {split: str(folder / f"{split}.xyz") for split in ("train", "valid", "test")}


@pytest.fixture(scope="module")
def place(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two runs, ``second`` with LoRA on top of ``first``, and first's export."""
    folder = tmp_path_factory.mktemp("chain")
    common = {"losses": {"energy": {}}, "train": {"epochs": 2, "learning_rate": 0.003}}
    data = labelled(workspace, folder / "pbe0", "PBE0/def2-SVP")
    finetune.run(recipe_for(workspace, folder / "first", data=data, **common))
    change = {
        "foundation": str(folder / "first"),
        "data": labelled(workspace, folder / "cc", "CCSD(T)/cc-pVDZ"),
        "adapter": {"kind": "lora", "rank": 2},
    }
    finetune.run(recipe_for(workspace, folder / "second", **common, **change))
    to = str(folder / "first" / "first.model")
    done = runner.invoke(app, ["export", str(folder / "first"), "--to", to])
    assert done.exit_code == 0, done.output
    return folder


@pytest.mark.parametrize("form", FORMS)
def test_every_form_opens_as_the_same_foundation(
    form: str, place: Path, workspace: Path, tmp_path: Path, mixed_graphs: list[GraphBatch]
) -> None:
    path = place / "first" / FORMS[form]
    recipe = recipe_for(
        workspace, tmp_path / "next", foundation=str(path), reference_energies="keep"
    )
    prepared = finetune.validate(recipe)
    expected = load_foundation(place / "first")
    batch = concatenate(mixed_graphs)
    assert torch.equal(prepared.reference(batch).energy, expected.potential(batch).energy)
    assert prepared.reference.references() == expected.potential.references()
    fingerprint = prepared.foundation.fingerprint
    read_anew = form == "file"  # its settings, as far as a MACE file has them
    assert (fingerprint != expected.fingerprint) == read_anew
    origin, itself = prepared.lineage
    assert origin["name"] == str(workspace / "foundation")
    assert origin["fingerprint"] == load_foundation(workspace / "foundation").fingerprint
    assert itself == {
        "name": prepared.foundation.location,
        "fingerprint": fingerprint,
        "level_of_theory": "PBE0/def2-SVP",
    }
    *_, descent, defaults = described(prepared)
    assert descent.startswith(f"continues from {workspace / 'foundation'} → ")
    assert defaults.startswith("defaults of 'full': ema 0.999, gradient_clip 1 (weights of the")


def test_a_run_tells_where_it_comes_from(place: Path, workspace: Path) -> None:
    first, second = place / "first" / "model", place / "second"
    fingerprint = json.loads((first / "config.json").read_text())["fingerprint"]
    names = [str(workspace / "foundation"), str(first)]
    environment = json.loads((second / "environment.json").read_text())
    stored = json.loads((second / "model" / "config.json").read_text())
    assert environment["foundation"]["fingerprint"] == fingerprint
    assert stored["metadata"]["foundation"]["fingerprint"] == fingerprint
    assert stored["metadata"]["level_of_theory"] == ["CCSD(T)/cc-pVDZ"]
    for lineage in (environment["foundation"]["lineage"], stored["metadata"]["lineage"]):
        assert [item["name"] for item in lineage] == names
        assert lineage[1]["level_of_theory"] == "PBE0/def2-SVP"
    steps = [names[0], f"{names[1]} (PBE0/def2-SVP)", f"{second} (CCSD(T)/cc-pVDZ)"]
    assert json.loads((second / "result.json").read_text())["test"]["lineage"] == steps
    assert " → ".join(steps) in (second / "report.html").read_text()
    told = runner.invoke(app, ["evaluate", str(second), str(workspace / "test.xyz")]).output
    assert f"lineage: {' → '.join(steps[:2])}" in told
    assert dict(describe(str(second)))["descends from"] == " → ".join(steps[:2])


def test_evaluation_compares_with_the_run_before(place: Path, workspace: Path) -> None:
    found = finetune.evaluate(place / "second", workspace / "test.xyz")
    before = finetune.evaluate(place / "first", workspace / "test.xyz")
    assert found.foundation is not None
    assert found.foundation.forces_mae == pytest.approx(before.finetuned.forces_mae, rel=1e-9)
    assert found.finetuned.forces_mae != before.finetuned.forces_mae


@pytest.mark.slow
def test_a_second_run_is_exported_and_calculated_with(
    place: Path, workspace: Path, tmp_path: Path
) -> None:
    path = tmp_path / "second.model"
    assert runner.invoke(app, ["export", str(place / "second"), "--to", str(path)]).exit_code == 0
    energies = []
    for potential in (path, place / "second", place / "second" / "adapter"):
        atoms = ase.io.read(workspace / "test.xyz", 0)
        atoms.calc = finetune.load_calculator(potential)
        energies.append(atoms.get_potential_energy())
    assert energies[0] == energies[1] == energies[2]
    assert load_foundation(path).metadata["foundation"]["name"] == str(place / "first" / "model")


@pytest.mark.slow
def test_the_second_adapter_belongs_to_the_first_run(place: Path, workspace: Path) -> None:
    finetune.AdaptedFoundation(place / "first", {"second": place / "second"}, device="cpu")
    with pytest.raises(FoundationError, match="belongs to the foundation"):
        finetune.AdaptedFoundation(
            workspace / "foundation", {"second": place / "second"}, device="cpu"
        )
