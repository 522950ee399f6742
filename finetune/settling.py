"""What overrides make void in a recipe: options of another adapter or optimiser."""

from __future__ import annotations

from typing import Any

from omegaconf import OmegaConf

from finetune.errors import RecipeError, suggestion
from finetune.optimisers import suited


def settled(recipe: Any, changes: Any) -> Any:
    """Return a recipe that is ready for overrides.

    Raises:
        RecipeError: If they name stages that it does not have.
    """
    _check_stage_names(recipe, changes)
    parts = ["", *(f"stages.{name}." for name in changes.get("stages") or ())]
    for part in parts:
        _drop_former_adapter(recipe, changes, f"{part}adapter")
        _drop_former_optimiser(recipe, changes, f"{part}train")
    return recipe


def _drop_former_adapter(recipe: Any, changes: Any, place: str) -> None:
    """Take the options of an adapter out whose kind the overrides change."""
    before, after = OmegaConf.select(recipe, place), OmegaConf.select(changes, place)
    kind = after.get("kind") if OmegaConf.is_dict(after) else after
    if OmegaConf.is_dict(before) and kind and kind != before.get("kind", "full"):
        OmegaConf.update(recipe, place, {}, merge=False)


def _drop_former_optimiser(recipe: Any, changes: Any, place: str) -> None:
    """Take the keys out that belong to an optimiser which the overrides change."""
    before = OmegaConf.select(recipe, place)
    if OmegaConf.is_dict(before):
        content: Any = OmegaConf.to_container(before)
        kept = suited(content, OmegaConf.select(changes, f"{place}.optimiser"))
        for key in content.keys() - kept.keys():
            before.pop(key)


def _check_stage_names(recipe: Any, changes: Any) -> None:
    """Refuse overrides of stages that the recipe does not have.

    Raises:
        RecipeError: Naming the stages that are there.
    """
    stages = list(recipe.get("stages") or ())
    for name in changes.get("stages") or ():
        if name not in stages:
            raise RecipeError(
                f"stages.{name}: the recipe has no such stage.{suggestion(name, stages)} "
                f"It has: {', '.join(stages) or 'none'}."
            )
