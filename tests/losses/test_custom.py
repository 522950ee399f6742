"""A loss of one's own takes part in recipes without touching the package."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

import finetune
from finetune.core.errors import RecipeError
from finetune.data.graphs import GraphBatch
from finetune.losses.context import BASE, LossContext, Request
from finetune.losses.loss import Loss
from finetune.recipe.loss_options import LossOptions
from finetune.recipe.plugins import losses
from tests.conftest import recipe_for


class NetForceOptions(LossOptions):
    power: int = 2


@finetune.register_loss("force_size")
class ForceSize(Loss):
    """Mean squared force, of all structures."""

    Options = NetForceOptions

    def requests(self, batch: GraphBatch) -> Sequence[Request]:
        return [Request(BASE, forces=True)]

    def __call__(self, context: LossContext) -> torch.Tensor:
        forces = context.prediction(BASE).forces
        assert forces is not None
        return forces.square().mean()


def test_a_registered_loss_trains(workspace: Path, tmp_path: Path) -> None:
    recipe = recipe_for(
        workspace,
        tmp_path / "run",
        losses={"energy": {}, "small": {"kind": "force_size", "weight": 0.1}},
        train={"epochs": 1},
    )
    result = finetune.run(recipe)
    assert result.history[1]["loss/small"] > 0


def test_its_options_are_checked(workspace: Path) -> None:
    with pytest.raises(RecipeError, match="powr: unknown key. Did you mean 'power'"):
        recipe_for(workspace, "x", losses={"force_size": {"powr": 3}})


def test_names_are_taken_once() -> None:
    with pytest.raises(ValueError, match="already taken"):
        losses.register("pitc")(ForceSize)
    with pytest.raises(ValueError, match="needs an `Options` class"):
        losses.register("bare")(type("Bare", (), {}))
