"""Editors accept with the schema what the command accepts, and mark what it refuses."""

from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from finetune.core.errors import RecipeError
from finetune.core.resources import recipe as shipped
from finetune.core.resources import recipes
from finetune.recipe.recipe import Recipe
from finetune.recipe.schema import recipe_schema

SMALL = {"foundation": "x", "data": {"train": "a.xyz"}, "output": "runs/x"}


@pytest.fixture(scope="module")
def schema() -> Draft202012Validator:
    found = recipe_schema()
    Draft202012Validator.check_schema(found)
    return Draft202012Validator(found)


def faults(schema: Draft202012Validator, recipe: object) -> list[str]:
    return [fault.message for fault in schema.iter_errors(recipe)]


@pytest.mark.parametrize("name", sorted(recipes()))
def test_shipped_recipes_pass(name: str, schema: Draft202012Validator) -> None:
    assert faults(schema, yaml.safe_load(shipped(name).read_text(encoding="utf-8"))) == []


GOOD: list[dict[str, Any]] = [
    {},
    {"losses": {"forces": None, "pitc": {"weight": {"kind": "warm_up", "last": 0.1}}}},
    {"losses": {"near": {"kind": "pisc", "displacement": {"kind": "thermal", "size": 0.1}}}},
    {"losses": {"pitc": {"displacement": {"size": {"fraction": 0.5}}}}},
    {"adapter": "readout"},
    {"adapter": {"kind": "lora", "rank": 4}},
    {"data": {"train": ["a.xyz", "b.xyz"], "valid": 0.1}},
    {"data": {"train": "a.xyz", "energies": "a.csv"}},
    {"data": {"train": "a.xyz", "valid": "b.xyz", "energies": {"b.xyz": "b.csv"}}},
    {"tune": {"space": {"train.epochs": {"low": 1, "high": 4}, "adapter.rank": [1, 2]}}},
    {"stages": {"dft": {"losses": {"forces": {}}}, "cc": {"data": {"train": "b.xyz"}}}},
]
BAD: list[dict[str, Any]] = [
    {"losses": {"pitc": {"displacment": 0.1}}},
    {"losses": {"near": {"displacement": 0.1}}},
    {"losses": {"energy": {"weight": -1}}},
    {"losses": {"energy": {"displacement": 0.1}}},
    {"adapter": {"kind": "lora", "rnk": 4}},
    {"adapter": "lroa"},
    {"train": {"epochs": 0}},
    {"foundaton": "x"},
    {"tune": {"space": {"train.epochs": {"low": 1}}}},
    {"tune": {"measure": "energy"}},
    {"stages": {"dft": {"losses": {"forces": {"wieght": 1}}}}},
    {"stages": {"dft": {"output": "x"}}},
]


@pytest.mark.parametrize("changes", GOOD)
def test_good_ones_pass_both(changes: dict[str, Any], schema: Draft202012Validator) -> None:
    Recipe.parse({**SMALL, **changes})
    assert faults(schema, {**SMALL, **changes}) == []


@pytest.mark.parametrize("changes", BAD)
def test_bad_ones_pass_neither(changes: dict[str, Any], schema: Draft202012Validator) -> None:
    with pytest.raises(RecipeError):
        Recipe.parse({**SMALL, **changes})
    assert not schema.is_valid({**SMALL, **changes})


def test_data_may_come_from_stages(schema: Draft202012Validator) -> None:
    by_stage = {"foundation": "x", "output": "x", "stages": {"cc": {"data": {"train": "a.xyz"}}}}
    Recipe.parse(by_stage)
    assert faults(schema, by_stage) == []
    assert not schema.is_valid({"foundation": "x", "output": "x"})


def test_a_dump_passes(schema: Draft202012Validator) -> None:
    assert faults(schema, yaml.safe_load(Recipe.parse(SMALL).dump())) == []
