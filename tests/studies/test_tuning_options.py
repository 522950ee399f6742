"""Budgets, search spaces, folds: what they mean, and what is refused."""

import shutil
from pathlib import Path

import ase.io
import pytest
from ase import Atoms

import finetune
from finetune.core.errors import DataError, FinetuneError, RecipeError
from finetune.data.reading import Reader
from finetune.recipe.recipe import Recipe
from finetune.recipe.sections import Range
from finetune.runs.preparation import labelled as splits
from finetune.studies.scoring import Measure, judging
from finetune.studies.space import space_of, with_values
from finetune.studies.study import Budget, parse_budget
from finetune.studies.tuning import with_absolute_paths
from tests.conftest import recipe_for

PITC = {"energy": {}, "pitc": {"weight": 0.1, "displacement": 0.05}}


def recipe(**changes: object) -> Recipe:
    return recipe_for(Path("x"), "runs/x", **changes)


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("30", Budget(trials=30)),
        (7, Budget(trials=7)),
        ("2h", Budget(seconds=7200)),
        ("45min", Budget(seconds=2700)),
        ("1h 30 min", Budget(seconds=5400)),
        ("0.5s", Budget(seconds=0.5)),
    ],
)
def test_budgets_are_trials_or_time(text: str | int, budget: Budget) -> None:
    assert parse_budget(text) == budget


@pytest.mark.parametrize(
    "text",
    [
        "²",
        "٣",
        "3" * 5000,
        "٣h",
        "0",
        "-3",
        "3 bananas",
        "h",
        "",
        "2.5",
        "0h",
        "2h 3 trials",
        "9" * 9,
    ],
)
def test_other_budgets_are_refused(text: str) -> None:
    with pytest.raises(FinetuneError, match="neither a number of trials from 1 on"):
        parse_budget(text)


