"""A run that is killed, told to stop, or robbed of its disk ends as if nothing had happened."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import finetune
from finetune import FinetuneError, Recipe
from finetune.commands import app
from finetune.core import files
from finetune.core.errors import RunFolderError, RunStoppedError, TrainingError
from finetune.training import checkpoints
from finetune.training.loop import Trainer
from finetune.training.records import Silent
from tests.conftest import recipe_for

ROOT = str(Path(finetune.__file__).resolve().parents[1])
CLOCK = {"seconds", "steps_per_second", "memory_mib"}
"""What a metrics record says of the clock and the machine."""


def outcome(folder: Path) -> tuple[bytes, bytes, list[dict[str, Any]]]:
    """Return what must be the same to the last bit: tuned model, last state, metrics."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    records = [
        {name: value for name, value in json.loads(line).items() if name not in CLOCK}
        for line in lines
    ]
    model = (folder / "model" / "model.safetensors").read_bytes()
    (last,) = folder.glob("checkpoints/*/state.safetensors")
    return model, last.read_bytes(), records


def train(**changes: Any) -> dict[str, Any]:
    return {"epochs": 4, "learning_rate": 0.02, "ema": 0.5, "checkpoint_seconds": 0, **changes}


def recipe_in(workspace: Path, output: Path, **changes: Any) -> Recipe:
    return recipe_for(
        workspace,
        output,
        data={
            **{name: str(workspace / f"{name}.xyz") for name in ("train", "valid", "test")},
            "unlabelled": str(workspace / "test.xyz"),
        },
        losses={"energy": {}, "pitc": {"weight": 0.1}},
        **{"train": train(), **changes},
    )


@pytest.fixture(scope="module")
def undisturbed(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    result = finetune.run(recipe_in(workspace, folder))
    assert result.best_epoch > 0  # so that the tuned model is not the foundation
    return outcome(folder)


class StopAt(Silent):
    """Sends a signal to this process when an epoch is shown."""

    def __init__(self, epoch: int, number: signal.Signals) -> None:
        self.at, self.number = epoch, number
        self.said: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)

    def epoch(self, record: dict[str, Any]) -> None:
        if record["epoch"] == self.at:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_a_signal_saves_and_the_run_goes_on_bit_by_bit(
    number: signal.Signals, workspace: Path, tmp_path: Path, undisturbed: Any
) -> None:
    recipe = recipe_in(workspace, tmp_path / "run", train=train(checkpoint_seconds=1e6))
    with pytest.raises(RunStoppedError, match=f"{number.name} after step 6.*resume='auto'") as stop:
        finetune.run(recipe, reporter=StopAt(2, number))
    assert stop.value.exit_code == 128 + number
    with pytest.raises(FinetuneError, match="unfinished run. Continue with --resume auto"):
        finetune.run(recipe)
    listener = StopAt(-1, number)
    result = finetune.run(recipe, resume="must", reporter=listener)
    assert any("resumed after step 6" in line for line in listener.said)
    assert result.ending == "finished"
    assert outcome(tmp_path / "run") == undisturbed


def test_a_stop_within_an_epoch_keeps_its_place(
    workspace: Path, tmp_path: Path, undisturbed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, taken = Trainer._step, []

    def counted(self: Trainer, pieces: Any) -> None:
        step(self, pieces)
        taken.append(1)
        if len(taken) == 8:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Trainer, "_step", counted)
    recipe = recipe_in(workspace, tmp_path / "run", train=train(checkpoint_seconds=1e6))
    with pytest.raises(RunStoppedError, match="after step 8"):
        finetune.run(recipe)
    finetune.run(recipe, resume="auto")
    assert len(taken) == 12
    assert outcome(tmp_path / "run") == undisturbed


def assert_kills_change_nothing(
    workspace: Path, folder: Path, kills: int, epochs: int, seed: int
) -> None:
    recipe = recipe_in(workspace, folder / "killed", train=train(epochs=epochs))
    path = folder / "recipe.yaml"
    path.write_text(recipe.dump())
    harness = Path(__file__).with_name("killing.py")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(harness), str(path), str(kills), str(seed)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ROOT},
    )
    found = json.loads(done.stdout.splitlines()[-1])
    print(f"killed {found}")
    assert found["code"] == 0, done.stderr
    assert found["random"] + found["writing"] >= kills - 2, found
    finetune.run(recipe_in(workspace, folder / "whole", train=train(epochs=epochs)))
    assert outcome(folder / "killed") == outcome(folder / "whole")
    assert [path.name for path in folder.glob(".*")] == []


