"""The folder that a run leaves behind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
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
CONTENTS = {RECIPE, ENVIRONMENT, METRICS, REPORT, BUNDLE, ADAPTER, RESULT, CHECKPOINTS}
"""All that a run writes: a folder that holds anything else is never removed."""


def check_free(folder: Path, overwrite: bool) -> None:
    """Refuse a folder that holds something, unless it is a run folder to be overwritten.

    Raises:
        RunFolderError: Saying what stands in the way.
    """
    if not folder.exists() and not folder.is_symlink():
        for parent in folder.parents:
            if parent.exists():
                if not parent.is_dir():
                    raise RunFolderError(f"'{parent}' is a file; '{folder}' cannot be made.")
                break
        return
    if not folder.is_dir():
        raise RunFolderError(f"'{folder}' is a file; choose another output.")
    if not any(folder.iterdir()):
        return
    unfinished = tuple(f".{name}." for name in CONTENTS)  # left by a kill while writing
    strange = sorted(
        item.name
        for item in folder.iterdir()
        if item.name not in CONTENTS and not item.name.startswith(unfinished)
    )
    if strange or not (folder / ENVIRONMENT).is_file():
        named = f" ('{strange[0]}')" if strange else ""
        raise RunFolderError(
            f"'{folder}' holds other files{named} than a run; choose another output."
        )
    if not overwrite:
        raise RunFolderError(
            f"'{folder}' holds an earlier run. Choose another output=FOLDER, or add --overwrite."
        )


def create(folder: Path, recipe: str, environment: Mapping[str, Any]) -> None:
    """Make the folder, empty but for the recipe and the environment.

    Raises:
        RunFolderError: If it cannot be made or written to.
    """
    try:
        if folder.is_dir():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        write_atomically(folder / RECIPE, recipe.encode())
        write_json(folder / ENVIRONMENT, environment)
    except OSError as error:
        raise RunFolderError(f"'{folder}' cannot be written: {error}.") from error


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file whole or not at all."""
    write_atomically(path, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())