def test_the_usual_space_follows_adapter_and_losses() -> None:
    plain = space_of(recipe(losses={"energy": {}}))
    assert list(plain) == ["train.learning_rate", "train.epochs"]
    assert plain["train.epochs"].whole
    lora = space_of(
        recipe(
            adapter="lora",
            train={},
            losses={
                "energy": {},
                "forces": {"weight": 2.0},
                "near": {"kind": "pitc", "weight": {"kind": "warm_up", "last": 0.3}},
                "pisc": {"displacement": {"kind": "thermal"}},
                "second_difference": {"displacement": {"size": {"fraction": 0.5}}},
                "strain": {"weight": 0},
                "replay": {"displacement": None},
            },
        )
    )
    assert set(lora) == {
        "train.learning_rate",
        "train.epochs",
        "adapter.rank",
        "losses.forces.weight",
        "losses.near.weight.last",
        "losses.near.displacement.size",
        "losses.pisc.weight",
        "losses.pisc.displacement.size",
        "losses.second_difference.weight",
        "losses.second_difference.displacement.size.fraction",
        "losses.replay.weight",
    }
    assert all(item.holds_untouched for item in lora.values())
    rates = [space["train.learning_rate"].searched for space in (plain, lora)]
    assert [(item.low, item.high) for item in rates] == [(1e-4, 0.1), (1e-3, 0.1)]


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (
            {"train.learning_rat": [1, 2]},
            "no 'train.learning_rat'. Did you mean 'train.learning_rate'",
        ),
        ({"losses.pisc.weight": [0, 1]}, "the recipe has no 'losses.pisc.weight'"),
        ({"train.epochs": {"low": 1.5, "high": 4}}, "whole number; its range from 1.5 to 4"),
        ({"train.schedule": {"low": 1, "high": 4}}, "'constant', not a number, and has no range"),
        ({"train": {"low": 1, "high": 4}}, "is a mapping, not a number. Name one of its keys"),
        ({"train.seed": [0, 1]}, "luckiest seed"),
        ({"data.valid": [0.1, 0.2]}, "the data decide what is judged"),
        ({"train.epochs": [3, -1]}, "-1 is no value of 'train.epochs': .*at least 1"),
        ({"train.epochs": {"low": -3, "high": 4}}, "-3 is no value of 'train.epochs'"),
        ({"train.epochs": ["many"]}, "\"many\" is no value of 'train.epochs': .*whole number"),
        ({"adapter.kind": ["full", "loraa"]}, "\"loraa\" is no value of .* Did you mean 'lora'"),
        ({"train.ema": {"low": 0.9, "high": 2.0}}, "2.0 is no value of 'train.ema': .*below 1"),
        ({"losses.pitc": [1, 2]}, "1 is no value of 'losses.pitc': .*write `pitc: {weight: 1}`"),
        ({"losses.pitc.displacement": {"low": 0.1, "high": 900}}, "900.0 is no value of"),
    ],
)
def test_settings_that_cannot_be_searched_are_refused(space: dict, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        space_of(recipe(losses=PITC, tune={"space": space}))


@pytest.mark.parametrize(
    ("tune", "message"),
    [
        ({"space": {"train.epochs": {"low": 4, "high": 4}}}, "range from 4 to 4 is empty"),
        ({"space": {"train.epochs": {"low": 0, "high": 4, "log": True}}}, "begins above 0"),
        ({"space": {"train.epochs": []}}, "at least 1 entry"),
        ({"space": {"train.epochs": {"low": 1}}}, "train.epochs.high: is missing"),
        ({"folds": 1}, "two folds at least"),
        ({"space": {"train.epochs": 5}}, "give 'train.epochs' a range, {low: 1, high: 10"),
        ({"space": {"train.epochs": None}}, "give 'train.epochs' a range"),
        ({"space": {"train.epochs": [1, 2, 1]}}, "the choice 1 of 'train.epochs' is there twice"),
        (
            {"space": {"train.epochs": {"low": 1, "high": 2, "lg": True}}},
            "train.epochs.lg: unknown key. Did you mean 'log'.* Known: low, high, log",
        ),
        ({"measure": "energy"}, "tune.measure: must be 'loss'"),
        ({"spaces": {}}, "Did you mean 'space'"),
    ],
)
def test_faulty_sections_are_refused(tune: dict, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        recipe(tune=tune)


def test_values_reach_the_recipe_and_a_new_adapter_drops_the_options_of_the_old_one() -> None:
    base = recipe(adapter={"kind": "lora", "rank": 4}, losses=PITC, train={})
    changed = with_values(base, {"losses.pitc.weight": 0.3, "train.epochs": 7, "adapter.rank": 2})
    assert changed.losses["pitc"].weight == 0.3
    assert (changed.train.epochs, changed.adapter["rank"]) == (7, 2)
    assert with_values(base, {}) == base
    full = with_values(base, {"adapter.kind": "full", "adapter.rank": 2})
    assert full.adapter == {"kind": "full"}
    assert full.train.learning_rate == 1e-3  # that of the kind, as nobody wrote one
    with pytest.raises(RecipeError, match="train.epochs: must be at least 1"):
        with_values(base, {"train.epochs": 0})


def test_numbers_are_drawn_tidy_and_within_their_range() -> None:
    space = {
        "train.learning_rate": {"low": 0.0123456, "high": 0.5},
        "train.patience": [3, None],
        "train.batch_size": [2, 3],
    }
    found = space_of(recipe(tune={"space": space}))
    assert found["train.learning_rate"].tidy(0.0123457) == 0.0123456
    assert found["train.learning_rate"].tidy(0.1234567) == 0.123
    assert found["train.patience"].searched == (3, None)
    assert found["train.patience"].holds_untouched
    assert not found["train.batch_size"].holds_untouched
    assert isinstance(found["train.learning_rate"].searched, Range)


def test_a_run_takes_no_notice_of_the_section() -> None:
    assert recipe().differences(recipe(tune={"folds": 3, "origin": {"trial": 1}})) == []
    assert Recipe.parse(recipe(tune={"space": {"train.epochs": [1, 2]}}).written()).tune.space


def test_few_labels_are_divided_into_folds(workspace: Path, tmp_path: Path) -> None:
    base = recipe_for(workspace, tmp_path)
    measure = Measure.of_recipe(base)
    found = judging(base, None, measure)
    assert found.described == "5-fold cross-validation on 18 labelled structures"
    assert sorted(index for part in found.parts for index in part) == list(range(18))
    assert {len(part) for part in found.parts} <= {3, 4}
    data = found.data(base, tmp_path)
    assert all(item.test is None for item in data)
    assert len({item.train for item in data}) == 5
    given = {"folds": 0}, {"valid_at_least": 6}
    for tune in given:
        single = judging(recipe_for(workspace, tmp_path, tune=tune), None, measure)
        assert single.described == "6 labelled validation structures"


def test_what_is_held_out_is_what_a_run_holds_out(workspace: Path, tmp_path: Path) -> None:
    frames = ase.io.read(workspace / "train.xyz", ":")
    for atoms in frames[:6]:
        del atoms.info["REF_energy"]
    ase.io.write(tmp_path / "half.xyz", frames)
    counts = set()
    for seed in (None, 1, 2, 3):
        data = {"train": str(tmp_path / "half.xyz"), "valid": 0.5, "seed": seed}
        base = recipe_for(workspace, tmp_path, data=data, tune={"folds": 0})
        held = splits(base, Reader.of(base.data, None))["valid"]
        count = judging(base, None, Measure.of_recipe(base)).count
        assert count == sum(item.energy is not None for item in held)
        counts.add(count)
    assert len(counts) > 1


def test_a_recipe_with_absolute_paths_finds_its_files_from_anywhere(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, beside = tmp_path / "here", tmp_path / "beside"
    for folder in (here, beside):
        folder.mkdir()
        (folder / "own.model").touch()
    shutil.copy(workspace / "train.xyz", here / "train.xyz")
    shutil.copy(workspace / "valid.xyz", beside / "part-1.xyz")
    data = {"train": ["train.xyz@:5", "data/gone.xyz"], "valid": "part-?.xyz", "test": "/x.xyz"}
    shipped = {"train": "data/ccsdt/isolated_atoms.xyz", "valid": 0.2}
    monkeypatch.chdir(here)
    found = with_absolute_paths(recipe(foundation="own.model", data=data), beside)
    assert found["foundation"] == str(here / "own.model")
    assert found["data"]["train"] == [f"{here}/train.xyz@:5", f"{beside}/data/gone.xyz"]
    assert (found["data"]["valid"], found["data"]["test"]) == (f"{beside}/part-?.xyz", "/x.xyz")
    assert (
        with_absolute_paths(recipe(data={"train": "train.xyz"}), None)["data"]["train"]
        == f"{here}/train.xyz"
    )
    (here / "tiny-xtb-hcno").touch()
    for folder in (here, Path(finetune.__file__).parents[1]):
        monkeypatch.chdir(folder)
        found = with_absolute_paths(recipe(foundation="tiny-xtb-hcno", data=shipped), None)
        assert (found["foundation"], found["data"]["train"]) == ("tiny-xtb-hcno", shipped["train"])


def test_equal_structures_share_a_fold(workspace: Path, tmp_path: Path) -> None:
    twice = [str(workspace / "train.xyz")] * 2
    base = recipe_for(workspace, tmp_path, data={"train": twice})
    found = judging(base, None, Measure.of_recipe(base))
    for part in found.parts:
        assert {index % 12 for index in part} <= {index for index in part}


def test_free_atoms_of_reference_energies_judge_nothing(workspace: Path, tmp_path: Path) -> None:
    atoms = [Atoms(symbol, info={"REF_energy": -7.0}) for symbol in "HCO"]
    ase.io.write(tmp_path / "valid.xyz", [*ase.io.read(workspace / "valid.xyz", ":"), *atoms])
    data = {"train": str(workspace / "train.xyz"), "valid": str(tmp_path / "valid.xyz")}
    changes = {"data": data, "reference_energies": "isolated"}
    for tune, told in (
        ({"valid_at_least": 6}, "6 labelled validation structures"),
        ({"valid_at_least": 7}, "5-fold cross-validation on 18 labelled structures"),
    ):
        base = recipe_for(workspace, tmp_path, tune=tune, **changes)
        assert judging(base, None, Measure.of_recipe(base)).described == told


def test_folds_that_gauss_newton_cannot_solve_are_refused_before_anything_is_written(
    workspace: Path, tmp_path: Path
) -> None:
    base = recipe_for(
        workspace,
        tmp_path / "run",
        data={"train": str(workspace / "train.xyz@:6"), "valid": 0.2},
        losses={"energy": {}},
        train={"optimiser": "gauss-newton"},
        tune={"space": {"adapter.kind": ["full", "readout"]}, "folds": 2},
    )
    told = r"^in fold 1 of 2 of the cross-validation, .* learns from . label.*tune\.folds=0"
    with pytest.raises(DataError, match=told):
        finetune.tune(base, budget=1)
    assert list(tmp_path.iterdir()) == []


def test_too_few_labels_for_the_folds_are_refused(workspace: Path, tmp_path: Path) -> None:
    data = {split: str(workspace / f"{split}.xyz@:2") for split in ("train", "valid")}
    for tune, message in (
        (
            {"folds": 9},
            "4 different structures .* cannot be divided into 9 folds.*lower tune.folds",
        ),
        ({"measure": "forces_mae"}, "0 different structures with forces labels"),
        (
            {"measure": "forces_mae", "folds": 0},
            "no validation structure has forces labels, which tune.measure=forces_mae needs",
        ),
    ):
        base = recipe_for(workspace, tmp_path, data=data, tune=tune)
        with pytest.raises(DataError, match=message):
            judging(base, None, Measure.of_recipe(base))
