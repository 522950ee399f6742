"""The main job on small models: what it writes, what it compares, what stops it early."""

import json
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest

import finetune
from finetune import FinetuneError, Recipe, RunResult
from finetune.core.errors import RunStoppedError, TrainingError
from tests.conftest import rattled, recipe_for


@pytest.fixture(scope="module")
def result(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    folder = tmp_path_factory.mktemp("runs") / "tuned"
    return finetune.run(recipe_for(workspace, folder, train={"epochs": 20, "learning_rate": 0.01}))


def test_energies_alone_improve_energies_and_forces(result: RunResult) -> None:
    assert result.test is not None
    before, after = result.test.foundation, result.test.finetuned
    assert before is not None
    assert before.energy_per_atom_mae is not None
    assert after.energy_per_atom_mae is not None
    assert after.energy_per_atom_mae < before.energy_per_atom_mae
    assert before.forces_mae is not None
    assert after.forces_mae is not None
    assert after.forces_mae < before.forces_mae


def test_the_foundation_is_compared_with_refitted_references(result: RunResult) -> None:
    """The labels are shifted by 7 eV an atom: only a refit makes the foundation comparable."""
    assert result.valid.foundation is not None
    assert result.valid.foundation.energy_per_atom_mae is not None
    assert result.valid.foundation.energy_per_atom_mae < 0.1


def test_the_run_folder_is_complete(result: RunResult) -> None:
    present = {str(p.relative_to(result.folder)) for p in result.folder.rglob("*") if p.is_file()}
    assert present == {
        "recipe.yaml",
        "environment.json",
        "metrics.jsonl",
        "result.json",
        "report.html",
        "learning-curve.png",
        "adapter/adapter.json",
        "adapter/adapter.safetensors",
        "checkpoints/step-00000060/manifest.json",
        "checkpoints/step-00000060/state.json",
        "checkpoints/step-00000060/state.safetensors",
        "model/config.json",
        "model/model.safetensors",
        "model/training-set.safetensors",
    }
    assert Recipe.load(result.folder / "recipe.yaml").train.epochs == 20
    environment = json.loads((result.folder / "environment.json").read_text())
    assert len(environment["foundation"]["fingerprint"]) == 64
    assert environment["versions"]["mace-torch"]
    stored = json.loads((result.folder / "result.json").read_text())
    assert stored["test"]["finetuned"]["labelled_forces"] == 45


def test_the_report_stands_alone(result: RunResult) -> None:
    page = (result.folder / "report.html").read_text()
    assert page.count("<svg") == 2
    assert "src=" not in page
    assert "force MAE" in page


def test_evaluate_repeats_the_run_s_test(result: RunResult, workspace: Path) -> None:
    again = finetune.evaluate(result.folder, workspace / "test.xyz")
    assert result.test is not None
    for found, expected in (
        (again.finetuned, result.test.finetuned),
        (again.foundation, result.test.foundation),
    ):
        assert found is not None
        assert expected is not None
        for name, value in expected.as_dict().items():
            assert getattr(found, name) == (
                value if value is None else pytest.approx(value, rel=1e-6)
            ), name


def test_evaluate_without_the_foundation_still_evaluates(
    result: RunResult, workspace: Path, tmp_path: Path
) -> None:
    config = result.folder / "model" / "config.json"
    raw = json.loads(config.read_text())
    raw["metadata"]["foundation"]["name"] = str(tmp_path / "gone")
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "config.json").write_text(json.dumps(raw))
    weights = (result.folder / "model" / "model.safetensors").read_bytes()
    (bundle / "model.safetensors").write_bytes(weights)
    found = finetune.evaluate(bundle, workspace / "test.xyz")
    assert found.foundation is None
    assert "can no longer be opened" in found.note
    assert found.finetuned.energy_mae is not None


