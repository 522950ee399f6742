"""The folder that a test of a potential writes to: which one, and what may lie there already."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from finetune.core import run_files
from finetune.core.errors import RunFolderError
from finetune.core.files import check_free


def folder_for(path: str | Path, to: str | Path | None, kind: str) -> Path:
    """Return the folder to write to: ``to``, else ``kind`` in the run folder ``path``."""
    if to is None and not (Path(path) / run_files.RECIPE).is_file():
        raise RunFolderError(f"'{path}' is not a run folder. Name a folder to write to with --to.")
    folder = Path(path) / kind if to is None else Path(to)
    if (folder / run_files.RECIPE).is_file():
        raise RunFolderError(f"'{folder}' is a run folder; choose another --to, '{folder / kind}'.")
    return folder


def check_folder(
    folder: Path, ours: re.Pattern[str], what: str = "test", only_ours: bool = False
) -> None:
    """Refuse a folder that cannot be written, or of other files than a test writes (``ours``).

    ``only_ours`` refuses a single other file; else files of the test may be among them.
    """

    def foreign(folder: Path) -> str | None:
        names = _names(folder)
        other = [name for name in names if not ours.fullmatch(Path(name).name)]
        return other[0] if other and (only_ours or len(other) == len(names)) else None

    check_free(folder, foreign, what)


def clear_folder(folder: Path, ours: re.Pattern[str]) -> None:
    """Remove an earlier test, if there is one; refuse a folder with any other file."""
    check_folder(folder, ours, only_ours=True)
    if _names(folder):
        shutil.rmtree(folder)


def _names(folder: Path) -> list[str]:
    """Return the relative names of files, and of whatever lies deeper than a test writes."""
    top = [item for item in folder.glob("*") if not item.is_dir()]
    return sorted(str(item.relative_to(folder)) for item in (*top, *folder.glob("*/*")))
