"""The folder of a tuning: whose it is, and what may go on in it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetune import run_folder
from finetune.errors import RunFolderError
from finetune.recipe import Recipe
from finetune.resources import expanded

TUNED, RESULT, TRIALS_TABLE = "tuned.yaml", "result.json", "trials.csv"
STUDY, TRIALS = "study.db", "trials"


def place(recipe: Recipe, to: str | Path | None, suffix: str) -> Path:
    """Return the folder asked for, or the one beside the recipe's output with a suffix."""
    if to is not None:
        return expanded(to)
    output = run_folder.place(recipe.output)
    return output.with_name(f"{output.name}-{suffix}")


def claim(
    folder: Path, mark: str, what: str, asked: Mapping[str, Any], overwrite: bool, free: str = ""
) -> bool:
    """Make the folder, or see that what it holds was asked for alike; return whether it goes on.

    Args:
        folder: The folder.
        mark: Name of the JSON file in it that holds what was asked for.
        what: A word for it in messages: ``tuning``.
        asked: What is asked for now, flat.
        overwrite: Whether to remove what such a folder holds.
        free: A key of ``asked`` that may differ.

    Raises:
        RunFolderError: If the folder holds something else, is damaged, or was asked for otherwise.
    """
    path = folder / mark
    if folder.is_dir() and any(folder.iterdir()) and not path.is_file():
        raise RunFolderError(
            f"'{folder}' holds other files than a {what}; choose another folder with --to."
        )
    if path.is_file() and not overwrite:
        _check_same(folder, path, what, asked, free)
        run_folder.write_json(path, asked)
        return True
    if path.is_file():
        if Path.cwd().is_relative_to(folder.resolve()):
            raise RunFolderError(f"'{folder}' is the working folder; choose another with --to.")
        path.rename(folder.parent / f".{folder.name}.{mark}")
        shutil.rmtree(folder)
        (folder.parent / f".{folder.name}.{mark}").unlink()
    folder.mkdir(parents=True, exist_ok=True)
    run_folder.write_json(path, asked)
    return False


def _check_same(folder: Path, path: Path, what: str, asked: Mapping[str, Any], free: str) -> None:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        keys = [key for key in dict.fromkeys((*stored, *asked)) if key != free]
        different = [key for key in keys if stored.get(key) != asked.get(key)]
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise RunFolderError(
            f"'{path}' is damaged ({error}). Choose another folder with --to, or --overwrite."
        ) from error
    if different:
        listed = ", ".join(
            f"{key} (there {_short(stored.get(key))}, now {_short(asked.get(key))})"
            for key in different[:5]
        )
        raise RunFolderError(
            f"'{folder}' holds a {what} that was begun otherwise: {listed}. Ask for the same, "
            "choose another folder with --to, or --overwrite it."
        )


def _short(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:39]}…"
