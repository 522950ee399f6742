"""Two processes that train together give what one gives with batches twice as large."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import ase.io
import psutil
import pytest

import finetune
from finetune.core.errors import RunFolderError
from tests.conftest import recipe_for
from tests.training.test_optimisation import largest_difference, read_metrics
from tests.training.test_resume import outcome

ROOT = str(Path(finetune.__file__).resolve().parents[1])
BIN = Path(sys.executable).parent
TORCHRUN = [str(BIN / "torchrun"), "--standalone", "--nproc-per-node", "2"]
ACCELERATE = [
    *(str(BIN / "accelerate"), "launch", "--multi_gpu", "--num_processes", "2"),
    *("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"),
]
COMMAND = [str(BIN / "piwsl-finetune"), "run"]
SAME = 1e-8
"""Largest difference of weights in float64, from sums in another order."""


@pytest.fixture
def data(workspace: Path, tmp_path: Path) -> dict[str, str]:
    """Seven structures, so that the last batch is uneven; forces on one, so on one rank at most."""
    frames = ase.io.read(workspace / "test.xyz", ":1") + ase.io.read(workspace / "train.xyz", ":6")
    ase.io.write(tmp_path / "uneven.xyz", frames)
    return {
        "train": str(tmp_path / "uneven.xyz"),
        "valid": str(workspace / "valid.xyz"),
        "unlabelled": str(workspace / "test.xyz"),
    }


def mapping(workspace: Path, output: Path, data: dict[str, str], **train: Any) -> dict[str, Any]:
    settings = {"epochs": 3, "learning_rate": 0.02, "ema": 0.5, "monitor": "energy_mae"}
    recipe = recipe_for(
        workspace,
        output,
        data=data,
        losses={
            "energy": {},
            "forces": {},
            "pitc": {"weight": 0.1, "displacement": 0.05},
            "replay": {"weight": 0.1, "energy": 2.0},
        },
        train={**settings, "device": "cpu", **train},
    )
    return recipe.model_dump(mode="json")


def start(
    folder: Path, recipe: dict[str, Any], *options: str, launcher: list[str] = TORCHRUN
) -> subprocess.Popen[str]:
    path = folder / "two.yaml"
    path.write_text(json.dumps(recipe))
    return subprocess.Popen(
        [*launcher, *COMMAND, str(path), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": ROOT, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def launch(*arguments: Any, **options: Any) -> tuple[int, str, str]:
    process = start(*arguments, **options)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def wait_for_epoch(folder: Path, epoch: int) -> None:
    path = folder / "metrics.jsonl"
    for _ in range(1200):
        if path.is_file() and len(path.read_text(encoding="utf-8").splitlines()) > epoch:
            return
        time.sleep(0.1)
    raise AssertionError("the run does not get on")


def assert_as_one(workspace: Path, tmp_path: Path, data: dict[str, str]) -> None:
    one = mapping(
        workspace, tmp_path / "one", data, batch_size=4, unlabelled_batch_size=2, epochs=3
    )
    assert finetune.run(one).best_epoch > 0
    assert largest_difference(tmp_path / "one", tmp_path / "two") < SAME
    records = [read_metrics(tmp_path / name) for name in ("one", "two")]
    assert len(records[0]) == len(records[1]) == 4
    for first, second in zip(records[0][1:], records[1][1:], strict=True):
        names = {name for name in first if name.startswith(("loss/", "residual/"))}
        assert {"loss/forces", "loss/pitc", "residual/replay/energy"} <= names
        for name in (*names, "gradient_norm", "train/loss"):
            assert first[name] == pytest.approx(second[name], rel=1e-6, abs=1e-12), name


@pytest.mark.slow
def test_two_ranks_are_one_with_the_doubled_batch(
    workspace: Path, tmp_path: Path, data: dict[str, str]
) -> None:
    """Every kind of loss, random displacements and an unlabelled pool included."""
    train = {"batch_size": 2, "unlabelled_batch_size": 1}
    code, out, err = launch(tmp_path, mapping(workspace, tmp_path / "two", data, **train))
    assert code == 0, err[-3000:]
    assert out.count("run folder") == out.count("┏") == 1  # the first process alone reports
    assert_as_one(workspace, tmp_path, data)
    names = {path.name for path in (tmp_path / "two").iterdir()}
    assert {"model", "adapter", "result.json", "report.html", "checkpoints"} <= names
    with pytest.raises(RunFolderError, match="started with 2 processes, not 1"):
        finetune.run(mapping(workspace, tmp_path / "two", data, **train), resume="auto")


@pytest.mark.slow
def test_two_ranks_train_a_head_for_forces(
    workspace: Path, tmp_path: Path, data: dict[str, str]
) -> None:
    """From energies alone: weak losses of a head, judged by its inconsistency."""
    head = {
        "adapter": {"kind": "force_head", "channels": 4, "train_all": True},
        "losses": {
            "energy": {},
            "pitc": {"weight": 0.1, "displacement": 0.05, "hold": "energies"},
            "gradient_match": {"displacement": 0.05},
        },
    }
    two, one = (
        mapping(workspace, tmp_path / name, data, monitor="inconsistency", **sizes) | head
        for name, sizes in (
            ("two", {"batch_size": 2, "unlabelled_batch_size": 1}),
            ("one", {"batch_size": 4, "unlabelled_batch_size": 2}),
        )
    )
    code, _, err = launch(tmp_path, two)
    assert code == 0, err[-3000:]
    assert finetune.run(one).best_epoch > 0
    assert largest_difference(tmp_path / "one", tmp_path / "two") < SAME
    first, second = (read_metrics(tmp_path / name)[-1] for name in ("one", "two"))
    for name in ("loss/gradient_match", "loss/pitc", "valid/inconsistency_mae"):
        assert first[name] == pytest.approx(second[name], rel=1e-6), name


@pytest.mark.slow
def test_accelerate_launches_it_too(workspace: Path, tmp_path: Path, data: dict[str, str]) -> None:
    train = {"batch_size": 2, "unlabelled_batch_size": 1}
    recipe = mapping(workspace, tmp_path / "two", data, **train)
    code, _, err = launch(tmp_path, recipe, launcher=ACCELERATE)
    assert code == 0, err[-3000:]
    assert_as_one(workspace, tmp_path, data)


@pytest.mark.slow
@pytest.mark.parametrize("stop", ["kill", "SIGTERM", "SIGINT"])
def test_two_ranks_go_on_bit_by_bit(
    stop: str, workspace: Path, tmp_path: Path, data: dict[str, str]
) -> None:
    train = {"batch_size": 2, "epochs": 40, "checkpoint_seconds": 0 if stop == "kill" else 1e6}
    whole, stopped = (mapping(workspace, tmp_path / name, data, **train) for name in ("a", "b"))
    assert launch(tmp_path, whole)[0] == 0
    process = start(tmp_path, stopped)
    wait_for_epoch(tmp_path / "b", 3)
    if stop == "kill":
        for item in (*psutil.Process(process.pid).children(recursive=True), process):
            item.kill()
    elif stop == "SIGTERM":
        process.send_signal(signal.SIGTERM)
    else:
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does on Ctrl-C
    _, err = process.communicate(timeout=120)
    assert process.returncode != 0
    assert not (tmp_path / "b" / "result.json").exists()
    if stop != "kill":
        assert err.count(f"stopped: {stop} after step") == 1
        assert "--resume auto  (launched as before)" in err
    code, out, err = launch(tmp_path, stopped, "--resume", "auto")
    assert code == 0, err[-3000:]
    assert "resumed after step" in out
    assert outcome(tmp_path / "b") == outcome(tmp_path / "a")


@pytest.mark.slow
def test_a_rank_that_crashes_stops_all_with_its_reason(
    workspace: Path, tmp_path: Path, data: dict[str, str]
) -> None:
    recipe = tmp_path / "crash.yaml"
    recipe.write_text(json.dumps(mapping(workspace, tmp_path / "two", data, batch_size=2)))
    script = str(Path(__file__).with_name("crashing_rank.py"))
    done = subprocess.run(
        [*TORCHRUN, script, str(recipe), "1"],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": ROOT, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode != 0
    assert "this rank has had enough" in done.stderr
    assert not (tmp_path / "two" / "result.json").exists()
