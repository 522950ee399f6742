"""The folder that a run leaves behind."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from finetune.errors import RunFolderError
from finetune.files import write_atomically

RECIPE, ENVIRONMENT, METRICS, REPORT = (
    "recipe.yaml",
    "environment.json",
    "metrics.jsonl",
    "report.html",
)
BUNDLE, ADAPTER, RESULT = "model", "adapter", "result.json"
CHECKPOINTS = "checkpoints"
_FOLDERS = {BUNDLE, ADAPTER, CHECKPOINTS, "best"}
_FILES = {
    *(RECIPE, ENVIRONMENT, METRICS, REPORT, RESULT),
    *("config.json", "model.safetensors", "state.json", "adapter.safetensors"),
    *("adapter_config.json", "adapter_model.safetensors"),
}
"""All that a run writes: a folder that holds anything else is never replaced."""


def check_free(folder: Path, overwrite: bool) -> None:
    """Refuse a folder that holds something, unless it is a run folder to be replaced.

    Raises:
        RunFolderError: Saying what stands in the way.
    """
    if not folder.exists() and not folder.is_symlink():
        existing = next((parent for parent in folder.parents if parent.exists()), None)
        if existing is not None and not existing.is_dir():
            raise RunFolderError(f"'{existing}' is a file; '{folder}' cannot be made.")
        return
    if not folder.is_dir():
        raise RunFolderError(f"'{folder}' is a file; choose another output.")
    if not any(folder.iterdir()):
        return
    strange = _strange(folder)
    if strange or not (folder / ENVIRONMENT).is_file():
        named = f" ('{strange[0]}')" if strange else ""
        raise RunFolderError(
            f"'{folder}' holds other files{named} than a run; choose another output."
        )
    if Path.cwd().is_relative_to(folder.resolve()):
        raise RunFolderError(f"'{folder}' is the working folder; choose another output.")
    if not overwrite:
        raise RunFolderError(
            f"'{folder}' holds an earlier run. Choose another output=FOLDER, or add --overwrite."
        )


def _strange(folder: Path) -> list[str]:
    """Return the relative names of what no run has written, sorted."""
    unfinished = tuple(f".{name}." for name in _FILES)  # left by a kill while writing
    return sorted(
        str(item.relative_to(folder))
        for item in folder.rglob("*")
        if item.name not in (_FOLDERS if item.is_dir() else _FILES)
        and not item.name.startswith(unfinished)
    )


@contextmanager
def replacing(folder: Path, recipe: str, environment: Mapping[str, Any]) -> Iterator[None]:
    """Make the run folder for the time of a run, an earlier run set aside until it is done.

    If the run fails, the earlier one is put back; what a failed run without a predecessor has
    written stays, for its checkpoints.

    Raises:
        RunFolderError: If the folder cannot be made or written to.
    """
    aside = folder.parent / f".{folder.name}.earlier-{os.getpid()}"
    earlier = folder.is_dir() and any(folder.iterdir())
    try:
        if earlier:
            folder.rename(aside)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / RECIPE, recipe.encode())
        write_json(folder / ENVIRONMENT, environment)
    except OSError as error:
        raise RunFolderError(f"'{folder}' cannot be written: {error}.") from error
    try:
        yield
    except BaseException:
        if earlier:
            shutil.rmtree(folder)
            aside.rename(folder)
        raise
    if earlier:
        shutil.rmtree(aside)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file whole or not at all."""
    write_atomically(path, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())
