"""Losses and adapters by name, and the validation of their options in a recipe."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pydantic import BaseModel, ValidationError

from finetune.core.errors import RecipeError
from finetune.core.options import Registry, lines
from finetune.recipe.adapter_options import DEFAULT_ADAPTER, AdapterRules
from finetune.recipe.loss_options import PULL, LossOptions

_LOSSES = "finetune.recipe.loss_options"

losses: Registry[Any] = Registry(
    kind="loss",
    group="piwsl_finetune.losses",
    builtin={
        "energy": ("finetune.losses.supervised:EnergyLoss", f"{_LOSSES}:EnergyOptions"),
        "forces": ("finetune.losses.supervised:ForcesLoss", f"{_LOSSES}:ForcesOptions"),
        "stress": ("finetune.losses.supervised:StressLoss", f"{_LOSSES}:StressOptions"),
        "pitc": ("finetune.losses.consistency:TaylorLoss", f"{_LOSSES}:TaylorOptions"),
        "second_difference": (
            "finetune.losses.consistency:SecondDifferenceLoss",
            f"{_LOSSES}:SecondDifferenceOptions",
        ),
        "gradient_match": (
            "finetune.losses.consistency:GradientMatchLoss",
            f"{_LOSSES}:GradientMatchOptions",
        ),
        "strain": ("finetune.losses.consistency:StrainLoss", f"{_LOSSES}:StrainOptions"),
        "replay": ("finetune.losses.supervised:ReplayLoss", f"{_LOSSES}:ReplayOptions"),
        "pisc": ("finetune.losses.consistency:SpatialLoss", f"{_LOSSES}:SpatialOptions"),
    },
)

register_loss = losses.register
_ADAPTERS = "finetune.recipe.adapter_options"

adapters: Registry[Any] = Registry(
    kind="adapter",
    group="piwsl_finetune.adapters",
    builtin={
        "full": ("finetune.adapters.adapter:FullAdapter", f"{_ADAPTERS}:FullOptions"),
        "force_head": (
            "finetune.adapters.shift_and_head:ForceHeadAdapter",
            f"{_ADAPTERS}:ForceHeadOptions",
        ),
        "frozen": ("finetune.adapters.adapter:FrozenAdapter", f"{_ADAPTERS}:FrozenOptions"),
        "head": ("finetune.adapters.shift_and_head:HeadAdapter", f"{_ADAPTERS}:HeadOptions"),
        "lora": ("finetune.adapters.lora:LoraAdapter", f"{_ADAPTERS}:LoraOptions"),
        "shift": ("finetune.adapters.shift_and_head:ShiftAdapter", f"{_ADAPTERS}:ShiftOptions"),
        "readout": ("finetune.adapters.adapter:ReadoutAdapter", f"{_ADAPTERS}:ReadoutOptions"),
    },
)

register_adapter = adapters.register


def adapter_options(value: Any) -> dict[str, Any]:
    """Return the options of an adapter, defaults filled in, from its name or a mapping."""
    if isinstance(value, str):
        value = {"kind": value}
    if not isinstance(value, Mapping):
        raise ValueError("write `adapter: {kind: NAME}`")
    kind = str(value.get("kind", DEFAULT_ADAPTER))
    rest = {key: item for key, item in value.items() if key != "kind"}
    options = _validated(adapters.options(kind), rest, "adapter")
    return {"kind": kind, **options.model_dump(mode="json")}


def adapter_rules(kind: str) -> AdapterRules:
    """Return what a kind of adapter declares of itself.

    The kinds of the package declare it on their options, which import no torch; other kinds on
    the adapter, by ``rules`` and ``training_defaults``.

    Raises:
        RecipeError: For an unknown kind.
    """
    if kind in adapters.builtin:
        own: AdapterRules = adapters.options(kind).rules  # type: ignore[attr-defined]
        return own
    adapter = adapters.get(kind)
    return replace(adapter.rules, training=adapter.training_defaults)


def loss_options(value: Any) -> dict[str, BaseModel]:
    """Return the options of every loss by the recipe's names; raises ValueError."""
    if not isinstance(value, Mapping) or not value:
        raise ValueError("name at least one loss, e.g. `losses: {energy: {weight: 1.0}}`")
    found, faults = {}, []
    for name, given in value.items():
        try:
            found[str(name)] = _loss(str(name), given)
        except (ValueError, RecipeError) as error:
            fault = str(error)
            faults.append(fault if fault.startswith("  ") else f"  losses.{name}: {fault}")
    if faults:
        raise ValueError("\n".join(faults))
    return found


def _loss(name: str, given: Any) -> BaseModel:
    if not re.fullmatch(r"[\w-]+", name):
        raise ValueError("the name of a loss is letters, digits, _ and -")
    if name == PULL:
        raise ValueError(
            "the pull of `train.pull_to_foundation` is recorded under this name already"
        )
    given = {} if given is None else given
    if isinstance(given, LossOptions):
        given = given.model_dump(exclude_unset=True)
    if not isinstance(given, Mapping):
        raise ValueError(f"write `{name}: {{weight: {given}}}` with the weight as a key")
    kind = str(given.get("kind") or name)
    return _validated(losses.options(kind), {**given, "kind": kind}, f"losses.{name}")


def _validated(options: type[BaseModel], given: Mapping[str, Any], within: str) -> BaseModel:
    try:
        return options.model_validate(dict(given))
    except ValidationError as error:
        raise ValueError(lines(error, options, within)) from None
