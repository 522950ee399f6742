"""A recipe that finds its files wherever it is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from finetune.core.errors import DataError
from finetune.core.resources import expanded, find, shipped
from finetune.data.sources import find_files
from finetune.potentials.catalogue import names
from finetune.recipe.recipe import Recipe


def moved(recipe: Recipe, beside: Path | None) -> dict[str, Any]:
    """Return a recipe as a mapping, its relative names made absolute.

    Files of the working folder and of the folder ``beside`` are found from anywhere; names of
    shipped files and of catalogued foundations stay as they are.
    """
    content = recipe.written()
    data = content["data"]
    for key in ("train", "valid", "test", "unlabelled"):
        if isinstance(data[key], str):
            data[key] = _source(data[key], beside)
        elif isinstance(data[key], list):
            data[key] = [_source(item, beside) for item in data[key]]
    content["foundation"] = _foundation(content["foundation"], beside)
    return content


def _foundation(name: str, beside: Path | None) -> str:
    found = None if name in names() else find(name, beside)
    if found is None or expanded(name).is_absolute() or found.resolve() == _as_shipped(name):
        return name
    return str(found.absolute())


def _source(source: str, beside: Path | None) -> str:
    if expanded(source).is_absolute():
        return source
    for folder in (Path.cwd(), *([beside.resolve()] if beside else [])):
        path = folder / source
        try:
            find_files(str(path))
        except DataError:
            continue
        return source if path.resolve() == _as_shipped(source) else str(path)
    try:
        find_files(source)
    except DataError:
        return str((beside or Path()).resolve() / source)
    return source


def _as_shipped(name: str) -> Path | None:
    """Return where a name leads that is looked for among the shipped files, too."""
    parts = Path(name).parts
    return (shipped() / name).resolve() if parts and parts[0] in {"data", "recipes"} else None
