"""What is checked of every arm before any is tuned."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ase.io
import pytest

import finetune
from finetune import FinetuneError
from finetune.core.errors import RecipeError
from finetune.data.splitting import hold_out
from finetune.studies import comparison
from finetune.training.optimisers.gauss_newton import GaussNewton
from tests.conftest import recipe_for


class Passed(BaseException):
    """The checks are done."""


@pytest.fixture(autouse=True)
def nothing_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    def passed(*_: Any) -> None:
        raise Passed

    monkeypatch.setattr(comparison, "work_through", passed)


def recipe(workspace: Path, output: Path, **changes: Any) -> finetune.Recipe:
    given = {"losses": {"energy": {}}, "train": {"optimiser": "gauss-newton"}, **changes}
    return recipe_for(workspace, output, **given)


@pytest.mark.slow
def test_arms_that_fit_into_memory_are_not_refused_for_labels_that_none_uses(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    solvable, sizes = GaussNewton.check, []

    def check(cls: type, recipe: Any, train: Sequence[Any], adapted: Any) -> None:
        sizes.append(len(train))
        if len(train) > 8:
            raise RecipeError("the gradients do not fit")
        solvable(recipe, train, adapted)

    monkeypatch.setattr(GaussNewton, "check", classmethod(check))
    given = recipe(workspace, tmp_path / "run")
    with pytest.raises(Passed):
        finetune.compare(given, vary={"labels": [6, 8]}, seeds=2)
    assert sizes == [6, 6, 8, 8]
    with pytest.raises(FinetuneError, match="^the arm labels=all: the gradients do not fit"):
        finetune.compare(given, vary={"labels": [6, "all"]}, seeds=2, to=tmp_path / "other")
    assert not (tmp_path / "other").exists()
    both = {"labels": [6, 12], "train.optimiser": ["adamw", "gauss-newton"]}
    with pytest.raises(FinetuneError, match="^the arm labels=12, train.optimiser=gauss") as told:
        finetune.compare(given, vary=both, seeds=2, to=tmp_path / "other")
    assert "adamw:" not in str(told.value) and "labels=6" not in str(told.value)


@pytest.mark.parametrize(("seeds", "labels"), [(1, 4), (3, 4)])
def test_arms_with_too_few_labels_are_refused(
    workspace: Path, tmp_path: Path, seeds: int, labels: int
) -> None:
    given = recipe(workspace, tmp_path / "run")
    told = rf"^the arm labels={labels}: with what seed \d draws, .*learns from 2 labels"
    with pytest.raises(FinetuneError, match=told):
        finetune.compare(given, vary={"labels": [labels, 12]}, seeds=seeds)
    assert list(tmp_path.iterdir()) == []


def test_what_a_seed_holds_out_does_not_count(workspace: Path, tmp_path: Path) -> None:
    data = {"train": str(workspace / "train.xyz"), "test": str(workspace / "test.xyz")}
    given = recipe(workspace, tmp_path / "run", data={**data, "valid": 0.5})
    with pytest.raises(FinetuneError, match="the arm labels=6: with what seed 0 draws"):
        finetune.compare(given, vary={"labels": [6, 12]}, seeds=1)
    plain = recipe(
        workspace, tmp_path / "run", data={**data, "valid": str(workspace / "valid.xyz")}
    )
    with pytest.raises(Passed):
        finetune.compare(plain, vary={"labels": [6, 12]}, seeds=1)


@pytest.mark.slow
def test_what_every_seed_holds_out_has_to_have_labels(workspace: Path, tmp_path: Path) -> None:
    frames = ase.io.read(workspace / "train.xyz", ":")
    for atoms in frames[3:]:
        del atoms.info["REF_energy"]
    ase.io.write(tmp_path / "few.xyz", frames)
    data = {"train": str(tmp_path / "few.xyz"), "test": str(workspace / "test.xyz"), "valid": 0.25}
    vary = {"losses": ["none", "pitc"]}
    held = [set(hold_out(range(12), 0.25, seed)[1]) for seed in range(2)]  # type: ignore[arg-type]
    assert [bool(part & {0, 1, 2}) for part in held] == [True, False]
    given = recipe(workspace, tmp_path / "run", data=data, train={})
    with pytest.raises(Passed):
        finetune.compare(given, vary=vary, seeds=1, budget=0, to=tmp_path / "one")
    with pytest.raises(FinetuneError, match="^with what seed 1 draws, the validation set has no"):
        finetune.compare(given, vary=vary, seeds=2, budget=0)
    assert not (tmp_path / "run-comparison").exists()


def test_folds_are_checked_before_anything_is_trained(workspace: Path, tmp_path: Path) -> None:
    data = {"train": str(workspace / "train.xyz"), "test": str(workspace / "test.xyz")}
    tune = {"space": {"adapter.kind": ["full", "readout"]}, "folds": 2}
    given = recipe(workspace, tmp_path / "run", data={**data, "valid": 0.2}, tune=tune)
    vary = {"labels": [6, 12]}
    told = r"^the arm labels=6: with what seed 0 draws, in fold 1 of 2 .* learns from . label"
    with pytest.raises(FinetuneError, match=told):
        finetune.compare(given, vary=vary, seeds=1, budget=2)
    with pytest.raises(Passed):
        finetune.compare(given, vary=vary, seeds=1, budget=0, to=tmp_path / "untuned")
    tune = {"space": {"train.epochs": [1, 2]}, "folds": 8}
    few = {**data, "valid": str(workspace / "valid.xyz@:1")}
    given = recipe(workspace, tmp_path / "run", data=few, train={}, tune=tune)
    told = "^the arm labels=6: with what seed 0 draws, 7 different structures .* into 8 folds"
    with pytest.raises(FinetuneError, match=told):
        finetune.compare(given, vary=vary, seeds=1, budget=30)
    assert not (tmp_path / "run-comparison").exists()
