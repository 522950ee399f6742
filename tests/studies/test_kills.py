"""What kills, full disks and spent memory leave of a tuning, and how it goes on."""

import shutil
from pathlib import Path
from typing import Any

import pytest

import finetune
from finetune.core.errors import RunFolderError, RunStoppedError
from finetune.studies import tuning
from finetune.studies.study import Trial
from finetune.studies.tuning_folder import TUNING, claim
from finetune.studies.tuning_result import TuningResult
from tests.conftest import recipe_for


class Killed(BaseException):
    """Ends a tuning where it stands, as a kill would."""


def recipe_of(workspace: Path, output: Path) -> finetune.Recipe:
    return recipe_for(
        workspace,
        output,
        losses={"energy": {}},
        train={"epochs": 2, "batch_size": 12, "learning_rate": 1e-3, "ema": None},
        tune={"space": {"train.learning_rate": [1e-3, 0.01]}, "folds": 0},
    )


@pytest.mark.slow
def test_files_that_a_kill_kept_from_being_written_are_written(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of(workspace, tmp_path / "run")

    def killed(_: TuningResult) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(TuningResult, "write", killed)
        with pytest.raises(Killed):
            finetune.tune(recipe, budget=1)
    folder = tmp_path / "run-tuning"
    (folder / ".result.json.x7k2").write_text("{")
    (folder / ".tuned.yaml.abcd").write_text("")
    found = finetune.tune(recipe, budget=1)
    assert found.path.is_file() and (folder / "result.json").is_file()
    assert not list(folder.glob(".*"))


@pytest.mark.slow
def test_time_spent_before_a_kill_counts(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of(workspace, tmp_path / "run")
    first = finetune.tune(recipe, budget=1)
    spent = first.untouched.seconds
    unharmed = Trial.hopeless

    def stopped(self: Trial, *given: float) -> bool:
        self.spend(1000.0)
        raise Killed

    monkeypatch.setattr(Trial, "hopeless", stopped)
    with pytest.raises(Killed):
        finetune.tune(recipe, budget=f"{spent + 500:.0f}s")
    monkeypatch.setattr(Trial, "hopeless", unharmed)
    found = finetune.tune(recipe, budget=f"{spent + 500:.0f}s")
    assert [item.fault for item in found.tried] == ["", "given up when the time was spent"]


@pytest.mark.slow
def test_what_pytorch_raises_of_the_untouched_recipe_stops_without_a_traceback(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: Any) -> None:
        raise RuntimeError("CUDA out of memory.\nTried to allocate")

    recipe = recipe_of(workspace, tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(tuning, "train", no_memory)
        told = (
            r"the untouched recipe: CUDA out of memory\. The tuning in .* continues with the same"
        )
        with pytest.raises(RunStoppedError, match=told):
            finetune.tune(recipe, budget=1)
    assert finetune.tune(recipe, budget=1).untouched.done


def test_a_kill_while_a_folder_is_overwritten_leaves_nothing_to_go_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"train.epochs": 3}
    assert not claim(tmp_path, TUNING, asked, False, print)
    (tmp_path / "folds").mkdir()
    (tmp_path / "study.db").write_text("")
    assert claim(tmp_path, TUNING, asked, False, print)
    assert (tmp_path / "study.db").exists()

    def killed(_: Path) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        with pytest.raises(Killed):
            claim(tmp_path, TUNING, asked, True, print)
    with pytest.raises(RunFolderError, match="other settings: train.epochs"):
        claim(tmp_path, TUNING, asked, False, print)
    assert not claim(tmp_path, TUNING, asked, True, print)
    assert [item.name for item in tmp_path.iterdir()] == ["tuning.json"]


def test_other_versions_are_told(tmp_path: Path) -> None:
    heard: list[str] = []
    for torch in ("2.1", "2.1", "2.2"):
        claim(tmp_path, TUNING, {"versions": {"torch": torch, "mace": "1"}}, False, heard.append)
    assert heard == ["warning: the tuning continues with other versions: torch 2.1 -> 2.2."]
