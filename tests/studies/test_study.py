"""The study by itself, with a formula in place of a training."""

import math
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from finetune.core.errors import RunFolderError
from finetune.recipe.sections import Range
from finetune.studies.space import Dimension
from finetune.studies.study import COMPLETE_FIRST, Study, Trial, Tried
from finetune.studies.tuning_result import best_of

SPACE = {
    "rate": Dimension("rate", Range(low=1e-5, high=1e-1, log=True), 0.05),
    "epochs": Dimension("epochs", Range(low=10, high=200), 40, whole=True),
    "kind": Dimension("kind", ("full", None, ["a", 1]), "full"),
    "outside": Dimension("outside", Range(low=1.0, high=2.0), 7.0),
}


def error(values: Mapping[str, Any]) -> float:
    rate, epochs = values.get("rate", 0.05), values.get("epochs", 40)
    return 0.1 + (math.log10(rate) + 3) ** 2 + 1e-4 * abs(epochs - 100)


def work(study: Study, trial: Trial, folds: int = 2, stop_at: int | None = None) -> Tried | None:
    for fold in range(len(trial.folds), folds):
        final = error(trial.values) * (1 + fold)
        for epoch in range(1, 6):
            if stop_at == epoch:
                return None
            if trial.hopeless(epoch / 5, final * (2 - epoch / 5), 10.0 * (1 + fold)):
                return study.end(trial, "hopeless")
        trial.fold_is_done(final, 10.0 * (1 + fold), fold == 0, 1.0)
    return study.end(trial)


@pytest.mark.slow
def test_it_finds_what_matters_and_gives_up_what_falls_behind(tmp_path: Path) -> None:
    with Study(tmp_path / "study.db", SPACE, seed=0) as study:
        for _ in range(20):
            work(study, study.next(), folds=1)
        tried, importances = study.tried(), study.importances()
    assert [item.number for item in tried] == list(range(20))
    assert tried[0].values == {}
    assert tried[0].value == pytest.approx(error({}))
    states = {item.state for item in tried}
    assert states == {"done", "pruned"}
    assert all(item.done for item in tried[:COMPLETE_FIRST])
    done = [item.value for item in tried if item.value is not None]
    assert min(done) < 0.3
    assert min(done) < min(done[:6])  # it learnt from the first ones
    assert max(importances, key=lambda path: importances[path]) == "rate"
    assert sum(importances.values()) == pytest.approx(1.0)
    for item in tried[1:]:
        assert 1e-5 <= item.values["rate"] <= 1e-1
        assert item.values["epochs"] == int(item.values["epochs"])
        assert item.values["kind"] in ("full", None, ["a", 1])
        assert 1.0 <= item.values["outside"] <= 2.0


def test_one_that_was_killed_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    with Study(tmp_path / "whole.db", SPACE, seed=3) as study:
        for _ in range(4):
            work(study, study.next())
        whole = study.tried()
    path = tmp_path / "killed.db"
    while True:
        with Study(path, SPACE, seed=3) as study:
            begun = len(study.tried())
            if begun == 4:
                break
            trial = study.next()
            if not trial.folds and not trial.reported:
                work(study, trial, stop_at=4)  # left in progress
                continue
            assert trial.number == begun
            work(study, trial)
    with Study(path, SPACE, seed=3) as study:
        assert study.tried() == whole


def test_trials_that_failed_are_kept_and_never_the_best(tmp_path: Path) -> None:
    with Study(tmp_path / "study.db", SPACE, seed=0) as study:
        work(study, study.next(), folds=1)
        trial = study.next()
        trial.fold_is_done(0.0, 10.0, False, 1.0)  # better than any other, before it failed
        failed = study.end(trial, "training keeps diverging", failed=True)
        assert failed.state == "failed"
        assert failed.fault == "training keeps diverging"
        assert not failed.done
        work(study, study.next(), folds=1)
        assert [item.state for item in study.tried()] == ["done", "failed", "done"]
        assert best_of(study.tried()).done


@pytest.mark.slow
def test_settings_count_whose_range_does_not_hold_the_untouched_value(tmp_path: Path) -> None:
    space = {
        "rate": Dimension("rate", Range(low=1e-5, high=1e-1, log=True), 0.05),
        "epochs": Dimension("epochs", Range(low=90, high=110), 40, whole=True),
    }
    with Study(tmp_path / "study.db", space, seed=0) as study:
        for _ in range(12):
            work(study, study.next(), folds=1)
        importances = study.importances()
    assert importances.keys() == {"rate", "epochs"}
    assert importances["rate"] > importances["epochs"]


def test_what_cannot_be_written_is_told(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    with (
        pytest.raises(RunFolderError, match=r"study.db' cannot be read or written \(no such table"),
        Study(path, SPACE, seed=0) as study,
    ):
        trial = study.next()
        with sqlite3.connect(path) as other:
            other.execute("DROP TABLE trial_user_attributes")
        trial.spend(1.0)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(RunFolderError, match="study.db' is damaged or of another program"):
        Study(path, SPACE, seed=0)
    whole = tmp_path / "whole.db"
    with Study(whole, SPACE, seed=0) as study:
        work(study, study.next(), folds=1)
    content = whole.read_bytes()
    path.write_bytes(content[: len(content) // 3])
    with pytest.raises(RunFolderError, match=r"study.db' is damaged.*--overwrite"):
        Study(path, SPACE, seed=0)
