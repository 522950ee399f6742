"""A small comparison from tuning to table, in one process and in several, stopped and gone on."""

import csv
import io
import json
import math
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

import finetune
from finetune import ComparisonResult, FinetuneError, Recipe
from finetune.commands import app
from finetune.core.errors import RunFolderError
from finetune.studies import comparison
from tests.conftest import recipe_for

runner = CliRunner()
TRAIN = {"epochs": 1, "batch_size": 12, "learning_rate": 1e-3, "ema": None}


def recipe_of(workspace: Path, output: Path, **changes: Any) -> Recipe:
    settings: dict[str, Any] = {
        "losses": {"energy": {}},
        "train": TRAIN,
        "tune": {"space": {"train.learning_rate": [0.01]}, "folds": 0},
        **changes,
    }
    return recipe_for(workspace, output, **settings)


def errors_of(result: ComparisonResult, arm: str, seed: int) -> dict[str, Any]:
    """Return what a run wrote of its errors on the test set."""
    path = result.folder / "arms" / arm / f"seed-{seed}" / "result.json"
    found: dict[str, Any] = json.loads(path.read_text())["test"]["finetuned"]
    return found


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


class Killed(BaseException):
    """Ends a comparison where it stands."""


@pytest.fixture(scope="module")
def done(
    workspace: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[ComparisonResult, list[str]]:
    """Two numbers of labels, two seeds; killed when choices are fixed and a run is done."""
    recipe = recipe_of(workspace, tmp_path_factory.mktemp("compare") / "run")
    events: list[str] = []
    finished = 0

    def watched(function: Callable[..., str]) -> Callable[..., str]:
        def call(*arguments: Any) -> str:
            nonlocal finished
            if finished == 3:
                finished += 1
                raise Killed
            finished += 1
            events.append(function.__name__)
            return function(*arguments)

        return call

    patch = pytest.MonkeyPatch()
    patch.setattr(comparison, "tune_arm", watched(comparison.tune_arm))
    patch.setattr(comparison, "run_arm", watched(comparison.run_arm))
    arguments: dict[str, Any] = {"vary": {"labels": [4, "all"]}, "seeds": 2, "budget": 2}
    with pytest.raises(Killed):
        finetune.compare(recipe, **arguments)
    result = finetune.compare(recipe, **arguments)
    patch.undo()
    return result, events


def test_all_arms_are_tuned_before_any_is_tested_and_nothing_is_done_twice(
    done: tuple[ComparisonResult, list[str]],
) -> None:
    result, events = done
    assert events == ["tune_arm"] * 2 + ["run_arm"] * 4
    for arm in result.arms:
        choice = result.choices[arm.name]
        assert choice["trials"] == 2
        assert choice["tuned"] <= choice["untouched"]
        for seed in result.seeds:
            run = result.folder / "arms" / arm.folder / f"seed-{seed}"
            recipe = Recipe.load(run / "recipe.yaml")
            rate = choice["values"].get("train.learning_rate", 1e-3)
            assert (recipe.train.seed, recipe.train.learning_rate) == (seed, rate)
            content = json.loads((run / "result.json").read_text())
            tested = result.outcomes[arm.name][seed]["test"]
            assert content["test"]["finetuned"] == tested
            told = json.loads((run / "environment.json").read_text())["data"]["files"][0]
            assert told["structures"] == (4 if arm.labels else 12)
    stored = json.loads((result.folder / "choices.json").read_text())
    assert stored == result.choices


def test_tables_and_files_tell_errors_differences_and_time(
    done: tuple[ComparisonResult, list[str]],
) -> None:
    result, _ = done
    few, every = result.arms
    assert (few.name, every.name, every.baseline) == ("labels=4", "labels=all", "labels=4")
    (a, b), (c, d) = (
        [float(errors_of(result, arm.folder, seed)["energy_mae"]) for seed in result.seeds]
        for arm in (few, every)
    )
    cell, first = result.cells[every.name, "energy_mae"], result.cells[few.name, "energy_mae"]
    assert (first.mean, cell.mean) == pytest.approx(((a + b) / 2, (c + d) / 2))
    assert first.spread == pytest.approx(abs(a - b) / math.sqrt(2))
    assert cell.spread == pytest.approx(abs(c - d) / math.sqrt(2))
    assert first.difference is None
    # two pairs: Student's t with one degree of freedom is Cauchy's distribution
    mean, error = ((c - a) + (d - b)) / 2, abs((c - a) - (d - b)) / 2
    half = math.tan(math.pi * 0.475) * error
    p = 1 - 2 * math.atan(abs(mean) / error) / math.pi
    found = cell.difference
    assert found is not None
    assert (found.mean, found.low, found.high) == pytest.approx((mean, mean - half, mean + half))
    assert (found.p, found.p_holm) == pytest.approx((p, p))
    assert result.ratio(few) == 1.0
    assert len(result.tables()) == 2  # energies and forces are labelled in the test set
    for arm in (few, every):  # reference energies follow from the labels
        values = [
            json.loads((result.folder / "arms" / arm.folder / f"seed-{seed}.json").read_text())
            for seed in result.seeds
        ]
        expected = [item["foundation"]["energy_mae"] for item in values]
        assert list(result.foundation[arm.name, "energy_mae"].values.values()) == expected
    files = {path.name for path in result.folder.iterdir()}
    assert {"choices.json", "result.json", "table.csv", "runs.csv", "learning-curve.png"} <= files
    table = rows(result.folder / "table.csv")
    row = next(r for r in table if r["arm"] == every.name and r["measure"] == "energy_mae")
    expected = (cell.mean, cell.spread, mean, mean - half, mean + half, p, p)
    names = ("mean", "sd", "difference", "low", "high", "p", "p_holm")
    assert [float(row[name]) for name in names] == pytest.approx(expected)
    told = json.loads((result.folder / "result.json").read_text())["arms"][1]["test"]["energy_mae"]
    assert (told["mean"], told["spread"], told["difference"]["low"]) == pytest.approx(
        (cell.mean, cell.spread, mean - half)
    )
    console = Console(record=True, width=200, file=io.StringIO())
    console.print(result.tables()[0])
    text = console.export_text()
    assert f"{1000 * cell.mean:.2f} ± {1000 * cell.spread:.2f}" in text
    assert f"{1000 * mean:+.2f} [{1000 * (mean - half):+.2f}, {1000 * (mean + half):+.2f}]" in text
    assert len(rows(result.folder / "runs.csv")) == 4
    assert (result.folder / "learning-curve.png").read_bytes().startswith(b"\x89PNG")


def test_one_begun_otherwise_is_refused(
    done: tuple[ComparisonResult, list[str]], workspace: Path, tmp_path: Path
) -> None:
    recipe = recipe_of(workspace, tmp_path / "run")
    other: dict[str, Any] = {"vary": {"labels": [4, 6]}, "budget": 5, "to": done[0].folder}
    with pytest.raises(RunFolderError, match="has a comparison with other settings") as refused:
        finetune.compare(recipe, **other)
    assert "arm 2 (there labels=all, now labels=6)" in str(refused.value)
    assert "budget (there 2, now 5)" in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "arguments", "told"),
    [
        ({}, ["--vary", "labels=4,13"], "labels=13: the training set has 12 labelled structures"),
        ({"fraction": True}, ["--vary", "labels=2,4"], "a fraction of 0.2 of 2 structures leaves"),
        ({"data": None}, ["--vary", "labels=2,4"], "name them in data.test"),
        ({"gone": True}, ["--vary", "labels=2,4"], "no structure file"),
        ({}, ["--vary", "losses=none,pict"], "Did you mean 'pitc'"),
        ({}, ["--vary", "labels=2,4", "--budget", "much"], "neither a number of trials"),
        ({}, [], "at least two arms"),
    ],
)
def test_faults_are_told_before_anything_is_written(
    workspace: Path, tmp_path: Path, changes: dict[str, Any], arguments: list[str], told: str
) -> None:
    data = {split: str(workspace / f"{split}.xyz") for split in ("train", "valid")}
    if "gone" in changes:
        changes = {"data": {**data, "test": str(tmp_path / "gone.xyz")}}
    elif "fraction" in changes:
        changes = {"data": {"train": data["train"], "test": str(workspace / "test.xyz")}}
    elif "data" in changes:
        changes = {"data": data}
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe_of(workspace, tmp_path / "run", **changes).dump())
    refused = runner.invoke(app, ["compare", str(path), *arguments])
    assert refused.exit_code == 2, refused.output
    assert told in refused.stderr
    assert [item.name for item in tmp_path.iterdir()] == ["recipe.yaml"]


