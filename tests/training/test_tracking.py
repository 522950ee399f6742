"""Records go to TensorBoard and Weights & Biases as they go to metrics.jsonl."""

import json
from pathlib import Path

import pytest

import finetune
from finetune.core.errors import RecipeError
from finetune.training import records
from tests.conftest import recipe_for


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_has_what_metrics_jsonl_has(workspace: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    recipe = recipe_for(
        workspace, tmp_path / "run", train={"epochs": 2}, track={"tensorboard": True}
    )
    result = finetune.run(recipe)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    for name in ("loss/energy", "valid/energy_per_atom_mae", "learning_rate", "steps_per_second"):
        found = {item.step: item.value for item in events.Scalars(name)}
        expected = {r["epoch"]: r[name] for r in result.history if name in r}
        assert found == pytest.approx(expected, rel=1e-6), name
    finetune.run(recipe, overwrite=True)  # the folder is still a run's and may be replaced


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_wandb_logs_offline(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    recipe = recipe_for(workspace, tmp_path / "run", train={"epochs": 2}, track={"wandb": "tests"})
    finetune.run(recipe)
    (log,) = (tmp_path / "run" / "wandb").rglob("*.wandb")
    content = log.read_bytes()
    assert b"valid/energy_per_atom_mae" in content
    assert b"tests" in content


def test_a_missing_package_is_named_before_anything_is_written(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "find_spec", lambda name: None)
    recipe = recipe_for(workspace, tmp_path / "run", track={"wandb": "project"})
    with pytest.raises(RecipeError, match=r"pip install 'piwsl-finetune\[track\]'"):
        finetune.run(recipe)
    assert list(tmp_path.iterdir()) == []


def test_records_are_numbers_with_names(workspace: Path, tmp_path: Path) -> None:
    finetune.run(recipe_for(workspace, tmp_path / "run", train={"epochs": 1}))
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    last = records.numbers(json.loads(lines[-1]))
    assert {"loss/pitc", "gradient_norm", "memory_mib", "steps_per_second", "seconds"} <= set(last)
    assert last["steps_per_second"] > 0
    assert (tmp_path / "run" / "learning-curve.png").read_bytes().startswith(b"\x89PNG")
