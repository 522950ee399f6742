"""The folder of a tuning: whose it is, and what may go on in it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.core import output_folder
from finetune.core.errors import RunFolderError
from finetune.core.files import read_json, write_json
from finetune.core.output_folder import is_unfinished
from finetune.core.resources import expanded
from finetune.core.text import shortened
from finetune.recipe.recipe import Recipe

TUNED, RESULT, TRIALS_TABLE = "tuned.yaml", "result.json", "trials.csv"
STUDY, TRIALS, FOLDS = "study.db", "trials", "folds"


def place(recipe: Recipe, to: str | Path | None, suffix: str) -> Path:
    """Return the folder asked for, or the one beside the recipe's output with a suffix.

    Raises:
        RunFolderError: If no folder can be there.
    """
    if to is not None:
        folder = expanded(to)
    else:
        output = output_folder.place(recipe.output)
        folder = output.with_name(f"{output.name}-{suffix}")
    try:
        here = folder.resolve()
    except (OSError, RuntimeError):  # before Python 3.13 the latter
        raise RunFolderError(
            f"'{folder}' cannot be followed: a symbolic link in it leads back to itself. Name "
            "another folder with --to."
        ) from None
    if Path.cwd().is_relative_to(here):
        raise RunFolderError(f"'{folder}' is or holds the working folder; name another with --to.")
    held = next((item for item in (folder, *folder.parents) if item.exists()), folder)
    if held.exists() and not held.is_dir():
        what = "" if held == folder else f", so that '{folder}' cannot be made"
        raise RunFolderError(f"'{held}' is a file{what}; name another folder with --to.")
    return folder


@dataclass(frozen=True)
class Kind:
    """A kind of folder.

    Attributes:
        what: A word for it in messages.
        mark: JSON file in it that holds what was asked for, flat.
        ours: Other files and folders that it may hold.
        free: Keys of what was asked for that may differ when it is gone on with.
    """

    what: str
    mark: str
    ours: frozenset[str]
    free: frozenset[str]


TUNING = Kind(
    "tuning",
    "tuning.json",
    frozenset({TUNED, RESULT, TRIALS_TABLE, STUDY, f"{STUDY}-journal", TRIALS, FOLDS}),
    frozenset({"versions"}),
)


def claim(
    folder: Path,
    kind: Kind,
    asked: Mapping[str, Any],
    overwrite: bool,
    say: Callable[[str], None],
) -> bool:
    """Make the folder, or see that what it holds was asked for alike; return whether it goes on.

    Args:
        folder: The folder.
        kind: What it is to hold.
        asked: What is asked for now, flat.
        overwrite: Whether to remove what such a folder holds.
        say: Told of other versions than it was worked on with before.

    Raises:
        RunFolderError: If the folder holds something else, is damaged, or was asked for otherwise.
    """
    mark = folder / kind.mark
    held = sorted(item.name for item in folder.iterdir()) if folder.is_dir() else []
    marks = [name for name in held if _is(name, {kind.mark}) and (folder / name).is_file()]
    strange = [name for name in held if name not in marks and not _is(name, kind.ours)]
    if strange or (held and not marks):
        raise RunFolderError(
            f"'{folder}' holds other files ('{(strange or held)[0]}') than a {kind.what}; choose "
            "another folder with --to."
        )
    goes_on = mark.is_file() and not overwrite
    if goes_on:
        stored = _check_same(folder, mark, kind, asked)
        _tell_versions(kind, stored.get("versions"), asked.get("versions"), say)
    elif held:
        write_json(mark, {})  # what a kill leaves of the rest is not gone on with
    for name in held:
        item = folder / name
        if item == mark or (goes_on and name in kind.ours):
            continue
        if item.is_dir():
            shutil.rmtree(item)
        else:
            item.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    write_json(mark, asked)
    return goes_on


def _is(name: str, names: Collection[str]) -> bool:
    """Return whether a file has one of the names, or is what a kill in its writing left of it."""
    return name in names or is_unfinished(name, names)


def _tell_versions(kind: Kind, before: Any, now: Any, say: Callable[[str], None]) -> None:
    if not isinstance(before, Mapping) or not isinstance(now, Mapping):
        return
    changed = [name for name in now if before.get(name) != now[name]]
    if changed:
        told = ", ".join(f"{name} {before.get(name)} -> {now[name]}" for name in changed)
        say(f"warning: the {kind.what} goes on with other versions: {told}.")


def _check_same(folder: Path, path: Path, kind: Kind, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is stored in the mark.

    Raises:
        RunFolderError: If that was asked for otherwise, or is damaged.
    """
    try:
        stored = read_json(path)
    except (OSError, ValueError) as error:
        raise RunFolderError(
            f"'{path}' is damaged ({error}). Choose another folder with --to, or --overwrite."
        ) from error
    keys = [key for key in dict.fromkeys((*stored, *asked)) if key not in kind.free]
    different = [key for key in keys if stored.get(key) != asked.get(key)]
    if different:
        listed = ", ".join(
            f"{key} (there {_short(stored.get(key))}, now {_short(asked.get(key))})"
            for key in different[:5]
        )
        raise RunFolderError(
            f"'{folder}' holds a {kind.what} that was begun otherwise: {listed}. Ask for the same, "
            "choose another folder with --to, or --overwrite it."
        )
    return stored


def _short(value: Any) -> str:
    return shortened("nothing" if value is None else str(value))
