"""Training: determinism, the best weights kept, and clear ends."""

import json
import math
from pathlib import Path

import pytest
import torch

import finetune
from finetune.core.errors import FinetuneError, TrainingError
from finetune.export.calculator import load_calculator
from finetune.recipe.sections import TrainRecipe
from finetune.training.checkpoints import WeightAverage, read
from finetune.training.optimisers.optimiser import learning_rate
from finetune.training.records import Record, Silent
from tests.conftest import recipe_for


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_calculator(folder).potential.named_parameters())


def test_the_same_seed_gives_the_same_weights(workspace: Path, tmp_path: Path) -> None:
    train = {"epochs": 2, "learning_rate": 0.01}
    for name in ("first", "second"):
        finetune.run(recipe_for(workspace, tmp_path / name, train=train))
    first, second = weights(tmp_path / "first"), weights(tmp_path / "second")
    assert all(torch.equal(first[name], second[name]) for name in first)
    result = finetune.run(recipe_for(workspace, tmp_path / "third", train={**train, "seed": 1}))
    assert result.best_epoch > 0
    third = weights(tmp_path / "third")
    assert any(not torch.equal(first[name], third[name]) for name in first)


@pytest.mark.slow
def test_too_fast_a_run_returns_the_best_weights_not_the_last(
    workspace: Path, tmp_path: Path
) -> None:
    train = {"epochs": 6, "learning_rate": 0.5, "ema": None}
    result = finetune.run(recipe_for(workspace, tmp_path / "run", train=train))
    values = [record["valid/loss"] for record in result.history]
    assert result.best_epoch == values.index(min(values))
    assert values[-1] > min(values)
    assert result.valid.finetuned.energy_per_atom_rmse == pytest.approx(
        math.sqrt(min(values)), rel=1e-9
    )


def test_patience_ends_a_run(workspace: Path, tmp_path: Path) -> None:
    train = {"epochs": 50, "learning_rate": 0.5, "patience": 2, "ema": None}
    result = finetune.run(recipe_for(workspace, tmp_path / "run", train=train))
    assert result.ending == "patience"
    assert result.epochs == result.best_epoch + 2 < 50


def test_every_epoch_is_logged(workspace: Path, tmp_path: Path) -> None:
    result = finetune.run(recipe_for(workspace, tmp_path / "run", train={"epochs": 3}))
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == result.history
    assert [record["epoch"] for record in result.history] == [0, 1, 2, 3]
    assert {"loss/energy", "loss/pitc", "loss/pisc", "gradient_norm"} <= set(result.history[1])


def test_a_loss_that_is_not_finite_stops_with_a_diagnosis(workspace: Path, tmp_path: Path) -> None:
    recipe = recipe_for(
        workspace, tmp_path / "run", train={"epochs": 20, "learning_rate": 1e200, "ema": None}
    )
    with pytest.raises(TrainingError, match="Lower train.learning_rate"):
        finetune.run(recipe)
    kept = read(tmp_path / "run" / "checkpoints")
    assert kept is not None
    assert kept.state["best_epoch"] == 0
    assert all(bool(torch.isfinite(t).all()) for n, t in kept.tensors.items() if "best/" in n)
    assert "unfinished run" in str(pytest.raises(FinetuneError, finetune.run, recipe).value)


def test_unlabelled_structures_take_part_in_weak_losses(workspace: Path, tmp_path: Path) -> None:
    data = {name: str(workspace / f"{name}.xyz") for name in ("train", "valid")}
    results = [
        finetune.run(
            recipe_for(workspace, tmp_path / name, data={**data, **extra}, train={"epochs": 1})
        )
        for name, extra in (
            ("without", {}),
            ("with", {"unlabelled": str(workspace / "test.xyz")}),
        )
    ]
    assert results[0].history[1]["loss/pitc"] != results[1].history[1]["loss/pitc"]
    assert results[1].test is None


def test_the_progress_line_names_losses_and_errors(workspace: Path, tmp_path: Path) -> None:
    from finetune.training.records import summary

    class Listener(Silent):
        lines: list[str] = []

        def epoch(self, record: Record) -> None:
            self.lines.append(summary(record))

    finetune.run(recipe_for(workspace, tmp_path / "run", train={"epochs": 1}), reporter=Listener())
    last = Listener.lines[-1]
    assert all(part in last for part in ("energy ", "pitc ", "pisc ", "valid E ", "meV/atom"))


def test_learning_rate_schedules() -> None:
    constant = TrainRecipe(epochs=10, learning_rate=1.0, warmup_epochs=2)
    assert [learning_rate(constant, epoch) for epoch in (0, 1, 2, 9)] == [1e-3, 0.5, 1.0, 1.0]
    cosine = TrainRecipe(epochs=10, learning_rate=1.0, schedule="cosine")
    assert learning_rate(cosine, 0) == 1.0
    assert learning_rate(cosine, 5) == pytest.approx(0.505)
    assert learning_rate(cosine, 10) == pytest.approx(0.01)
    assert learning_rate(cosine, 5, length=5) == pytest.approx(0.01)
    plateau = TrainRecipe(learning_rate=1.0, schedule="plateau", plateau_epochs=2)
    values = [3.0, 2.0, 2.0, 2.5, 1.0, 1.0, 1.0, 1.0, 1.0]
    assert [learning_rate(plateau, 9, None, values[:n]) for n in (2, 3, 4, 7, 8, 9)] == [
        *(1.0, 1.0, 0.5, 0.25, 0.25, 0.125)
    ]


def test_the_average_is_applied_and_taken_back() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    average = WeightAverage([parameter], decay=0.5)
    with torch.no_grad():
        parameter.fill_(1.0)
    average.update()
    with average.applied():
        assert 0.0 < parameter.item() < 1.0
    assert parameter.item() == 1.0