def test_kills_change_nothing(workspace: Path, tmp_path: Path) -> None:
    assert_kills_change_nothing(workspace, tmp_path, kills=3, epochs=6, seed=0)


@pytest.mark.slow
def test_twenty_kills_change_nothing(workspace: Path, tmp_path: Path) -> None:
    assert_kills_change_nothing(workspace, tmp_path, kills=20, epochs=60, seed=1)


@pytest.mark.slow
def test_a_kill_in_any_write_changes_nothing(workspace: Path, tmp_path: Path) -> None:
    """From the first file of a run to the last of its report."""
    recipe = recipe_in(workspace, tmp_path / "run", train=train(epochs=1, checkpoint_seconds=1e6))
    (tmp_path / "recipe.yaml").write_text(recipe.dump())
    (tmp_path / "ended").mkdir()
    harness = Path(__file__).with_name("killing.py")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(harness), "recipe.yaml", "ended"],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ROOT},
    )
    codes = json.loads(done.stdout.splitlines()[-1])
    print(f"killed in {len(codes)} writes")
    assert len(codes) > 12
    assert set(codes) == {0}, done.stderr
    names = sorted(path.name for path in (tmp_path / "run").iterdir())
    for folder in (tmp_path / "ended").iterdir():
        assert outcome(folder) == outcome(tmp_path / "run"), folder.name
        assert sorted(path.name for path in folder.iterdir()) == names, folder.name


def test_what_a_kill_left_half_written_is_swept_up(workspace: Path, tmp_path: Path) -> None:
    recipe = recipe_in(workspace, tmp_path / "run", train=train(epochs=1))
    finetune.run(recipe)
    names = sorted((tmp_path / "run").rglob("*"))
    for left in (".result.json.x1_x1_x1", "model/.model.safetensors.x1_x1_x1"):
        (tmp_path / "run" / left).write_text("{")
    (tmp_path / "run" / "result.json").unlink()
    finetune.run(recipe, resume="auto")
    assert sorted((tmp_path / "run").rglob("*")) == names


@pytest.fixture
def stopped(workspace: Path, tmp_path: Path) -> Recipe:
    recipe = recipe_in(workspace, tmp_path / "run")
    with pytest.raises(RunStoppedError):
        finetune.run(recipe, reporter=StopAt(3, signal.SIGTERM))
    return recipe


