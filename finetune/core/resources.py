"""Where things are: shipped recipes and data, from a checkout or a wheel, and the cache."""

from __future__ import annotations

import os
from pathlib import Path

from finetune.core.errors import RecipeError, suggestion

_PACKAGE = Path(__file__).resolve().parents[1]
_INSTALLED = _PACKAGE / "shipped"


def shipped() -> Path:
    """Return the folder that holds the shipped ``recipes/`` and ``data/``."""
    return _INSTALLED if _INSTALLED.is_dir() else _PACKAGE.parent


def embedded() -> dict[str, Path]:
    """Return the embedded foundation potentials: name -> folder."""
    root = shipped() / "data" / "foundation"
    return {path.parent.name: path.parent for path in sorted(root.glob("*/config.json"))}


def cache(name: str) -> Path:
    """Return the folder in which a program, or this package, keeps what it downloads."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / name


def find(path: str | Path, recipe_folder: Path | None = None) -> Path | None:
    """Return the first existing of ``path``, the same in the recipe's folder, and a shipped file.

    Args:
        path: Absolute, or relative to the working folder, the recipe's or the shipped files.
        recipe_folder: Folder of the file that mentions the path.
    """
    path = expanded(path)
    places = [path]
    if not path.is_absolute():
        if recipe_folder is not None:
            places.append(recipe_folder / path)
        if path.parts and path.parts[0] in {"data", "recipes"}:
            places.append(shipped() / path)
    return next((place for place in places if place.exists()), None)


def expanded(path: str | Path) -> Path:
    """Return the path with a leading ``~`` replaced, where it names a home folder."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def recipes() -> dict[str, Path]:
    """Return the shipped recipes: file name -> path."""
    return {path.name: path for path in sorted((shipped() / "recipes").glob("*.yaml"))}


def recipe(name: str) -> Path:
    """Return a recipe given by path, or by the name of a shipped one; raises RecipeError."""
    found = find(name)
    if found is not None and found.is_file():
        return found
    if found is not None and name.endswith((".yaml", ".yml")):
        raise RecipeError(f"'{name}' is a folder, not a recipe.")
    known = recipes()
    for candidate in (name, f"{name}.yaml"):
        if candidate in known:
            return known[candidate]
    nearest = suggestion(Path(name).name, known)
    raise RecipeError(
        f"no recipe '{name}' here or among the shipped ones.{nearest} Shipped: {', '.join(known)}."
    )
