"""A recipe that finds its files wherever it is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from finetune.data.sources import find_files
from finetune.errors import DataError
from finetune.recipe import Recipe
from finetune.resources import find


def moved(recipe: Recipe, beside: Path | None) -> dict[str, Any]:
    """Return a recipe as a mapping, names relative to the folder ``beside`` made absolute."""
    content = recipe.written()
    if beside is None:
        return content
    data = content["data"]
    for key in ("train", "valid", "test", "unlabelled"):
        if isinstance(data[key], str):
            data[key] = _source(data[key], beside)
        elif isinstance(data[key], list):
            data[key] = [_source(item, beside) for item in data[key]]
    name = content["foundation"]
    if find(name) is None and find(name, beside) is not None:
        content["foundation"] = str((beside / name).resolve())
    return content


def _source(source: str, beside: Path) -> str:
    try:
        find_files(source)
    except DataError:
        return str(beside.resolve() / source)
    return source
