"""Two processes that train together give what one gives with batches twice as large."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import ase.io
import pytest

import finetune
from tests.conftest import recipe_for
from tests.training.test_optimisation import largest_difference

ROOT = str(Path(finetune.__file__).resolve().parents[1])
SAME = 1e-8
"""Largest difference of weights in float64, from sums in another order."""


@pytest.fixture
def data(workspace: Path, tmp_path: Path) -> dict[str, str]:
    """Seven structures, so that the last batch is uneven; forces on one, so on one rank at most."""
    frames = ase.io.read(workspace / "test.xyz", ":1") + ase.io.read(workspace / "train.xyz", ":6")
    ase.io.write(tmp_path / "uneven.xyz", frames)
    return {"train": str(tmp_path / "uneven.xyz"), "valid": str(workspace / "valid.xyz")}


def mapping(workspace: Path, output: Path, data: dict[str, str], **train: Any) -> dict[str, Any]:
    settings = {"epochs": 3, "learning_rate": 0.02, "ema": 0.5, "monitor": "energy_mae"}
    recipe = recipe_for(
        workspace,
        output,
        data=data,
        losses={"energy": {}, "forces": {}, "pitc": {"weight": 0.1, "displacement": 0.05}},
        train={**settings, "device": "cpu", **train},
    )
    return recipe.model_dump(mode="json")


def launch(folder: Path, recipe: dict[str, Any], *arguments: str) -> subprocess.CompletedProcess:
    path = folder / "two.yaml"
    path.write_text(json.dumps(recipe))
    script = Path(__file__).with_name("two_ranks.py")
    torchrun = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run"]
    return subprocess.run(
        [*torchrun, "--standalone", "--nproc-per-node", "2", str(script), str(path), *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": ROOT, "OMP_NUM_THREADS": "1"},
    )


def test_two_ranks_are_one_with_the_doubled_batch(
    workspace: Path, tmp_path: Path, data: dict[str, str]
) -> None:
    done = launch(tmp_path, mapping(workspace, tmp_path / "two", data, batch_size=2))
    assert done.returncode == 0, done.stderr[-3000:]
    one = mapping(workspace, tmp_path / "one", data, batch_size=2, accumulate=2)
    result = finetune.run(one)
    assert result.best_epoch > 0
    assert largest_difference(tmp_path / "one", tmp_path / "two") < SAME
    records = [
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    ]
    assert len(records[0]) == len(records[1]) == 4
    for first, second in zip(records[0][1:], records[1][1:], strict=True):
        for name in ("loss/energy", "loss/forces", "loss/pitc", "gradient_norm"):
            assert first[name] == pytest.approx(second[name], rel=1e-7), name
    names = {path.name for path in (tmp_path / "two").iterdir()}
    assert {"model", "adapter", "result.json", "report.html", "checkpoints"} <= names


@pytest.mark.slow
def test_two_ranks_are_one_with_the_doubled_batch_size(
    workspace: Path, tmp_path: Path, data: dict[str, str]
) -> None:
    """The same against one batch of twice the size, for losses without random displacements."""
    losses = {"energy": {"weight": 1.0}, "forces": {"weight": 1.0}}
    two = {**mapping(workspace, tmp_path / "two", data, batch_size=2), "losses": losses}
    done = launch(tmp_path, two)
    assert done.returncode == 0, done.stderr[-3000:]
    one = {**mapping(workspace, tmp_path / "one", data, batch_size=4), "losses": losses}
    finetune.run(one)
    assert largest_difference(tmp_path / "one", tmp_path / "two") < SAME


def test_a_rank_that_crashes_stops_all_with_its_reason(
    workspace: Path, tmp_path: Path, data: dict[str, str]
) -> None:
    done = launch(tmp_path, mapping(workspace, tmp_path / "two", data, batch_size=2), "1")
    assert done.returncode != 0
    assert "this rank has had enough" in done.stderr
    assert not (tmp_path / "two" / "result.json").exists()
