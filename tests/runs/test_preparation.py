"""What is refused before training because nothing would be trained."""

from pathlib import Path
from typing import Any

import pytest

import finetune
from finetune.core.errors import DataError, RecipeError
from finetune.potentials.potential import Potential
from finetune.recipe.plugins import adapters
from tests.conftest import recipe_for


class Misspelt(finetune.Adapter):
    def attach(self, potential: Potential) -> finetune.AdaptedPotential:
        return finetune.AdaptedPotential(potential, frozenset({"model.readouts.0.linear.wieght"}))


class Nothing(finetune.Adapter):
    def attach(self, potential: Potential) -> finetune.AdaptedPotential:
        return finetune.AdaptedPotential(potential, frozenset())


class Bare(finetune.Adapter):
    def attach(self, potential: Potential) -> Any:
        return potential


class Forgotten(finetune.Adapter):
    def attach(self, potential: Potential) -> Any:
        finetune.AdaptedPotential(potential, frozenset())


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        (Misspelt, "no such parameter. Did you mean 'model.readouts.0.linear.weight'"),
        (Nothing, "'test_faulty' leaves nothing to train"),
        (Bare, "returned a MacePotential, not a finetune.AdaptedPotential"),
        (Forgotten, "returned a NoneType, not a finetune.AdaptedPotential"),
    ],
)
def test_adapters_that_train_nothing(
    adapter: type[finetune.Adapter],
    message: str,
    workspace: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(adapters._registered, "test_faulty", adapter)
    recipe = recipe_for(workspace, tmp_path / "run", adapter={"kind": "test_faulty"})
    with pytest.raises(RecipeError, match=message):
        finetune.validate(recipe)


def test_losses_without_weight(workspace: Path, tmp_path: Path) -> None:
    losses = {"energy": {"weight": 0.0}, "pitc": {"weight": 1.0, "displacement": 0.05}}
    recipe = recipe_for(workspace, tmp_path / "run", losses=losses)
    with pytest.raises(DataError, match=r"losses.energy.weight is 0.*Give it a weight"):
        finetune.validate(recipe)