@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
@pytest.mark.parametrize("name", ["state.safetensors", "state.json", "manifest.json"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    name: str, damage: str, tmp_path: Path
) -> None:
    for step in range(2):
        checkpoints.write(tmp_path, step, {"x": torch.full((9,), float(step))}, {"step": step})
    path = tmp_path / "step-00000001" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "flip":
        path.write_bytes(content)
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.unlink()
    found = checkpoints.read(tmp_path)
    assert found is not None
    assert found.state == {"step": 0}
    assert torch.equal(found.tensors["x"], torch.zeros(9))
    assert len(found.faults) == 1
    assert "step-00000001' is damaged" in found.faults[0]


@pytest.mark.parametrize(
    "name",
    [
        "state.safetensors",
        pytest.param("state.json", marks=pytest.mark.slow),
        pytest.param("manifest.json", marks=pytest.mark.slow),
    ],
)
def test_a_run_goes_on_from_the_one_before_and_says_so(
    name: str, stopped: Recipe, undisturbed: Any
) -> None:
    folder = Path(stopped.output)
    generations = sorted((folder / "checkpoints").iterdir())
    assert [path.name for path in generations] == ["step-00000008", "step-00000009"]
    file = generations[-1] / name
    file.write_bytes(file.read_bytes()[:-1])
    listener = StopAt(-1, signal.SIGTERM)
    finetune.run(stopped, resume="auto", reporter=listener)
    said = " ".join(listener.said)
    assert "step-00000009' is damaged" in said
    assert "resumed after step 8" in said
    assert outcome(folder) == undisturbed


def test_damage_to_all_checkpoints_is_an_error(stopped: Recipe) -> None:
    for path in Path(stopped.output).glob("checkpoints/*/state.json"):
        path.write_text("{}")
    with pytest.raises(RunFolderError, match="step-00000009.*step-00000008.*--overwrite"):
        finetune.run(stopped, resume="auto")
    assert (Path(stopped.output) / "metrics.jsonl").is_file()


def test_auto_starts_where_there_is_nothing_and_repeats_what_is_finished(
    workspace: Path, tmp_path: Path
) -> None:
    recipe = recipe_in(workspace, tmp_path / "run", train=train(epochs=2))
    with pytest.raises(RunFolderError, match="no run with a checkpoint"):
        finetune.run(recipe, resume="must")
    assert list(tmp_path.iterdir()) == []
    first = finetune.run(recipe, resume="auto")
    before = outcome(tmp_path / "run")
    again = finetune.run(recipe, resume="auto")
    assert outcome(tmp_path / "run") == before
    assert again.as_dict()["test"] == first.as_dict()["test"]


def test_another_recipe_or_other_data_are_not_resumed(
    workspace: Path, tmp_path: Path, stopped: Recipe
) -> None:
    changed = stopped.model_dump(mode="json")
    changed["train"]["learning_rate"] = 0.03
    with pytest.raises(RunFolderError, match="another recipe: train.learning_rate differs"):
        finetune.run(changed, resume="auto")
    with pytest.raises(RunFolderError, match="either resume or overwrite"):
        finetune.run(stopped, resume="auto", overwrite=True)
    environment = tmp_path / "run" / "environment.json"
    stored = json.loads(environment.read_text())
    stored["data"]["fingerprint"] = "0" * 64
    environment.write_text(json.dumps(stored))
    with pytest.raises(RunFolderError, match="the data have changed"):
        finetune.run(stopped, resume="auto")


def full_disk(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    write, count = files._write, [0]

    def limited(descriptor: int, content: bytes) -> None:
        count[0] += 1
        if count[0] > after:
            os.write(descriptor, content[: len(content) // 2])
            os.close(descriptor)
            raise OSError(errno.ENOSPC, "No space left on device")
        write(descriptor, content)

    monkeypatch.setattr(files, "_write", limited)


@pytest.mark.parametrize("writes", [10, pytest.param(12, marks=pytest.mark.slow)])
def test_a_full_disk_leaves_the_last_whole_checkpoint(
    writes: int, workspace: Path, tmp_path: Path, undisturbed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_in(workspace, tmp_path / "run")
    with monkeypatch.context() as patch:
        full_disk(patch, writes)
        with pytest.raises(RunStoppedError, match="No space left.*checkpoint of step .* is intact"):
            finetune.run(recipe)
    names = [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()]
    assert names
    assert all(name.startswith("step-") for name in names)
    finetune.run(recipe, resume="must")
    assert outcome(tmp_path / "run") == undisturbed


@pytest.mark.parametrize("writes", [0, 1, 3])
def test_a_disk_that_is_full_from_the_start_leaves_nothing(
    writes: int, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full_disk(monkeypatch, writes)
    with pytest.raises(RunFolderError, match="cannot be written.*No space left"):
        finetune.run(recipe_in(workspace, tmp_path / "run"))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_may_not_be_written_is_named(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mkdir = Path.mkdir

    def denied(self: Path, *args: Any, **options: Any) -> None:
        if self.is_relative_to(tmp_path / "locked"):
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        mkdir(self, *args, **options)

    monkeypatch.setattr(Path, "mkdir", denied)
    with pytest.raises(RunFolderError, match="locked/run' cannot be written.*Permission denied"):
        finetune.run(recipe_in(workspace, tmp_path / "locked" / "run"))


@pytest.mark.slow
def test_the_earlier_run_waits_until_its_successor_is_done(workspace: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    finetune.run(recipe_in(workspace, folder, train=train(epochs=1)))
    earlier = outcome(folder)
    recipe = recipe_in(workspace, folder)
    with pytest.raises(RunStoppedError):
        finetune.run(recipe, overwrite=True, reporter=StopAt(1, signal.SIGTERM))
    assert outcome(tmp_path / ".run.earlier") == earlier
    with pytest.raises(RunStoppedError):  # a second replacement does not push the first run out
        finetune.run(recipe, overwrite=True, reporter=StopAt(2, signal.SIGTERM))
    assert outcome(tmp_path / ".run.earlier") == earlier
    finetune.run(recipe, resume="auto")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "left",
    [
        [".environment.json.x1_x1_x1"],
        pytest.param(["environment.json"], marks=pytest.mark.slow),
        pytest.param(["environment.json", ".recipe.yaml.x1_x1_x1"], marks=pytest.mark.slow),
        pytest.param(["environment.json", "recipe.yaml", "metrics.jsonl"], marks=pytest.mark.slow),
        ["environment.json", "recipe.yaml", "metrics.jsonl", "checkpoints/.step-0.x/state.json"],
    ],
    ids=["half an environment", "environment", "half a recipe", "metrics", "half a checkpoint"],
)
def test_a_kill_before_the_first_checkpoint_is_no_obstacle(
    left: list[str], workspace: Path, tmp_path: Path
) -> None:
    recipe = recipe_in(workspace, tmp_path / "run", train=train(epochs=1))
    for name in left:
        path = tmp_path / "run" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(recipe.dump() if name == "recipe.yaml" else "")
    assert finetune.run(recipe, resume="auto").epochs == 1
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("name", ["recipe.yaml", "model/config.json"])
def test_a_folder_of_ones_own_is_not_taken_for_a_killed_run(
    name: str, workspace: Path, tmp_path: Path
) -> None:
    path = tmp_path / "run" / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    for options in ({"resume": "auto"}, {"overwrite": True}):
        with pytest.raises(RunFolderError, match="contains files .* that no run writes"):
            finetune.run(recipe_in(workspace, tmp_path / "run"), **options)
    assert path.read_text() == "mine"


@pytest.mark.slow
def test_a_run_that_was_set_aside_is_not_forgotten(workspace: Path, tmp_path: Path) -> None:
    recipe = recipe_in(workspace, tmp_path / "run", train=train(epochs=1))
    finetune.run(recipe)
    (tmp_path / "run").rename(tmp_path / ".run.earlier")  # a kill just then
    with pytest.raises(RunFolderError, match="set aside. Rename it to 'run'"):
        finetune.run(recipe)
    finetune.run(recipe, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_resumed_replacement_that_fails_puts_the_earlier_run_back(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    finetune.run(recipe_in(workspace, folder, train=train(epochs=1)))
    earlier = outcome(folder)
    recipe = recipe_in(workspace, folder)
    with pytest.raises(RunStoppedError):
        finetune.run(recipe, overwrite=True, reporter=StopAt(1, signal.SIGTERM))

    def fail(self: Trainer, pieces: Any) -> None:
        raise TrainingError("diverged")

    monkeypatch.setattr(Trainer, "_step", fail)
    with pytest.raises(TrainingError, match="diverged"):
        finetune.run(recipe, resume="auto")
    assert outcome(folder) == earlier
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.slow
def test_the_command_names_the_command_that_resumes(workspace: Path, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe_in(workspace, tmp_path / "run").dump())
    code = (
        "import os, signal, sys\n"
        "from finetune.training.records import Plain\n"
        "epoch = Plain.epoch\n"
        "def stop(self, record):\n"
        "    epoch(self, record)\n"
        "    record['epoch'] == 1 and os.kill(os.getpid(), signal.SIGTERM)\n"
        "Plain.epoch = stop\n"
        "from finetune.commands import app\n"
        f"app(['run', {str(path)!r}, 'train.seed=3'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": ROOT},
    )
    assert done.returncode == 143, done.stderr
    assert "stopped: SIGTERM after step 3" in done.stderr
    command = f"piwsl-finetune run {path} train.seed=3 --resume auto"
    assert command in done.stderr
    assert "Traceback" not in done.stderr
    again = CliRunner().invoke(app, command.split()[1:])
    assert again.exit_code == 0, again.output
    assert "resumed after step 3, epoch 2" in again.output
    assert "finished after 4 epochs" in again.output


def test_two_generations_are_kept_and_leftovers_go(tmp_path: Path) -> None:
    (tmp_path / ".step-00000001.abc").mkdir()
    for step in range(4):
        checkpoints.write(tmp_path, step, {"x": torch.full((2,), float(step))}, {"step": step})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002", "step-00000003"]
    found = checkpoints.read(tmp_path)
    assert found is not None
    assert found.state == {"step": 3}
    checkpoints.write(tmp_path, 2, {"x": torch.zeros(2)}, {"step": 2})  # after falling back
    found = checkpoints.read(tmp_path)
    assert found is not None
    assert found.state == {"step": 2}
