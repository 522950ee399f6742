"""The folder in which a calculator that works with files does so."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

KEPT = 10_000_000
"""Bytes; larger files of a failed calculation (orbitals, densities) are not kept."""


def empty(folder: Path) -> None:
    """Remove what the calculation before left, so that nothing of it is taken for a new answer."""
    if not folder.is_dir():
        return
    for item in folder.iterdir():
        if item.is_dir() and not item.is_symlink():
            shutil.rmtree(item, ignore_errors=True)
        else:
            item.unlink(missing_ok=True)


def keep(folder: Path, place: Path) -> bool:
    """Copy what a failed calculation left to another folder; whether there is anything."""
    if not folder.is_dir() or not any(folder.iterdir()):
        return False
    with suppress(OSError):  # the disk may be what failed
        shutil.copytree(folder, place, symlinks=True, ignore=_large, dirs_exist_ok=True)
    return place.is_dir()


def _large(folder: str, names: Sequence[str]) -> list[str]:
    paths = [os.path.join(folder, name) for name in names]
    return [
        name
        for name, path in zip(names, paths, strict=True)
        if os.path.isfile(path) and os.path.getsize(path) > KEPT
    ]
