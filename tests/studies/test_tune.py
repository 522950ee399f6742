"""Tuning of small models: never worse, resumable, the test set unread, clear about faults."""

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import finetune
from finetune import FinetuneError, Recipe, TuningResult
from finetune.commands import app
from finetune.core.errors import RunFolderError, RunStoppedError
from finetune.studies.study import Trial, Tried
from tests.conftest import Heard, recipe_for

runner = CliRunner()
SPACE = {
    "train.learning_rate": {"low": 1e-4, "high": 0.05, "log": True},
    "losses.energy.distance": ["squared", "huber"],
}


def recipe_of(workspace: Path, output: Path, **changes: Any) -> dict[str, Any]:
    """Energies alone, three short epochs; a test set that is not there."""
    tune = {"space": SPACE, "folds": 0, **changes.pop("tune", {})}
    data = {split: str(workspace / f"{split}.xyz") for split in ("train", "valid")}
    settings: dict[str, Any] = {
        "data": {**data, "test": str(workspace / "nowhere.xyz")},
        "losses": {"energy": {}},
        "train": {"epochs": 3, "batch_size": 12, "learning_rate": 1e-3, "ema": None},
        **changes,
    }
    return recipe_for(workspace, output, tune=tune, **settings).written()


@pytest.fixture(scope="module")
def whole(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> TuningResult:
    recipe = recipe_of(workspace, tmp_path_factory.mktemp("whole") / "run")
    return finetune.tune(recipe, budget=4)


def test_the_tuned_recipe_is_never_worse_and_runs_as_its_trial_did(whole: TuningResult) -> None:
    assert whole.untouched.number == 0
    assert whole.untouched.values == {}
    assert whole.best.value is not None
    assert whole.untouched.value is not None
    assert whole.best.value < whole.untouched.value
    tuned = Recipe.load(whole.path)
    assert tuned.train.learning_rate == whole.best.values["train.learning_rate"]
    assert tuned.tune.origin["trial"] == whole.best.number
    assert tuned.tune.origin["untouched"] == whole.untouched.value
    assert sum(tuned.tune.origin["trials"].values()) == 4
    with pytest.raises(FinetuneError, match=r"nowhere\.xyz"):
        finetune.run(whole.path)  # tuning did not miss the test set, a run does
    result = finetune.run(whole.path, ["data.test=null"])
    kept = result.history[result.best_epoch]
    assert whole.best.kept == (result.best_epoch == 0,)
    assert kept["valid/loss"] == pytest.approx(whole.best.value, rel=1e-9)


def test_names_of_labels_that_the_test_set_alone_has_and_idle_losses(
    workspace: Path, tmp_path: Path
) -> None:
    heard = Heard()
    space = {**SPACE, "losses.forces.weight": {"low": 0.1, "high": 10.0}}
    losses: dict[str, Any] = {"energy": {}, "forces": {"weight": 1.0}}
    recipe = recipe_of(workspace, tmp_path / "run", losses=losses, tune={"space": space})
    recipe["data"]["keys"] = {"forces": "cc_forces"}
    with pytest.raises(FinetuneError, match="no structure has forces under 'cc_forces'"):
        finetune.tune(recipe, ["data.test=null"], budget=1)
    result = finetune.tune(recipe, budget=1, reporter=heard)
    assert result.space.keys() == SPACE.keys()
    told = " ".join(heard.lines)
    assert "no structure has forces under 'cc_forces' in the files read" in told
    assert "'losses.forces.weight' is not searched: the loss is idle" in told
    with pytest.raises(FinetuneError, match="nothing to tune"):
        one = {"losses.forces.weight": {"low": 0.1, "high": 10.0}}
        finetune.tune({**recipe, "tune": {"space": one, "folds": 0}}, budget=1, overwrite=True)


def test_the_folder_holds_study_table_and_result_and_no_trial(whole: TuningResult) -> None:
    names = {path.name for path in whole.folder.iterdir()}
    assert names == {"tuning.json", "study.db", "tuned.yaml", "trials.csv", "result.json", "trials"}
    assert not list((whole.folder / "trials").iterdir())
    stored = json.loads((whole.folder / "result.json").read_text())
    assert stored["tuned"] == whole.best.value
    assert len(stored["trials"]) == 4
    rows = (whole.folder / "trials.csv").read_text().splitlines()
    assert rows[0] == "trial,state,loss,seconds,train.learning_rate,losses.energy.distance,fault"
    assert rows[1].startswith("0,done,")
    assert ",0.001,squared," in rows[1]


def test_trials_that_kept_the_foundation_are_counted(whole: TuningResult) -> None:
    def notes(*trials: tuple[float | None, tuple[bool, ...]]) -> list[str]:
        tried = [
            Tried(number, "done" if value else "pruned", value, {}, 1.0, kept=kept)
            for number, (value, kept) in enumerate(trials)
        ]
        return replace(whole, tried=tried).notes()

    begun = "note: no epoch validated better than the foundation, whose weights were kept, in "
    assert notes((2.0, (False,)), (1.0, (False,))) == []
    assert notes((2.0, (True,)), (1.0, (False,)), (None, (True,))) == [
        f"{begun}1 of 2 finished trials."
    ]
    assert notes((2.0, (True, False)), (1.0, (True, True))) == [
        f"{begun}1 of 2 finished trials (3 of their 4 folds); the tuned recipe is one of them: "
        "search other settings."
    ]
    assert notes((2.0, ()), (1.0, ())) == []  # of a study that an earlier release began


class Killed(BaseException):
    """Ends a tuning where it stands, as a kill would."""


@pytest.mark.slow
def test_a_killed_tuning_goes_on_and_ends_as_one_that_was_not(
    whole: TuningResult, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of(
        workspace,
        tmp_path / "run",
        train={
            "epochs": 3,
            "batch_size": 12,
            "learning_rate": 1e-3,
            "ema": None,
            "checkpoint_seconds": 0,
        },
    )
    unharmed = Trial.hopeless
    seen: list[tuple[int, float]] = []

    def harmed(self: Trial, share: float, value: float, first: float) -> bool:
        seen.append((self.number, share))
        if len(seen) == 2:
            raise Killed
        if len(seen) == 7:
            os.kill(os.getpid(), signal.SIGTERM)
        return unharmed(self, share, value, first)

    monkeypatch.setattr(Trial, "hopeless", harmed)
    with pytest.raises(Killed):
        finetune.tune(recipe, budget=3)
    with pytest.raises(RunStoppedError, match="continues with the same command") as stopped:
        finetune.tune(recipe, budget=3)
    assert stopped.value.exit_code == 128 + signal.SIGTERM
    assert list((tmp_path / "run-tuning" / "trials").iterdir())
    found = finetune.tune(recipe, budget=3)
    expected = whole.tried[:3]
    assert [(item.values, item.folds, item.state) for item in found.tried] == [
        (item.values, item.folds, item.state) for item in expected
    ]


@pytest.mark.slow
def test_other_geometries_without_labels_are_another_tuning(
    workspace: Path, tmp_path: Path
) -> None:
    pool = tmp_path / "pool.xyz"
    pool.write_text((workspace / "test.xyz").read_text())
    recipe = recipe_of(workspace, tmp_path / "run")
    recipe["data"]["unlabelled"] = str(pool)
    finetune.tune(recipe, ["train.epochs=1"], budget=1)
    pool.write_text((workspace / "train.xyz").read_text())
    with pytest.raises(RunFolderError, match=r"other settings: data \(there"):
        finetune.tune(recipe, ["train.epochs=1"], budget=2)


@pytest.mark.slow
def test_data_that_change_while_it_works_stop_it(workspace: Path, tmp_path: Path) -> None:
    valid = tmp_path / "valid.xyz"
    valid.write_text((workspace / "valid.xyz").read_text())

    class Meddler(Heard):
        def say(self, message: str) -> None:
            super().say(message)
            if message.startswith("trial 0"):
                valid.write_text((workspace / "train.xyz").read_text())

    recipe = recipe_of(workspace, tmp_path / "run", train={"epochs": 1})
    recipe["data"]["valid"] = str(valid)
    with pytest.raises(RunFolderError, match="the data have changed"):
        finetune.tune(recipe, budget=3, reporter=Meddler())
    valid.write_text((workspace / "valid.xyz").read_text())
    assert len(finetune.tune(recipe, budget=2).tried) == 2


@pytest.mark.slow
def test_damaged_folds_are_written_again(workspace: Path, tmp_path: Path) -> None:
    recipe = recipe_of(workspace, tmp_path / "run", train={"epochs": 1}, tune={"folds": 2})
    found = finetune.tune(recipe, budget=1)
    (found.folder / "folds" / "2" / "train.h5").write_bytes(b"xx")
    assert [item.state for item in finetune.tune(recipe, budget=2).tried][1] != "failed"


def test_others_are_refused(whole: TuningResult, workspace: Path, tmp_path: Path) -> None:
    same = recipe_of(workspace, tmp_path / "run")
    changes: dict[str, Any] = {
        "train": {"epochs": 4, "batch_size": 12, "learning_rate": 1e-3, "ema": None},
        "tune": {"space": {"train.epochs": [2, 3]}, "measure": "energy_mae"},
    }
    other = recipe_of(workspace, tmp_path / "run", **changes)
    with pytest.raises(RunFolderError, match="a tuning with other settings") as refused:
        finetune.tune(other, budget=4, to=whole.folder)
    for told in (
        "train.epochs (there 3, now 4)",
        "space of train.learning_rate (there {'low'",
        "space of train.epochs (there nothing, now [2, 3])",
        "measure (there loss, now energy_mae)",
    ):
        assert told in str(refused.value)
    seconds = sum(item.seconds for item in whole.tried)
    spent = finetune.tune(same, budget=f"{0.99 * seconds:.4f}s", to=whole.folder)  # of all sessions
    assert spent.tried == whole.tried
    copy = tmp_path / "copy"
    shutil.copytree(whole.folder, copy)
    (copy / "study.db").write_bytes(b"")
    with pytest.raises(RunFolderError, match="remembers the trials"):
        finetune.tune(same, budget=9, to=copy)
    assert (copy / "result.json").read_bytes() == (whole.folder / "result.json").read_bytes()
    for content, told in (
        ("[]", "it has no mapping at its top level"),
        ("7", "it has no mapping at its top level"),
        ("{", "it is not JSON: line 1: Expecting property name"),
        ("[" * 100_000, "it is nested too deeply"),
    ):
        (copy / "tuning.json").write_text(content)
        with pytest.raises(RunFolderError, match="tuning.json' is damaged") as refused:
            finetune.tune(same, budget=9, to=copy)
        assert f"({told}" in str(refused.value)
        assert str(refused.value).endswith("Choose another folder with --to, or --overwrite.")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("")
    with pytest.raises(RunFolderError, match=r"contains files \('mine.txt'\) that no tuning"):
        finetune.tune(same, budget=1, to=tmp_path / "full", overwrite=True)
    assert (tmp_path / "full" / "mine.txt").exists()


@pytest.mark.slow
def test_folds_judge_where_labels_are_few_and_failures_are_recorded(
    workspace: Path, tmp_path: Path
) -> None:
    recipe = recipe_of(
        workspace,
        tmp_path / "run",
        data={"train": str(workspace / "train.xyz@:6")},
        train={"epochs": 2, "batch_size": 6, "learning_rate": 1e-3, "rollbacks": 0, "ema": None},
        tune={"folds": 2, "space": {"train.learning_rate": [1e12]}},
    )
    path = tmp_path / "recipe.yaml"
    path.write_text(Recipe.parse(recipe).dump())
    done = runner.invoke(app, ["tune", str(path), "--budget", "2"])
    assert done.exit_code == 0, done.output
    assert "2-fold cross-validation on 6 labelled structures" in done.output
    assert "2 trials (1 done, 0 pruned, 1 failed)" in done.output
    assert "failed: training keeps diverging" in done.output
    stored = json.loads((tmp_path / "run-tuning" / "result.json").read_text())
    first, second = stored["trials"]
    assert first["value"] == pytest.approx(sum(first["folds"]) / 2)
    assert len(first["folds"]) == 2
    assert second["state"] == "failed"
    assert Recipe.load(tmp_path / "run-tuning" / "tuned.yaml").train.learning_rate == 1e-3
    study = tmp_path / "run-tuning" / "study.db"
    study.write_bytes(b"scratched" * 1000)
    refused = runner.invoke(app, ["tune", str(path), "--budget", "3"])
    assert refused.exit_code == 2
    assert "is damaged or of another program" in refused.stderr


@pytest.mark.parametrize(
    ("override", "budget", "told"),
    [
        ("train.epochs=2", "soon", "neither a number of trials from 1 on"),
        ("tune.space={train.epoch: [1]}", "2", "Did you mean 'train.epochs'"),
        ("tune.space={train.epochs: {low: 5, high: 5}}", "2", "from 5 to 5 is empty"),
        ("tune.folds=50", "2", "cannot be divided into 50 folds"),
        ("data.train=gone.xyz", "2", "no structure file 'gone.xyz'"),
    ],
)
def test_faults_are_told_before_anything_is_written(
    workspace: Path, tmp_path: Path, override: str, budget: str, told: str
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(Recipe.parse(recipe_of(workspace, tmp_path / "run")).dump())
    done = runner.invoke(app, ["tune", str(path), override, "--budget", budget])
    assert done.exit_code == 2, done.output
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert [item.name for item in tmp_path.iterdir()] == ["recipe.yaml"]


@pytest.mark.parametrize("command", [["tune"], ["compare", "--vary", "losses=none,pitc"]])
def test_a_file_in_the_way_is_told_before_anything_is_read(
    tmp_path: Path, command: list[str]
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe_for(tmp_path / "gone", tmp_path / "run").dump())
    for to, told in (
        (path, "recipe.yaml' is a file. Choose another folder with --to"),
        (path / "a" / "b", f"is a file, so '{path / 'a' / 'b'}' cannot be made. Choose another"),
    ):
        done = runner.invoke(app, [command[0], str(path), *command[1:], "--to", str(to)])
        assert done.exit_code == 2, done.output
        assert told in done.stderr
    ring = tmp_path / "ring"
    ring.symlink_to(ring)
    for where, told in (
        (["--to", str(ring / "x")], "a symbolic link in it leads back to itself"),
        ([f"output={ring / 'x'}"], "a symbolic link in it leads back to itself"),
        (
            ["--to", str(Path.cwd())],
            "is or contains the working folder. Choose another",
        ),
    ):
        done = runner.invoke(app, [command[0], str(path), *where, *command[1:]])
        assert done.exit_code == 2, done.output
        assert told in done.stderr
    assert {item.name for item in tmp_path.iterdir()} == {"recipe.yaml", "ring"}


def test_ladders_are_refused(workspace: Path, tmp_path: Path) -> None:
    recipe = recipe_of(workspace, tmp_path / "run", stages={"one": {}})
    with pytest.raises(FinetuneError, match="tuned stage by stage"):
        finetune.tune(recipe, budget=1)
