"""Recipe files and dotted overrides of them, as plain mappings. Wraps OmegaConf."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError, YAMLError

from finetune.core.errors import RecipeError, reason, suggestion
from finetune.recipe.adapter_options import DEFAULT_ADAPTER
from finetune.recipe.optimisers import suited

Reset = Callable[[Any, Any], Any]
"""Given a recipe and its overrides, returns the recipe without what they make void."""


def read_yaml(path: str | Path, hint: str = "") -> Any:
    """Return the mapping in a YAML file, interpolations not yet resolved.

    Args:
        path: The file.
        hint: What to do where there is none.

    Raises:
        RecipeError: If there is no file, no YAML or no mapping.
    """
    if not Path(path).is_file():
        raise RecipeError(f"no recipe at '{path}'.{hint}")
    try:
        loaded = OmegaConf.load(path)
    except (YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise RecipeError(f"'{path}' is not valid YAML: {error}") from error
    if not OmegaConf.is_dict(loaded):
        raise RecipeError(f"'{path}' must hold a mapping of recipe keys at its top level")
    return loaded


def overridden(
    mapping: Any,
    overrides: Sequence[str],
    where: str,
    reset: Reset,
    options: Mapping[str, Any] | None = None,
) -> Any:
    """Return a recipe as a plain mapping, dotted overrides applied and interpolations resolved.

    Args:
        mapping: The recipe, or an OmegaConf config.
        overrides: ``key.sub=value``; a value is YAML.
        where: What the recipe is called in messages.
        reset: Called before the overrides are merged in.
        options: A mapping that takes precedence over the overrides.

    Raises:
        RecipeError: Naming the override, or the key of the recipe, that cannot be read.
    """
    if isinstance(overrides, str):
        raise RecipeError(f"overrides are a list of strings: ['{overrides}']")
    changes: Any = OmegaConf.create({})
    for override in map(str, overrides):
        change = _change(override)
        _check_fits(mapping, change, override)
        changes = OmegaConf.merge(changes, change)
    try:
        changes = OmegaConf.merge(changes, options or {})
        merged = OmegaConf.merge(reset(OmegaConf.create(mapping), changes), changes)
        return OmegaConf.to_container(merged, resolve=True, throw_on_missing=True)
    except (YAMLError, OmegaConfBaseException, TypeError, ValueError) as error:
        raise RecipeError(f"{where} cannot be read: {_explained(error)}") from error


def read_values(text: str, where: str) -> tuple[Any, ...]:
    """Return the values in ``VALUE,VALUE…``, each of them YAML.

    Args:
        text: The values; commas within ``[…]`` and ``{…}`` do not part them.
        where: What they are called in messages.

    Raises:
        RecipeError: If they cannot be read.
    """
    try:
        found: Any = OmegaConf.to_container(OmegaConf.create(f"values: [{text}]"))
        return tuple(found["values"])
    except (YAMLError, OmegaConfBaseException) as error:
        raise RecipeError(f"{where} cannot be read: {_explained(error)}") from error


def _change(override: str) -> Any:
    key, equals, _ = override.partition("=")
    if not equals or not all(part.strip() for part in key.split(".")):
        raise RecipeError(f"override '{override}' must read key.sub=value")
    try:
        return OmegaConf.from_dotlist([override])
    except YAMLError as error:
        raise RecipeError(
            f"override '{override}' cannot be read: {_explained(error)}. Values are YAML: close "
            "brackets and quotes, and quote text with special characters."
        ) from error
    except (OmegaConfBaseException, TypeError, ValueError) as error:
        raise RecipeError(f"override '{override}' cannot be read: {_explained(error)}") from error


def _check_fits(mapping: Any, change: Any, override: str) -> None:
    """Refuse a list in the place of a mapping, or the other way round."""
    try:
        OmegaConf.merge(mapping, change)
    except (OmegaConfBaseException, TypeError, ValueError) as error:
        if "incompatible container" in str(error):
            raise RecipeError(
                f"override '{override}' does not fit: the recipe has a "
                f"{'mapping' if '[' in override else 'list'} there."
            ) from error


def _explained(error: Exception) -> str:
    """Return the reason without the traces of the libraries."""
    if isinstance(error, MarkedYAMLError) and error.problem:
        return error.problem
    found = reason(error)
    key = getattr(error, "full_key", None)
    return f"{key}: {found}" if key and key not in found else found


def reset_for_overrides(recipe: Any, changes: Any) -> Any:
    """Return a recipe without the options that its overrides make void; raises RecipeError."""
    _check_stage_names(recipe, changes)
    parts = ["", *(f"stages.{name}." for name in changes.get("stages") or ())]
    for part in parts:
        _drop_former_adapter(recipe, changes, f"{part}adapter")
        _drop_former_optimiser(recipe, changes, f"{part}train")
    return recipe


def _drop_former_adapter(recipe: Any, changes: Any, place: str) -> None:
    """Remove the options of an adapter whose kind the overrides change."""
    before, after = OmegaConf.select(recipe, place), OmegaConf.select(changes, place)
    kind = after.get("kind") if OmegaConf.is_dict(after) else after
    if OmegaConf.is_dict(before) and kind and kind != before.get("kind", DEFAULT_ADAPTER):
        OmegaConf.update(recipe, place, {}, merge=False)


def _drop_former_optimiser(recipe: Any, changes: Any, place: str) -> None:
    """Remove the keys of an optimiser that the overrides replace."""
    before = OmegaConf.select(recipe, place)
    if OmegaConf.is_dict(before):
        content: Any = OmegaConf.to_container(before)
        kept = suited(content, OmegaConf.select(changes, f"{place}.optimiser"))
        for key in content.keys() - kept.keys():
            before.pop(key)


def _check_stage_names(recipe: Any, changes: Any) -> None:
    """Refuse overrides of stages that the recipe does not have."""
    stages = list(recipe.get("stages") or ())
    for name in changes.get("stages") or ():
        if name not in stages:
            raise RecipeError(
                f"stages.{name}: the recipe has no such stage.{suggestion(name, stages)} "
                f"It has: {', '.join(stages) or 'none'}."
            )