def test_a_tuned_potential_is_a_foundation(
    result: RunResult, workspace: Path, tmp_path: Path
) -> None:
    recipe = recipe_for(
        workspace, tmp_path / "again", foundation=str(result.folder), train={"epochs": 1}
    )
    again = finetune.run(recipe)
    assert again.history[0]["valid/loss"] == pytest.approx(
        min(record["valid/loss"] for record in result.history), rel=0.5
    )


def _chlorine(folder: Path) -> dict[str, Any]:
    atoms = rattled("CH3Cl", 0)
    atoms.info["REF_energy"] = -1.0
    ase.io.write(folder / "chlorine.xyz", atoms)
    return {"data": {"train": str(folder / "chlorine.xyz"), "valid": str(folder / "valid.xyz")}}


def _data(name: str, value: Any) -> Any:
    def change(folder: Path) -> dict[str, Any]:
        paths = {split: str(folder / f"{split}.xyz") for split in ("train", "valid")}
        return {"data": {**paths, name: value}}

    return change


STOPPED = {
    "an unknown foundation": (lambda _: {"foundation": "tiny-xtb-hcn"}, "no foundation"),
    "a missing file": (_data("train", "missing.xyz"), "no structure file 'missing.xyz'"),
    "a misspelt energy key": (_data("keys", {"energy": "E", "forces": "F"}), "Keys present"),
    "an unknown element": (_chlorine, "contains Cl, which the foundation"),
    "a device that is not there": (lambda _: {"train": {"device": "cuda:9"}}, "no device"),
    "a device of another world": (lambda _: {"train": {"device": "tpu"}}, "device 'tpu'"),
    "a pattern without a match": (
        lambda _: {"adapter": {"kind": "frozen", "train": ["nope.*"]}},
        "matches no parameter",
    ),
    "a measure without labels": (
        lambda _: {"train": {"monitor": "forces_mae"}},
        "the validation set has no forces labels",
    ),
    "losses without labels": (
        lambda _: {"losses": {"forces": {}, "pitc": {}}},
        "the training set has no forces labels.* It has: energy",
    ),
}


@pytest.mark.parametrize("fault", STOPPED)
def test_faults_leave_nothing_behind(fault: str, workspace: Path, tmp_path: Path) -> None:
    change, message = STOPPED[fault]
    with pytest.raises(FinetuneError, match=message):
        finetune.run(recipe_for(workspace, tmp_path / "run", **change(workspace)))
    assert list(tmp_path.iterdir()) == []


def test_earlier_work_is_not_lost(result: RunResult, workspace: Path, tmp_path: Path) -> None:
    recipe = recipe_for(workspace, result.folder, train={"epochs": 1})
    with pytest.raises(FinetuneError, match="holds an earlier run"):
        finetune.run(recipe)
    (tmp_path / "thesis.tex").write_text("dear")
    for name in ("recipe.yaml", "environment.json"):  # a folder of one's own that looks like a run
        (tmp_path / name).write_text("mine")
    with pytest.raises(FinetuneError, match=r"contains files \('thesis.tex'\) that no run writes"):
        finetune.run(recipe_for(workspace, tmp_path), overwrite=True)
    assert (tmp_path / "thesis.tex").read_text() == "dear"
    with pytest.raises(FinetuneError, match="is a file"):
        finetune.run(recipe_for(workspace, tmp_path / "thesis.tex" / "run"))


