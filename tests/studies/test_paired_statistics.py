"""The figures of a comparison against those worked out another way, from made-up runs."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.collections import PolyCollection
from scipy import stats

from finetune.studies.arms import Arm, arms_of
from finetune.studies.comparison_result import ComparisonResult, evaluated, learning_curves
from tests.conftest import recipe_for

LOSSES = ["none", "pitc", "pisc", "pitc+pisc"]
SEEDS = range(5)
LOST = ("labels=10, losses=pisc", 3)
"""A run that diverged."""


@pytest.fixture(scope="module")
def arms() -> list[Arm]:
    return arms_of(recipe_for(Path("x"), "runs/x"), {"labels": [10, 40], "losses": LOSSES})


@pytest.fixture(scope="module")
def outcomes(arms: list[Arm]) -> dict[str, dict[int, dict[str, Any]]]:
    """Errors with a part that seeds have in common, another for each arm, and noise."""
    rng = np.random.default_rng(0)
    common = rng.normal(0, 0.01, len(SEEDS))
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for place, arm in enumerate(arms):
        values = 0.05 + common - 0.004 * place + rng.normal(0, 0.003, len(SEEDS))
        found[arm.name] = {
            seed: {
                "test": {"energy_mae": float(value), "forces_mae": None},
                "foundation": {"energy_mae": 0.07 + 0.001 * seed},
                "seconds": 1.0,
            }
            for seed, value in zip(SEEDS, values, strict=True)
        }
    found[LOST[0]][LOST[1]] = {"fault": "diverging"}
    return found


def energies(outcomes: dict[str, dict[int, dict[str, Any]]], arm: str) -> dict[int, float]:
    return {
        seed: item["test"]["energy_mae"] for seed, item in outcomes[arm].items() if "test" in item
    }


def test_means_spreads_intervals_and_p_are_those_of_scipy(
    arms: list[Arm], outcomes: dict[str, dict[int, dict[str, Any]]]
) -> None:
    cells, foundation = evaluated(arms, outcomes)
    assert {measure for _, measure in cells} == {"energy_mae"}
    plain: dict[str, float] = {}
    for arm in arms:
        own = energies(outcomes, arm.name)
        first = energies(outcomes, f"labels={arm.values['labels']}, losses=none")
        cell = cells[arm.name, "energy_mae"]
        assert cell.mean == pytest.approx(np.mean(list(own.values())))
        assert cell.spread == pytest.approx(stats.tstd(list(own.values())))
        if arm.values["losses"] == "none":
            assert cell.difference is None
            expected = 0.001 * stats.tstd(list(SEEDS))
            assert foundation[arm.name, "energy_mae"].mean == pytest.approx(0.072)
            assert foundation[arm.name, "energy_mae"].spread == pytest.approx(expected)
            continue
        assert cell.difference is not None
        pairs = [seed for seed in own if seed in first]
        assert cell.difference.pairs == len(pairs) == (4 if arm.name == LOST[0] else 5)
        apart = [own[seed] - first[seed] for seed in pairs]
        low, high = stats.t.interval(0.95, len(apart) - 1, np.mean(apart), stats.sem(apart))
        plain[arm.name] = stats.ttest_1samp(apart, 0.0).pvalue
        told = (cell.difference.mean, cell.difference.low, cell.difference.high, cell.difference.p)
        assert told == pytest.approx((np.mean(apart), low, high, plain[arm.name]))
    assert len(plain) == 6  # all that are compared are corrected together
    smallest = sorted(plain, key=lambda name: plain[name])
    corrected = [plain[name] * (6 - rank) for rank, name in enumerate(smallest)]
    assert corrected != sorted(corrected)  # the order of p has to be restored
    for rank, name in enumerate(smallest):
        difference = cells[name, "energy_mae"].difference
        assert difference is not None
        assert difference.p_holm == pytest.approx(min(1.0, max(corrected[: rank + 1])))


def test_learning_curves_draw_means_with_bands_of_one_deviation(
    arms: list[Arm], outcomes: dict[str, dict[int, dict[str, Any]]]
) -> None:
    cells, foundation = evaluated(arms, outcomes)
    labels = {arm.name: int(arm.values["labels"]) for arm in arms}
    (axis,) = learning_curves(arms, cells, foundation, labels).axes
    lines = {str(line.get_label()): line for line in axis.get_lines()}
    assert list(lines) == [*(f"losses={name}" for name in LOSSES), "foundation"]
    bands = [item for item in axis.collections if isinstance(item, PolyCollection)]
    assert len(bands) == len(lines)
    for (name, line), band in zip(lines.items(), bands, strict=True):
        corners = {tuple(corner) for corner in band.get_paths()[0].vertices.round(9).tolist()}
        for place, count in enumerate((10, 40)):
            if name == "foundation":
                cell = foundation[f"labels={count}, losses=none", "energy_mae"]
            else:
                cell = cells[f"labels={count}, {name}", "energy_mae"]
            assert cell.spread is not None
            assert tuple(line.get_xydata()[place]) == pytest.approx((count, 1000 * cell.mean))
            for end in (cell.mean - cell.spread, cell.mean + cell.spread):
                assert (count, round(1000 * end, 9)) in corners
    assert axis.get_xscale() == axis.get_yscale() == "log"


def test_arms_whose_runs_kept_the_foundation_are_told_in_one_note(
    arms: list[Arm], outcomes: dict[str, dict[int, dict[str, Any]]]
) -> None:
    kept = {arms[0].name: {0, 2}, LOST[0]: {1}}
    told = {
        name: {
            seed: {**item, "best_epoch": 0 if seed in kept.get(name, ()) else 7}
            for seed, item in runs.items()
        }
        for name, runs in outcomes.items()
    }
    lost = f"warning: 1 of 5 runs of {LOST[0]} failed: diverging"
    assert _result(arms, told).notes() == [
        lost,
        "note: no epoch validated better than the foundation, whose weights were kept, in 2 of 5 "
        "runs of labels=10, losses=none; 1 of 4 runs of labels=10, losses=pisc. Give tuning a "
        "larger budget, or more epochs.",
    ]
    for runs in told.values():
        for item in runs.values():
            item["best_epoch"] = 7
    assert _result(arms, told).notes() == [lost]
    untuned = replace(_result(arms, told), choices={arms[2].name: {"fault": "no loss."}})
    assert untuned.notes() == [
        f"warning: {arms[2].name} was not tuned, as it fails untouched: no loss.",
        lost,
    ]


def _result(arms: list[Arm], outcomes: dict[str, dict[int, dict[str, Any]]]) -> ComparisonResult:
    cells, foundation = evaluated(arms, outcomes)
    return ComparisonResult(Path("x"), arms, list(SEEDS), {}, outcomes, cells, foundation)
