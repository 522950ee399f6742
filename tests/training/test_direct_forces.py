"""Training of direct forces: from energies, from −dE/dr, from labels; what judges it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
import torch

import finetune
from finetune.core.errors import DataError, RecipeError
from finetune.export.calculator import PotentialCalculator
from finetune.potentials.storage import load, save
from finetune.recipe.recipe import Recipe
from finetune.training.records import monitored, summary
from tests.conftest import recipe_for
from tests.potentials.test_direct import on
from tests.tiny import tiny_mace

HEAD: dict[str, Any] = {"kind": "force_head", "channels": 4}
SHORT = {"epochs": 2, "ema": None}


@pytest.fixture(scope="module")
def direct(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The foundation of the workspace with a head for forces."""
    folder = tmp_path_factory.mktemp("direct") / "foundation"
    save(on(tiny_mace(seed=0)), folder, {"name": "direct"})
    return folder


@pytest.fixture(scope="module")
def bare(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Structures without any label."""
    folder = tmp_path_factory.mktemp("bare")
    found = {}
    for split in ("train", "valid"):
        frames = ase.io.read(workspace / f"{split}.xyz", ":")
        for atoms in frames:
            atoms.info.clear()
        ase.io.write(folder / f"{split}.xyz", frames)
        found[split] = str(folder / f"{split}.xyz")
    return found


def head_of(folder: Path) -> dict[str, torch.Tensor]:
    potential, _ = load(folder)
    return {name: item for name, item in potential.state_dict().items() if "force_head" in name}


def test_a_head_learns_from_energies_alone(workspace: Path, tmp_path: Path) -> None:
    result = finetune.run(
        recipe_for(
            *(workspace, tmp_path / "run"),
            adapter=HEAD,
            losses={"energy": {}, "pitc": {"hold": "energies", "displacement": 0.1}},
            train={**SHORT, "epochs": 3, "learning_rate": 0.03},
        )
    )
    first, last = result.history[0], result.history[result.best_epoch]
    assert result.best_epoch > 0
    assert Recipe.load(tmp_path / "run" / "recipe.yaml").train.monitor == "energy_and_inconsistency"
    assert last["valid/inconsistency_mae"] < first["valid/inconsistency_mae"]
    assert last["valid/energy_mae"] == pytest.approx(first["valid/energy_mae"])
    assert "valid I" in summary(last)
    expected = np.sqrt(last["valid/energy_per_atom_rmse"] * last["valid/inconsistency_mae"])
    assert monitored(last, "energy_and_inconsistency") == pytest.approx(expected)
    assert result.valid.foundation is not None and result.valid.foundation.inconsistency_mae is None
    assert ("force head against −dE/dr (components)", "meV/Å") in [
        row[:2] for row in result.valid.rows()
    ]


@pytest.mark.parametrize("displacement", [None, pytest.param(0.05, marks=pytest.mark.slow)])
def test_a_head_learns_without_labels(
    workspace: Path, tmp_path: Path, bare: dict[str, str], displacement: float | None
) -> None:
    result = finetune.run(
        recipe_for(
            *(workspace, tmp_path / "run"),
            data=bare,
            adapter=HEAD,
            losses={"gradient_match": {"displacement": displacement}},
            train={**SHORT, "epochs": 3, "learning_rate": 0.03},
        )
    )
    assert Recipe.load(tmp_path / "run" / "recipe.yaml").train.monitor == "inconsistency"
    first, last = result.history[0], result.history[result.best_epoch]
    assert result.best_epoch > 0
    assert last["valid/inconsistency_mae"] < first["valid/inconsistency_mae"]
    assert last["units"] == {"gradient_match": "eV/Å"}
    assert (tmp_path / "run" / "report.html").is_file()
    assert load(tmp_path / "run" / "model")[0].direct_forces


def on_forces(workspace: Path, folder: Path, train: dict[str, Any]) -> Recipe:
    """Return a recipe that trains a head on labels of forces."""
    test = str(workspace / "test.xyz")
    data = {"train": test, "valid": test}
    return recipe_for(
        workspace, folder, data=data, adapter=HEAD, losses={"forces": {}}, train=train
    )


def test_labels_of_forces_are_judged_by_the_loss(workspace: Path, tmp_path: Path) -> None:
    result = finetune.run(on_forces(workspace, tmp_path / "run", {**SHORT, "epochs": 1}))
    assert Recipe.load(tmp_path / "run" / "recipe.yaml").train.monitor == "loss"
    assert result.best_epoch == 1


@pytest.mark.slow
def test_energies_alone_are_judged_by_the_loss(
    workspace: Path, tmp_path: Path, direct: Path
) -> None:
    """No loss teaches the head, which is left behind: its inconsistency would keep epoch 0."""
    train = {**SHORT, "epochs": 1}
    finetune.run(
        recipe_for(
            workspace,
            tmp_path / "run",
            foundation=str(direct),
            losses={"energy": {}},
            train=train,
        )
    )
    assert Recipe.load(tmp_path / "run" / "recipe.yaml").train.monitor == "loss"


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"losses": {"energy": {}, "gradient_match": {}}}, "losses.gradient_match: .*force_head"),
    ({"train": {"monitor": "inconsistency"}}, "train.monitor=inconsistency .*force_head"),
    ({"train": {"monitor": "energy_and_inconsistency"}}, "choose another measure"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_a_conservative_potential_is_refused(
    workspace: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        finetune.run(recipe_for(workspace, tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


def test_held_energies_alone_are_refused_for_a_conservative_potential(
    workspace: Path, tmp_path: Path
) -> None:
    losses = {"pitc": {"hold": "energies"}}
    with pytest.raises(DataError, match="no loss on labels has a weight above 0"):
        finetune.run(recipe_for(workspace, tmp_path / "run", losses=losses))


@pytest.mark.slow
def test_a_later_stage_has_the_head_of_an_earlier_one(
    workspace: Path, tmp_path: Path, bare: dict[str, str]
) -> None:
    stages = {
        "head": {"adapter": HEAD},
        "all": {"adapter": {"kind": "full"}, "train": {"learning_rate": 1e-4}},
    }
    losses = {"gradient_match": {"hold": "nothing", "displacement": None}}
    train = {**SHORT, "epochs": 1}
    result = finetune.run(
        recipe_for(
            *(workspace, tmp_path / "run"), data=bare, losses=losses, stages=stages, train=train
        )
    )
    after, before = result.valid.finetuned, result.valid.foundation
    assert before is not None and before.inconsistency_mae is not None
    assert after.inconsistency_mae is not None
    assert after.inconsistency_mae < before.inconsistency_mae


@pytest.fixture(scope="module")
def near(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Structures labelled by a potential that is near the one of `direct`."""
    teacher = on(tiny_mace(seed=0))
    with torch.no_grad():
        for name, parameter in teacher.named_parameters():
            parameter.mul_(1.1 if "force_head" in name or "readouts" in name else 1.0)
    frames = ase.io.read(workspace / "test.xyz", ":")
    calculator = PotentialCalculator(teacher)
    for atoms in frames:
        atoms.info["REF_energy"] = calculator.get_potential_energy(atoms)
        atoms.arrays["REF_forces"] = calculator.get_forces(atoms)
    path = tmp_path_factory.mktemp("near") / "labels.xyz"
    ase.io.write(path, frames)
    return str(path)


@pytest.mark.slow
@pytest.mark.parametrize("forces", [False, True])
def test_gauss_newton_moves_the_head_by_labels_of_forces(
    workspace: Path, tmp_path: Path, direct: Path, near: str, forces: bool
) -> None:
    result = finetune.run(
        recipe_for(
            *(workspace, tmp_path / "run"),
            foundation=str(direct),
            data={"train": near, "valid": near},
            losses={"energy": {}, **({"forces": {}} if forces else {})},
            train={"optimiser": "gauss-newton", "epochs": 2, "monitor": "loss"},
        )
    )
    assert result.best_epoch > 0
    before, after = head_of(direct), head_of(tmp_path / "run" / "model")
    assert all(torch.equal(before[name], after[name]) for name in before) != forces
    name = "valid/forces_rmse" if forces else "valid/energy_rmse"
    assert result.history[result.best_epoch][name] < 0.5 * result.history[0][name]


def test_gauss_newton_trains_a_head_alone(workspace: Path, tmp_path: Path) -> None:
    train = {"optimiser": "gauss-newton", "epochs": 2}
    result = finetune.run(on_forces(workspace, tmp_path / "run", train))
    first, last = result.history[0], result.history[-1]
    assert last["valid/forces_mae"] < first["valid/forces_mae"]


@pytest.mark.slow
def test_tuning_is_judged_by_energies_and_inconsistency(workspace: Path, tmp_path: Path) -> None:
    recipe = recipe_for(
        *(workspace, tmp_path / "run"),
        adapter=HEAD,
        losses={"energy": {}, "gradient_match": {"displacement": None}},
        train={**SHORT, "epochs": 1},
        tune={"folds": 0, "space": {"train.learning_rate": [0.01, 0.001]}},
    )
    found = finetune.tune(recipe, budget=2)
    assert found.measure.name == "energy_and_inconsistency"
    assert found.measure.title == "energy and inconsistency [√(meV/atom · meV/Å)]"
    assert min(item.value for item in found.tried) > 0


def test_runs_that_chose_the_loss_before_can_be_resumed(workspace: Path, tmp_path: Path) -> None:
    now, before = (
        recipe_for(workspace, tmp_path / "run", train=train) for train in ({}, {"monitor": "loss"})
    )
    assert not now.differences(before)
    other = recipe_for(workspace, tmp_path / "run", train={"monitor": "energy_mae"})
    assert before.differences(other) == ["train.monitor"]
