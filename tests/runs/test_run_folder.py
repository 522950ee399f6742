"""Folders of runs: never two runs in one, nothing lost, links followed."""

import os
from pathlib import Path
from typing import Any

import pytest

from finetune.core import files, run_files
from finetune.core.errors import RunFolderError
from finetune.core.files import write_json
from finetune.evaluation import dynamics, evaluation, scans
from finetune.runs import run_folder

FACTS: dict[str, Any] = {"seed": 0}


def finish(folder: Path, seed: int) -> None:
    """Do what a run does to its folder, from the first mark to the result."""
    folder = files.place(str(folder))
    with run_folder.opened(folder, f"seed: {seed}\n", FACTS, resuming=False):
        write_json(folder / run_files.RESULT, {"seed": seed})


def test_another_run_keeps_out(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with (
        run_folder.opened(folder, "a: 1\n", FACTS, resuming=False),
        pytest.raises(RunFolderError, match="another run is at work"),
        run_folder.opened(folder, "a: 2\n", FACTS, resuming=True),
    ):
        pass
    with (
        run_folder.opened(folder, "a: 1\n", FACTS, resuming=False),
        pytest.raises(RunFolderError, match="another run is at work"),
    ):
        run_folder.check_output(folder, overwrite=False)
    assert sorted(os.listdir(tmp_path)) == ["run"]


def test_a_link_is_no_way_around_the_lock(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "run")
    with (
        files.alone(tmp_path / "run"),
        pytest.raises(RunFolderError, match="another run is at work"),
        files.alone(tmp_path / "link"),
    ):
        pass


def test_a_lock_that_a_kill_left_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / ".run.lock").touch()
    finish(tmp_path / "run", 1)
    assert sorted(os.listdir(tmp_path)) == ["run"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for seed in range(3):
        finish(tmp_path / "link", seed)
        assert f'"seed": {seed}' in (tmp_path / "real" / run_files.RESULT).read_text()
    assert sorted(os.listdir(tmp_path)) == ["link", "real"]
    assert (tmp_path / "link").is_symlink()


def test_an_earlier_run_survives_one_that_cannot_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(tmp_path / "run", 1)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("finetune.core.files.write_atomically", full)
    with pytest.raises(RunFolderError, match="No space left"):
        finish(tmp_path / "run", 2)
    monkeypatch.undo()
    assert '"seed": 1' in (tmp_path / "run" / run_files.RESULT).read_text()
    assert sorted(os.listdir(tmp_path)) == ["run"]


@pytest.mark.parametrize(
    "name",
    [
        *("notes.txt", "scans/my_notes.txt", "stages/thesis.txt", "stages/pbe0/thesis.txt"),
        *("evaluation/mine.csv", "stability/mine/a.traj", "tensorboard/a.txt", "wandb/a.txt"),
        *("result.json.previous", "model/mine/weights.pt", "stages/pbe0/scans/my_notes.txt"),
    ],
)
def test_a_file_that_no_run_wrote_is_never_lost(name: str, tmp_path: Path) -> None:
    finish(tmp_path / "run", 1)
    mine = tmp_path / "run" / name
    mine.parent.mkdir(parents=True, exist_ok=True)
    mine.write_text("mine")
    with pytest.raises(RunFolderError, match=f"contains files \\('.*{mine.name}|model/mine'\\)"):
        run_folder.check_output(tmp_path / "run", overwrite=True)


def test_all_that_runs_and_tests_write_is_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    finish(folder, 1)
    trajectory = "stability/fine-tuned/nvt-300K-structure0-replica1"
    for name in (
        *("checkpoints/step-1/state.json", "model/config.json", ".stability.lock"),
        *(f"evaluation/{item}" for item in (evaluation.JSON, evaluation.STRUCTURES)),
        *(f"evaluation/{item}" for item in (evaluation.STATISTICS, evaluation.PARITY)),
        *(f"scans/{kind}.png" for kind in scans.TITLES),
        *(f"scans/{scans.RESULT}", f"stability/{dynamics.RESULT}", f"{trajectory}.state.npz"),
        *(f"{trajectory}.traj", f"{trajectory}.json", ".metrics.jsonl.ab_cdefg"),
        *("tensorboard/events.out.tfevents.17.host.1.0", "wandb/wandb/run-1/files/any.thing"),
        *("stages/pbe0/result.json", "stages/pbe0/scans/dimer.png", "stages/.pbe0.lock"),
        "stages/.pbe0.earlier/model/model.safetensors",
    ):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert not run_folder.check_output(folder, overwrite=True)


def test_the_root_of_all_files_is_refused_without_a_walk_through_it() -> None:
    for resume in ("no", "auto"):
        with pytest.raises(
            RunFolderError, match="'/' contains files \\('[^/]+'\\) that no run writes"
        ):
            run_folder.check_output(Path("/"), overwrite=False, resume=resume)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["run", "deep/down/run"])
def test_a_place_where_nothing_can_be_made_is_refused_beforehand(name: str) -> None:
    with pytest.raises(RunFolderError, match="cannot be written: nothing can be made in '/proc'"):
        run_folder.check_output(Path("/proc") / name, overwrite=False)


def test_asking_whether_a_place_can_be_written_leaves_no_trace(tmp_path: Path) -> None:
    before = tmp_path.stat().st_mtime_ns
    assert not run_folder.check_output(tmp_path / "deep" / "run", overwrite=False)
    assert list(tmp_path.iterdir()) == []
    assert tmp_path.stat().st_mtime_ns == before


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
def test_a_place_where_no_file_can_be_made_is_not_called_busy() -> None:
    with (
        pytest.raises(RunFolderError, match="cannot be written"),
        files.alone(Path("/proc/none")),
    ):
        pass