@pytest.mark.slow
def test_all_arms_are_checked_before_any_is_trained_and_faulty_ones_are_named(
    workspace: Path, tmp_path: Path
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe_of(workspace, tmp_path / "run").dump())
    shutil.copy(workspace / "train.xyz", tmp_path / "beside.xyz")
    lines = (workspace / "train.xyz").read_text().splitlines()
    (tmp_path / "cut.xyz").write_text("\n".join(lines[:-3]))
    before = sorted(tmp_path.iterdir())
    gone = "the arm {}=gone: no {} '"
    for vary, told, others in (
        ("data.train=beside.xyz,gone,cut.xyz", [gone.format("data.train", "structure file")], 1),
        ("data.valid=0.3,gone", [gone.format("data.valid", "structure file")], 0),
        ("foundation=tiny-xtb-hcno,gone", [gone.format("foundation", "foundation")], 0),
        ("data.keys.energy=REF_energy,nope", ["the arm data.keys.energy=nope: ", "'nope'"], 0),
        ("train.learning_rate_factors={readouts: 2},{reedouts: 2}", ["reedouts"], 0),
    ):
        refused = runner.invoke(app, ["compare", str(path), "--vary", vary, "--budget", "0"])
        assert refused.exit_code == 2, refused.output
        assert all(text in refused.stderr for text in told), refused.stderr
        assert refused.stderr.count("the arm ") == 1 + others
        assert ("the arm data.train=cut.xyz: " in refused.stderr) == bool(others)
    same = runner.invoke(app, ["compare", str(path), "--vary", "losses=none,pitc", "head=nope"])
    assert same.exit_code == 2
    assert "the arm" not in same.stderr
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param("choice.json", "[]", marks=pytest.mark.slow),
        pytest.param("choice.json", '{"values": 3}', marks=pytest.mark.slow),
        ("choice.json", "{"),
        ("seed-0.json", "7"),
        pytest.param(
            "seed-0.json", '{"test": 3, "seconds": 1, "best_epoch": 0}', marks=pytest.mark.slow
        ),
        ("seed-0.json", '{"test": {"energy_mae": "?"}, "seconds": 1, "best_epoch": 0}'),
        pytest.param(
            "seed-0.json", '{"test": {}, "seconds": 1, "best_epoch": 0}', marks=pytest.mark.slow
        ),
        ("seed-0.json", '{"test": {"energy_mae": NaN}, "seconds": 1, "best_epoch": 0}'),
        pytest.param("seed-0.json", '{"fault": {"a": 1}}', marks=pytest.mark.slow),
    ],
)
def test_damaged_files_of_an_arm_are_named(
    done: tuple[ComparisonResult, list[str]], workspace: Path, name: str, content: str
) -> None:
    result, _ = done
    path = result.folder / "arms" / result.arms[1].folder / name
    whole = path.read_bytes()
    path.write_text(content)
    recipe = recipe_of(workspace, result.folder.parent / "run")
    with pytest.raises(RunFolderError, match=rf"{name}' is damaged \((it|the|errors) [^<>]*Remove"):
        finetune.compare(recipe, vary={"labels": [4, "all"]}, seeds=2, budget=2)
    path.write_bytes(whole)


