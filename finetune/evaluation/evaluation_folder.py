"""The folder that an evaluation is written to."""

from __future__ import annotations

from pathlib import Path

from finetune.errors import RunFolderError, system_errors
from finetune.files import check_writable, is_unfinished, remove_unfinished

JSON, STATISTICS, STRUCTURES, PARITY, CALIBRATION = (
    "evaluation.json",
    "statistics.csv",
    "structures.csv",
    "parity.png",
    "calibration.png",
)
FILES = (JSON, STATISTICS, STRUCTURES, PARITY, CALIBRATION)


@system_errors()
def check_folder(folder: Path) -> None:
    """Refuse a folder that holds anything but an earlier evaluation, which may be replaced.

    Raises:
        RunFolderError: Naming what is in the way.
    """
    if folder.exists() and not folder.is_dir():
        raise RunFolderError(f"'{folder}' is a file; name a folder.")
    names = sorted(item.name for item in folder.iterdir()) if folder.exists() else []
    known = set(FILES) if JSON in names else set()
    strange = [name for name in names if name not in known and not is_unfinished(name, FILES)]
    if strange:
        raise RunFolderError(
            f"'{folder}' holds other files ('{strange[0]}') than an evaluation; choose another "
            "--to."
        )
    check_writable(folder)


def clear_folder(folder: Path) -> None:
    """Remove what an earlier evaluation, whole or killed, left beside its JSON."""
    for name in FILES:
        if name != JSON:
            (folder / name).unlink(missing_ok=True)
    remove_unfinished(folder, FILES)
