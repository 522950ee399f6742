"""Folders of runs: never two runs in one, nothing lost, links followed."""

import os
from pathlib import Path
from typing import Any

import pytest

from finetune import run_folder
from finetune.errors import RunFolderError

FACTS: dict[str, Any] = {"seed": 0}


def finish(folder: Path, seed: int) -> None:
    """Do what a run does to its folder, from the first mark to the result."""
    folder = run_folder.place(str(folder))
    with run_folder.opened(folder, f"seed: {seed}\n", FACTS, resuming=False):
        run_folder.write_json(folder / run_folder.RESULT, {"seed": seed})


def test_another_run_keeps_out(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with (
        run_folder.opened(folder, "a: 1\n", FACTS, resuming=False),
        pytest.raises(RunFolderError, match="another run is at work"),
        run_folder.opened(folder, "a: 2\n", FACTS, resuming=True),
    ):
        pass
    assert sorted(os.listdir(tmp_path)) == ["run"]


def test_a_lock_that_a_kill_left_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / ".run.lock").touch()
    finish(tmp_path / "run", 1)
    assert sorted(os.listdir(tmp_path)) == ["run"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for seed in range(3):
        finish(tmp_path / "link", seed)
        assert f'"seed": {seed}' in (tmp_path / "real" / run_folder.RESULT).read_text()
    assert sorted(os.listdir(tmp_path)) == ["link", "real"]
    assert (tmp_path / "link").is_symlink()


def test_an_earlier_run_survives_one_that_cannot_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(tmp_path / "run", 1)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_folder, "write_atomically", full)
    with pytest.raises(RunFolderError, match="No space left"):
        finish(tmp_path / "run", 2)
    monkeypatch.undo()
    assert '"seed": 1' in (tmp_path / "run" / run_folder.RESULT).read_text()
    assert sorted(os.listdir(tmp_path)) == ["run"]