@pytest.mark.slow
def test_several_processes_find_what_one_does(workspace: Path, tmp_path: Path) -> None:
    space = {"train.learning_rate": [0.01, 1e12]}
    train = {**TRAIN, "epochs": 2, "rollbacks": 0}
    found = []
    for jobs in (1, 3):
        recipe = recipe_of(
            workspace, tmp_path / f"{jobs}", train=train, tune={"space": space, "folds": 0}
        )
        path = tmp_path / f"{jobs}.yaml"
        path.write_text(recipe.dump())
        arguments = ["compare", str(path), "--vary", "losses=none,pitc", "--seeds", "2"]
        done = runner.invoke(
            app,
            [*arguments, "--budget", "2", "--jobs", str(jobs), "--json"],
            catch_exceptions=False,
        )
        assert done.exit_code == 0, done.output
        found.append(json.loads(done.stdout))
    one, several = found
    for first, second in zip(one["arms"], several["arms"], strict=True):
        assert first["test"] == second["test"]
        assert first["choice"]["values"] == second["choice"]["values"]


@pytest.mark.slow
def test_a_run_that_diverges_is_an_outcome(workspace: Path, tmp_path: Path) -> None:
    train = {**TRAIN, "epochs": 2, "rollbacks": 0}
    tune = {"space": {"train.batch_size": [6]}, "folds": 0}
    recipe = recipe_of(workspace, tmp_path / "run", train=train, tune=tune)
    vary = {"train.learning_rate": [1e-3, 1e12]}
    result = finetune.compare(recipe, vary=vary, seeds=2, budget=1)
    assert "diverging" in result.choices[result.arms[1].name]["fault"]
    assert [result.failed(arm.name) for arm in result.arms] == [0, 2]
    assert "diverging" in result.outcomes[result.arms[1].name][0]["fault"]
    with pytest.raises(FinetuneError, match="seeds=0"):
        finetune.compare(recipe, vary=vary, seeds=0)


@pytest.mark.slow
def test_a_comparison_killed_with_its_processes_at_work_goes_on(
    workspace: Path, tmp_path: Path
) -> None:
    path, folder = tmp_path / "recipe.yaml", tmp_path / "run-comparison"
    train = {**TRAIN, "epochs": 30, "checkpoint_seconds": 0}
    path.write_text(recipe_of(workspace, tmp_path / "run", train=train).dump())
    arguments = ["compare", str(path), "--vary", "losses=none,pitc", "--seeds", "1"]
    command = [sys.executable, "-W", "ignore", "-m", "finetune", *arguments, "--budget", "1"]
    process = subprocess.Popen([*command, "--jobs", "2"], stdout=subprocess.DEVNULL)
    while not list(folder.glob("arms/*/tuning/trials/0000/fold-1/checkpoints/step-*")):
        assert process.poll() is None
        time.sleep(0.2)
    process.kill()
    process.wait()
    for _ in range(60):  # the orphans save and end
        again = subprocess.run(command, capture_output=True, text=True, check=False)
        if "another run is at work" not in again.stderr:
            break
        time.sleep(1)
    assert again.returncode == 0, again.stderr
    assert "p (Holm)" in again.stdout
    choices = json.loads((folder / "choices.json").read_text())
    assert [item["trials"] for item in choices.values()] == [1, 1]
