"""Scheduled numbers go where they are told, when they are told."""

import pytest
import yaml

from finetune.core.errors import RecipeError
from finetune.recipe.loss_options import Schedule, at, peak
from finetune.recipe.recipe import Recipe

SMALL = {"foundation": "x", "data": {"train": "a.xyz"}, "output": "runs/x"}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"kind": "constant", "last": 0.3}, [0.3, 0.3, 0.3, 0.3, 0.3]),
        ({"kind": "linear", "first": 1.0, "last": 0.0}, [1.0, 0.75, 0.5, 0.25, 0.0]),
        ({"kind": "linear", "last": 2.0, "begin": 0.5}, [0.0, 0.0, 0.0, 1.0, 2.0]),
        ({"kind": "cosine", "first": 1.0, "last": 0.0}, [1.0, 0.853553, 0.5, 0.146447, 0.0]),
        ({"kind": "warm_up", "last": 0.4}, [0.0, 0.4, 0.4, 0.4, 0.4]),
        ({"kind": "warm_up", "last": 0.4, "end": 0.5}, [0.0, 0.2, 0.4, 0.4, 0.4]),
    ],
)
def test_values_over_a_run(options: dict[str, float], expected: list[float]) -> None:
    schedule = Schedule.model_validate(options)
    values = [at(schedule, progress) for progress in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert values == pytest.approx(expected, abs=1e-6)
    assert peak(schedule) == pytest.approx(max(expected))


def test_a_plain_number_stays() -> None:
    assert at(0.2, 0.7) == peak(0.2) == 0.2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "constant", "first": 1.0, "last": 1.0}, "`first` has no meaning"),
        ({"kind": "linear", "last": 1.0, "begin": 0.6, "end": 0.5}, "must lie before"),
        ({"kind": "linear", "last": -1.0}, "weight.last: must be at least 0 "),
        ({"kind": "linear", "lst": 1.0}, "weight.lst: unknown key. Did you mean 'last'"),
        ({"kind": "linaer", "last": 1.0}, "weight.kind: must be 'constant', 'linear'"),
    ],
)
def test_faults_are_told_once_and_where(options: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        Recipe.parse({**SMALL, "losses": {"energy": {"weight": options}}})
    assert "(" not in str(caught.value).partition("weight")[0].removeprefix(
        "the recipe has 1 fault(s)"
    )


def test_recipes_with_schedules_survive_a_dump() -> None:
    losses = {
        "energy": {},
        "pitc": {
            "weight": {"kind": "warm_up", "last": 0.1},
            "displacement": {"size": {"kind": "linear", "first": 0.05, "last": 0.01}},
        },
        "strain": {"strain": {"kind": "cosine", "first": 0.01, "last": 0.002}},
        "replay": {"displacement": {"kind": "thermal", "size": {"fraction": 0.5}}},
    }
    recipe = Recipe.parse({**SMALL, "losses": losses})
    again = Recipe.parse(yaml.safe_load(recipe.dump()))
    assert again == recipe
    assert again.losses["pitc"].weight_at(0.05) == pytest.approx(0.05)
    displaced = again.losses["pitc"].displaced  # type: ignore[attr-defined]
    assert displaced.size_at(1.0) == pytest.approx(0.01)


def test_a_loss_that_is_always_off_is_not_something_to_learn() -> None:
    off = {"kind": "linear", "first": 0.0, "last": 0.0}
    with pytest.raises(RecipeError, match="every loss has weight 0"):
        Recipe.parse({**SMALL, "losses": {"energy": {"weight": off}}})
