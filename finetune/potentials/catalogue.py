"""Foundation potentials by name: those in the package and those that can be downloaded."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from finetune.core.errors import FoundationError
from finetune.core.resources import shipped
from finetune.potentials.downloads import download
from finetune.potentials.mace.published import ASL, ASL_TERMS, PUBLISHED


@dataclass(frozen=True)
class Entry:
    """A line of the catalogue."""

    name: str
    elements: int  # how many it covers
    level_of_theory: str
    size: int | None  # bytes on disk or, before the download, of the file
    licence: str
    state: str  # "embedded", "cached" or "to download"


def embedded() -> dict[str, Path]:
    """Return the embedded foundation potentials: name -> folder."""
    root = shipped() / "data" / "foundation"
    return {path.parent.name: path.parent for path in sorted(root.glob("*/config.json"))}


def names() -> list[str]:
    """Return every name of the catalogue, the embedded ones first."""
    return [*embedded(), *PUBLISHED]


def entries() -> list[Entry]:
    """Return the whole catalogue."""
    size: int | None
    found = []
    for name, folder in embedded().items():
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        elements, metadata = len(config["settings"]["atomic_numbers"]), config["metadata"]
        level, licence = (str(metadata.get(key, "")) for key in ("level_of_theory", "license"))
        size = sum(item.stat().st_size for item in folder.iterdir())
        found.append(Entry(name, elements, level, size, licence, "embedded"))
    for item in PUBLISHED.values():
        cached = item.file.is_file()
        size = item.file.stat().st_size if cached else item.size
        state = "cached" if cached else "to download"
        facts = (item.name, item.elements, item.level_of_theory, size, item.licence, state)
        found.append(Entry(*facts))
    return found


def fetch(name: str, accept_licence: bool = False) -> Path:
    """Return the file of a published model, downloaded unless it is in MACE's cache.

    Raises FoundationError if a licence must be accepted first or the download fails, saying what to
    fetch and where to put it.
    """
    entry = PUBLISHED[name]
    if entry.file.is_file():
        return entry.file
    if entry.licence == ASL and not accept_licence:
        raise FoundationError(
            f"'{name}' is under the Academic Software License, which does not permit commercial "
            f"use: {ASL_TERMS}. To accept it and download the model: "
            f"piwsl-finetune foundations {name} --accept-licence"
        )
    try:
        entry.file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(entry.file.with_name(f"{entry.file.name}.lock")):
            if not entry.file.is_file():  # another process may have been faster
                download(entry.url, entry.file, entry.sha256, entry.size)
    except OSError as error:
        raise FoundationError(f"'{entry.file}' cannot be written: {error}.") from error
    return entry.file
