"""What is varied, which arms come of it, which labels are drawn, and the statistics."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from scipy import stats

from finetune.core.errors import DataError, RecipeError
from finetune.data.reading import read_structures
from finetune.recipe.recipe import Recipe
from finetune.studies.arms import Arm, Draws, arms_of, varied
from finetune.studies.comparison_result import difference, holm
from finetune.studies.scoring import Measure
from tests.conftest import recipe_for, structure


def recipe(**changes: object) -> Recipe:
    return recipe_for(Path("x"), "runs/x", **changes)


def arms(*texts: str, **changes: object) -> list[Arm]:
    return arms_of(recipe(**changes), varied(texts))


def test_texts_are_read_as_yaml() -> None:
    found = varied(["labels=10,all", "train.learning_rate=1e-3,0.01", "adapter.targets=[a,b],[c]"])
    assert found == {
        "labels": (10, "all"),
        "train.learning_rate": (1e-3, 0.01),
        "adapter.targets": (["a", "b"], ["c"]),
    }


def test_arms_are_all_combinations_and_the_first_of_as_many_labels_is_the_baseline() -> None:
    found = arms("labels=10,all", "losses=none,pitc,pitc+pisc,replay")
    assert [arm.name for arm in found[:2]] == ["labels=10, losses=none", "labels=10, losses=pitc"]
    assert [arm.labels for arm in found] == [10] * 4 + [None] * 4
    assert [list(arm.recipe.losses) for arm in found[:4]] == [
        ["energy"],
        ["energy", "pitc"],
        ["energy", "pitc", "pisc"],
        ["energy", "replay"],
    ]
    assert found[1].recipe.losses["pitc"].weight == 0.1  # the recipe's own options
    assert {arm.baseline for arm in found} == {"labels=10, losses=none", "labels=all, losses=none"}
    assert found[1].group == "losses=pitc"
    assert len({arm.folder for arm in found}) == 8
    alone = arms("labels=10,25")
    assert {arm.baseline for arm in alone} == {"labels=10"}
    for same in (["losses=none"], ["train.ema=0.9"]):
        assert {arm.baseline for arm in arms("labels=10,25", *same)} == {"labels=10"}


def test_an_arm_searches_what_it_has_and_what_is_not_varied() -> None:
    none, pitc = arms("losses=none,pitc")
    assert set(none.recipe.tune.space) == {"train.learning_rate", "train.epochs"}
    assert "losses.pitc.weight" in pitc.recipe.tune.space
    assert all("pisc" not in path for path in pitc.recipe.tune.space)
    full, lora = arms("adapter.kind=full,lora", train={})
    assert "adapter.rank" in lora.recipe.tune.space
    assert "adapter.rank" not in full.recipe.tune.space
    assert lora.recipe.train.learning_rate == 1e-2
    fast, _ = arms("train.learning_rate=0.1,0.01")
    assert "train.learning_rate" not in fast.recipe.tune.space
    solved = {
        "losses": {"energy": {}},
        "train": {},
        "tune": {"space": {"train.learning_rate": [1e-4, 1e-2], "losses.energy.weight": [1, 2]}},
    }
    adamw, newton = arms("train.optimiser=adamw,gauss-newton", **solved)
    assert set(adamw.recipe.tune.space) == {"train.learning_rate", "losses.energy.weight"}
    assert set(newton.recipe.tune.space) == {"losses.energy.weight"}
    space = {"losses.pitc.weight": [0.1, 1.0]}
    none, pitc = arms("losses=none,pitc", tune={"space": space})
    assert none.recipe.tune.space == {}
    assert list(pitc.recipe.tune.space) == ["losses.pitc.weight"]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "at least two arms"),
        (["labels=10"], "at least two arms"),
        (["labels"], "must read key=value,value"),
        (["labels=10,10"], "10 is given twice"),
        (["labels=10", "labels=20"], "--vary labels is given twice"),
        (["labels=ten,20"], "ten is neither a number of structures nor 'all'"),
        (["labels=0,20"], "0 is neither a number"),
        (["losses="], "names no values"),
        (["losses=none,pict"], "unknown loss 'pict'.* Did you mean 'pitc'"),
        (["train.epoch=1,2"], "Did you mean 'epochs'"),
        (["train.epochs=1,none"], "train.epochs: must be a whole number"),
        (["train.seed=1,2"], "ask for --seeds"),
        (["losses=none,pitc", "losses.pitc.weight=1,2"], "with losses=none has no loss 'pitc'"),
        (["losses.pict.weight=1,2"], "the recipe has no loss 'pict'"),
        (["adapter.kind=[full,lora"], "cannot be read"),
        (
            ["losses=pict"],
            r"the arm losses=pict: the recipe has 1 fault:\n  losses.pict: unknown loss",
        ),
        (["train.epochs=7"], "at least two arms: give train.epochs another value besides 7"),
        (["labels=4,6", "data.train=a.xyz,b.xyz"], "drawn from one training set"),
        (["labels=4", "data.units.energy=eV,Hartree"], "drawn from one training set"),
        (["adapter.rank=2,4"], "adapter.rank=2: the adapter 'full' has no option 'rank'"),
        (["adapter.rank=2,4", "adapter.kind=lora,full"], "'full' has no option 'rank'"),
        (["losses=none,energy"], "losses=energy: the loss 'energy' is on labels and thus in every"),
        (["train..epochs=1,2"], "must read key=value,value"),
        ([".=1,2"], "must read key=value,value"),
        (["train={seed: 1},{seed: 2}"], "name one of its keys, e.g. train.learning_rate"),
    ],
)
def test_what_cannot_be_varied_is_refused(texts: list[str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        arms(*texts)


@pytest.mark.parametrize("values", [10, "10,20", [], {10, 20}])
def test_values_that_are_no_list_are_refused(values: object) -> None:
    with pytest.raises(RecipeError, match="--vary labels names no values"):
        arms_of(recipe(), {"labels": values})  # type: ignore[dict-item]


def test_a_key_of_the_space_that_no_arm_has_is_refused() -> None:
    with pytest.raises(RecipeError, match="no arm has 'losses.replay.weight'"):
        arms("losses=none,pitc", tune={"space": {"losses.replay.weight": [0.1, 1.0]}})


def test_draws_are_nested_follow_the_seed_and_are_exact(workspace: Path, tmp_path: Path) -> None:
    structures = read_structures(workspace / "train.xyz")
    draws = Draws(structures, Measure.of_recipe(recipe()))
    few, more = set(draws.indices(0, 4)), set(draws.indices(0, 8))
    assert len(few) == 4
    assert few < more
    assert few != set(draws.indices(1, 4))
    stored = read_structures(draws.path(tmp_path / "labels", 0, 4))
    for index, item in zip(sorted(few), stored, strict=True):
        assert np.array_equal(item.positions, structures[index].positions)
        assert item.energy == structures[index].energy
    with pytest.raises(DataError, match="labels=13: the training set has 12 labelled"):
        draws.check([4, 13])


def test_structures_without_labels_are_in_every_draw(workspace: Path) -> None:
    first, second, *others = read_structures(workspace / "train.xyz")
    bare = [replace(item, energy=None) for item in others]
    draws = Draws([first, *bare, second], Measure.of_recipe(recipe()))
    draws.check([2])
    assert draws.indices(0, 2) == list(range(12))
    assert len(draws.indices(0, 1)) == 11
    with pytest.raises(DataError, match="labels=3: the training set has 2 labelled"):
        draws.check([3])


def test_free_atoms_that_give_reference_energies_are_in_every_draw(workspace: Path) -> None:
    molecules = read_structures(workspace / "train.xyz")[:4]
    atom = structure(Atoms("H", info={"REF_energy": -13.6}))
    measure = Measure.of_recipe(recipe())
    draws = Draws([*molecules, atom], measure, isolated=True)
    for seed in range(5):
        drawn = draws.indices(seed, 2)
        assert len(drawn) == 3 and drawn[-1] == 4
    with pytest.raises(DataError, match="labels=5: the training set has 4 labelled"):
        draws.check([5])
    Draws([*molecules, atom], measure).check([5])


def test_differences_are_those_of_a_paired_t_test() -> None:
    own, first = {0: 1.0, 1: 2.5, 2: 2.0, 9: 7.0}, {0: 2.0, 1: 3.0, 2: 3.5}
    found = difference(own, first)
    assert found is not None
    expected = stats.ttest_rel([1.0, 2.5, 2.0], [2.0, 3.0, 3.5])
    interval = expected.confidence_interval(0.95)
    assert found.pairs == 3
    assert found.mean == pytest.approx(-1.0)
    assert found.p == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    single = difference({0: 1.0}, {0: 2.0})
    assert single is not None
    assert (single.mean, single.low, single.p) == (-1.0, None, None)
    assert difference({1: 1.0}, {0: 2.0}) is None
    same = difference({0: 1.0, 1: 2.0}, {0: 2.0, 1: 3.0})
    assert same is not None
    assert (same.mean, same.low, same.high, same.p) == (-1.0, None, None, None)


def test_p_values_are_corrected_for_their_number() -> None:
    assert holm([0.01, None, 0.04, 0.03]) == pytest.approx([0.03, None, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