def test_an_earlier_run_is_put_back_when_its_successor_fails(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from finetune.training.loop import Trainer

    folder = tmp_path / "run"
    finetune.run(recipe_for(workspace, folder, train={"epochs": 1}))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def fail(self: Trainer, pieces: Any) -> None:
        raise TrainingError("diverged")

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", fail)
        with pytest.raises(TrainingError, match="diverged"):
            finetune.run(recipe_for(workspace, folder), overwrite=True)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    monkeypatch.chdir(folder)
    with pytest.raises(FinetuneError, match="is or contains the working folder"):
        finetune.run(recipe_for(workspace, "."), overwrite=True)
    (folder / "model" / "notes.txt").write_text("mine")
    with pytest.raises(FinetuneError, match=r"contains files \('model/notes.txt'\)"):
        finetune.run(recipe_for(workspace, folder), overwrite=True)
    assert (folder / "model" / "notes.txt").read_text() == "mine"


LONG = "x" * 5000


@pytest.mark.parametrize("key", ["output", "foundation", "data"])
def test_absurd_paths_are_errors_of_ours(key: str, workspace: Path, tmp_path: Path) -> None:
    recipe = recipe_for(workspace, tmp_path / "run").model_dump(mode="json")
    if key == "data":
        recipe["data"]["train"] = LONG
    else:
        recipe[key] = LONG
    with pytest.raises(FinetuneError, match="name too long"):
        finetune.run(recipe)
    assert list(tmp_path.iterdir()) == []


def test_absurd_names_of_recipes_and_potentials_are_errors_of_ours(tmp_path: Path) -> None:
    for call in (
        lambda: finetune.run(LONG),
        lambda: finetune.load_calculator(LONG),
        lambda: finetune.evaluate(LONG, "x.xyz"),
        lambda: Recipe.load(LONG),
    ):
        with pytest.raises(FinetuneError, match="name too long"):
            call()


def test_a_disk_that_fills_after_the_training_loses_nothing(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    recipe = recipe_for(workspace, tmp_path / "run", train={"epochs": 2})
    with monkeypatch.context() as patch:
        patch.setattr("finetune.runs.outputs.write_report", full)
        with pytest.raises(RunStoppedError, match="The training is done and kept"):
            finetune.run(recipe)
    assert finetune.run(recipe, resume="auto").epochs == 2
    assert (tmp_path / "run" / "report.html").is_file()


def test_a_run_does_not_eat_its_own_foundation(result: RunResult, workspace: Path) -> None:
    recipe = recipe_for(workspace, result.folder, foundation=str(result.folder))
    with pytest.raises(FinetuneError, match="the foundation lies in the output"):
        finetune.run(recipe, overwrite=True)


def test_energies_of_another_origin_are_noticed(workspace: Path, tmp_path: Path) -> None:
    recipe = recipe_for(workspace, tmp_path / "run", reference_energies="keep", train={"epochs": 1})
    (warning,) = finetune.run(recipe).notes
    assert "wrong by" in warning
    assert "reference_energies is 'keep'" in warning


def test_a_validation_fraction_is_set_aside(workspace: Path, tmp_path: Path) -> None:
    data = {"train": str(workspace / "train.xyz"), "valid": 0.25}
    result = finetune.run(recipe_for(workspace, tmp_path / "run", data=data, train={"epochs": 1}))
    assert result.valid.finetuned.structures == 3


def test_forces_are_learnt_where_there_are_some(workspace: Path, tmp_path: Path) -> None:
    frames = ase.io.read(workspace / "test.xyz", ":")
    bare = ase.io.read(workspace / "train.xyz", ":")
    path = tmp_path / "both.xyz"
    ase.io.write(path, [frames[0], *(atoms for atoms in bare[:3]), *frames[1:4]])
    assert "REF_forces" not in ase.io.read(path, 1).arrays
    result = finetune.run(
        recipe_for(
            workspace,
            tmp_path / "run",
            data={"train": str(path), "valid": str(workspace / "test.xyz")},
            losses={"energy": {}, "forces": {"weight": 10.0}},
            train={"epochs": 15, "learning_rate": 0.01},
        )
    )
    before, after = result.valid.foundation, result.valid.finetuned
    assert before is not None
    assert np.isfinite(result.history[-1]["loss/forces"])
    assert after.forces_rmse < before.forces_rmse  # type: ignore[operator]


def test_a_lora_run_trains_merges_and_is_exported(workspace: Path, tmp_path: Path) -> None:
    recipe = recipe_for(
        workspace,
        tmp_path / "run",
        adapter={"kind": "lora", "rank": 2},
        train={"epochs": 6, "learning_rate": 0.01},
    )
    result = finetune.run(recipe)
    assert min(r["valid/loss"] for r in result.history) < result.history[0]["valid/loss"]
    assert (result.folder / "adapter" / "adapter_config.json").is_file()
    again = finetune.evaluate(result.folder, workspace / "test.xyz")
    assert result.test is not None
    assert again.finetuned.energy_mae == pytest.approx(result.test.finetuned.energy_mae, rel=1e-6)


@pytest.mark.slow
def test_a_mace_file_is_a_foundation_with_a_head_of_its_own(
    workspace: Path, tmp_path: Path
) -> None:
    import torch

    from tests.tiny import tiny_mace, tiny_settings

    energies = tiny_settings().atomic_energies[0]
    potential = tiny_mace(
        head="cc",
        heads=("dft", "cc"),
        atomic_energies=(energies, energies),
        atomic_inter_scale=(1.0, 1.5),
        atomic_inter_shift=(0.0, -0.2),
    )
    path = tmp_path / "two-heads.model"
    torch.save(potential.plain_model(torch.float64), path)
    change: dict[str, Any] = {"foundation": str(path), "train": {"epochs": 1}}
    with pytest.raises(FinetuneError, match="several heads: dft, cc. Choose one: 'head: dft'"):
        finetune.run(recipe_for(workspace, tmp_path / "run", **change))
    result = finetune.run(recipe_for(workspace, tmp_path / "run", head="cc", **change))
    again = finetune.evaluate(result.folder, workspace / "test.xyz")
    assert again.foundation is not None
    assert result.test is not None
    assert result.test.foundation is not None
    assert again.foundation.energy_mae == pytest.approx(result.test.foundation.energy_mae, rel=1e-6)


def test_every_weak_loss_takes_part_in_a_run(workspace: Path, tmp_path: Path) -> None:
    losses = {
        "energy": {"weight": {"kind": "cosine", "first": 2.0, "last": 1.0}},
        "pitc": {"weight": {"kind": "warm_up", "last": 0.1, "end": 0.5}, "displacement": 0.02},
        "heat": {"kind": "pitc", "weight": 0.1, "displacement": {"kind": "thermal"}},
        "soft": {"kind": "second_difference", "displacement": {"kind": "soft_modes"}},
        "worst": {"kind": "pitc", "displacement": {"kind": "adversarial", "size": 0.05}},
        "pisc": {"copies": 2},
        "far": {"kind": "pitc", "anchored": True, "displacement": 0.1},
        "replay": {"weight": {"kind": "linear", "first": 0.1, "last": 0.0}},
        "strain": {},
    }
    recipe = recipe_for(workspace, tmp_path / "run", losses=losses, train={"epochs": 2})
    result = finetune.run(recipe)
    trained = {name for name in result.history[-1] if name.startswith("loss/")}
    assert trained == {f"loss/{name}" for name in losses if name != "strain"}  # nothing periodic
    assert all(result.history[-1][name] > 0 for name in trained)
    assert any("'strain' is idle" in note for note in result.notes)


def test_a_run_that_learnt_nothing_says_so(workspace: Path, tmp_path: Path) -> None:
    worse = {"epochs": 1, "learning_rate": 3.0, "warmup_epochs": 0, "ema": None}
    result = finetune.run(recipe_for(workspace, tmp_path / "run", train=worse))
    assert result.best_epoch == 0
    assert any("no epoch validated better" in note for note in result.notes)


def test_a_run_without_a_result_is_no_potential_yet(workspace: Path, tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    with pytest.raises(FinetuneError, match="a run that is not finished. Resume it first"):
        finetune.evaluate(tmp_path / "run", workspace / "test.xyz")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FinetuneError, match="holds no potential: neither"):
        finetune.load_calculator(tmp_path / "empty")
