"""The folder of a tuning or a comparison: who works there, and whether it can be continued."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.core import files
from finetune.core.errors import RunFolderError, RunStoppedError
from finetune.core.files import is_unfinished, read_json, write_json
from finetune.core.process import StopSignals
from finetune.core.text import shortened
from finetune.recipe.recipe import Recipe

TUNED, RESULT, TRIALS_TABLE = "tuned.yaml", "result.json", "trials.csv"
STUDY, TRIALS, FOLDS = "study.db", "trials", "folds"


def place(recipe: Recipe, to: str | Path | None, suffix: str) -> Path:
    """Return the folder asked for, or the recipe's output with a suffix."""
    if to is not None:
        folder = files.place(to, files.OTHER_TO)
    else:
        output = files.place(recipe.output)
        folder = output.with_name(f"{output.name}-{suffix}")
    files.refuse_working_folder(folder)
    files.check_free(folder, lambda _: None, suffix)  # what is in it: see `claim`
    return folder


@dataclass(frozen=True)
class Kind:
    """A kind of folder, and a word for it in messages.

    ``mark`` is a JSON file in it with what was asked for, flat; keys in ``free`` may differ when it
    is continued. ``ours`` are other files and folders that it may contain.
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


@contextmanager
def at_work(folder: Path, kind: Kind) -> Iterator[StopSignals]:
    """Work alone in a folder, note signals, and say how to continue after a stop."""
    with files.alone(folder), StopSignals() as signals:
        try:
            yield signals
        except RunStoppedError as error:
            why = f"{signals.received.name}." if signals.received else str(error)
            raise RunStoppedError(
                f"{why} The {kind.what} in '{folder}' continues with the same command.",
                error.exit_code,
            ) from error


def claim(
    folder: Path, kind: Kind, asked: Mapping[str, Any], overwrite: bool, say: Callable[[str], None]
) -> bool:
    """Make the folder, or check that its settings are the same; return whether it is continued.

    ``say`` receives a warning if the versions of packages have changed. Raises RunFolderError if
    the folder has other files, is damaged, or was begun with other settings.
    """
    mark = folder / kind.mark
    held = sorted(item.name for item in folder.iterdir()) if folder.is_dir() else []
    marks = [name for name in held if _is(name, {kind.mark}) and (folder / name).is_file()]
    foreign = [name for name in held if name not in marks and not _is(name, kind.ours)]
    other = next(iter(foreign if marks else held), None)
    files.check_free(folder, lambda _: other, kind.what)
    continued = mark.is_file() and not overwrite
    if continued:
        before, now = _check_same(folder, kind, asked).get("versions"), asked.get("versions")
        if isinstance(before, Mapping) and isinstance(now, Mapping):
            names = [name for name in now if before.get(name) != now[name]]
            if changed := ", ".join(f"{n} {before.get(n)} -> {now[n]}" for n in names):
                say(f"warning: the {kind.what} continues with other versions: {changed}.")
    elif held:
        write_json(mark, {})  # what a kill leaves of the rest is not continued
    for name in held:
        item = folder / name
        if item == mark or (continued and name in kind.ours):
            continue
        if item.is_dir():
            shutil.rmtree(item)
        else:
            item.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    write_json(mark, asked)
    return continued


def _is(name: str, names: Collection[str]) -> bool:
    """Return whether a file has one of the names, or was being written under it at a kill."""
    return name in names or is_unfinished(name, names)


def _check_same(folder: Path, kind: Kind, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is stored in the mark; refuse it if it is different or damaged."""
    path = folder / kind.mark
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
            f"'{folder}' has a {kind.what} with other settings: {listed}. Use the same settings, "
            "choose another folder with --to, or --overwrite it."
        )
    return stored


def _short(value: Any) -> str:
    return shortened("nothing" if value is None else str(value))
