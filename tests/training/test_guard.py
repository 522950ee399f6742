"""No step ruins a model: what is not finite is skipped, what diverges goes back to the best."""

import json
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

import finetune
from finetune import Recipe
from finetune.core.errors import RunStoppedError, TrainingError
from finetune.data.graphs import GraphBatch
from finetune.losses.loss import BASE, Loss, LossContext, Request
from finetune.recipe.loss_options import LossOptions
from finetune.training.checkpoints import Guard
from tests.conftest import recipe_for
from tests.training.test_resume import StopAt, outcome


class PoisonOptions(LossOptions):
    structures: tuple[int, ...] = ()


@finetune.register_loss("poison")
class Poison(Loss):
    """NaN on batches with certain structures of the training file."""

    Options = PoisonOptions
    options: PoisonOptions

    def requests(self, batch: GraphBatch) -> Sequence[Request]:
        return [Request(BASE)]

    def __call__(self, context: LossContext) -> torch.Tensor:
        ill = any(
            name.endswith(f"structure {index}")
            for name in context.batch.where
            for index in self.options.structures
        )
        return context.prediction(BASE).energy.sum() * (torch.nan if ill else 0.0)


def poisoned(workspace: Path, output: Path, structures: Sequence[int], **train: object) -> Recipe:
    return recipe_for(
        workspace,
        output,
        losses={"energy": {}, "poison": {"structures": list(structures)}},
        train={"epochs": 4, "learning_rate": 0.01, "ema": None, **train},
    )


def test_a_step_that_is_not_finite_is_skipped_and_the_rest_goes_on(
    workspace: Path, tmp_path: Path
) -> None:
    result = finetune.run(poisoned(workspace, tmp_path / "run", [3]))
    last = result.history[-1]
    assert last["skipped_steps"] == 4  # one batch of each epoch
    assert 0 < last["learning_rate"] < 0.01
    assert result.best_epoch > 0
    assert last["valid/loss"] < result.history[0]["valid/loss"]


@pytest.mark.slow
def test_caution_survives_a_stop(workspace: Path, tmp_path: Path) -> None:
    finetune.run(poisoned(workspace, tmp_path / "whole", [3]))
    recipe = poisoned(workspace, tmp_path / "stopped", [3])
    with pytest.raises(RunStoppedError):
        finetune.run(recipe, reporter=StopAt(2, signal.SIGTERM))
    finetune.run(recipe, resume="auto")
    assert outcome(tmp_path / "stopped") == outcome(tmp_path / "whole")


def test_a_run_that_keeps_failing_names_loss_and_structures(
    workspace: Path, tmp_path: Path
) -> None:
    listener = StopAt(-1, signal.SIGTERM)
    recipe = poisoned(workspace, tmp_path / "run", range(12), epochs=20, rollbacks=2)
    with pytest.raises(TrainingError, match=r"'poison' is nan on .*structure.* 2 times"):
        finetune.run(recipe, reporter=listener)
    assert sum("back to the weights of epoch 0" in line for line in listener.said) == 2
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 5


def test_a_validation_that_explodes_goes_back_to_the_best(workspace: Path, tmp_path: Path) -> None:
    listener = StopAt(-1, signal.SIGTERM)
    train = {"epochs": 5, "learning_rate": 30.0, "ema": None, "rollbacks": 50}
    result = finetune.run(
        recipe_for(workspace, tmp_path / "run", losses={"energy": {}}, train=train),
        reporter=listener,
    )
    assert any("the validation measure is" in line for line in listener.said)
    rates = [record["learning_rate"] for record in result.history]
    assert rates[-1] < 0.3 * rates[0]
    assert result.valid.finetuned.energy_per_atom_rmse is not None
    lines = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert "NaN" not in lines
    assert json.loads(lines.splitlines()[0])["epoch"] == 0


def test_the_guard_backs_off_and_recovers_below_its_ceiling() -> None:
    guard = Guard()
    for _ in range(4):
        guard.step_was_skipped("x")
    assert guard.factor == 0.5**4
    assert not guard.diverging
    guard.step_was_skipped("x")
    assert guard.diverging
    guard.rolled_back()
    assert guard.factor == guard.ceiling == pytest.approx(0.3)
    guard.step_was_skipped("y")
    for _ in range(200):
        guard.step_went_well()
    assert guard.factor == guard.ceiling
    assert (guard.skipped, guard.rollbacks, guard.trouble) == (6, 1, "y")
