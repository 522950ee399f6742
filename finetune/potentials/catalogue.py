"""The catalogue of foundation potentials: embedded ones, and published ones to download."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from finetune.core.errors import FoundationError, suggestion
from finetune.core.resources import embedded
from finetune.potentials.downloads import download, download_wheel
from finetune.potentials.family import UNNAMED, families, family
from finetune.potentials.published import ASL, ASL_TERMS, Address, Published, Wheel


@dataclass(frozen=True)
class Entry:
    """A line of the catalogue; ``elements`` are atomic numbers."""

    name: str
    family: str
    elements: tuple[int, ...]
    parameters: int | None
    level_of_theory: str
    size: int | None  # bytes on disk or, before the download, to download
    licence: str
    state: str  # "embedded", "cached" or "to download"
    inputs: frozenset[str] = frozenset()  # which of charge and spin the energy depends on, too


def published() -> dict[str, Published]:
    """Return the published potentials of all families by name."""
    return {entry.name: entry for name in families.names() for entry in _of(name)}


def _of(name: str) -> Iterable[Published]:
    return family(name).published().values()


def names() -> list[str]:
    """Return every name of the catalogue, the embedded ones first."""
    return [*embedded(), *published()]


def entries() -> list[Entry]:
    """Return the complete catalogue."""
    found = []
    for name, folder in embedded().items():
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        kind, metadata = str(config.get("family", UNNAMED)), config["metadata"]
        settings = families.options(kind).model_validate(config["settings"])
        found.append(
            Entry(
                name=name,
                family=family(kind).title,
                elements=settings.elements_known(),  # type: ignore[attr-defined]
                parameters=metadata.get("parameters"),
                level_of_theory=str(metadata.get("level_of_theory", "")),
                size=sum(item.stat().st_size for item in folder.iterdir()),
                licence=str(metadata.get("license", "")),
                state="embedded",
            )
        )
    for kind in families.names():
        for item in _of(kind):
            cached = item.file.is_file()
            found.append(
                Entry(
                    name=item.name,
                    family=family(kind).title,
                    elements=item.elements,
                    parameters=item.parameters,
                    level_of_theory=item.level_of_theory,
                    size=item.file.stat().st_size if cached else item.size,
                    licence=item.licence,
                    state="cached" if cached else "to download",
                    inputs=item.inputs,
                )
            )
    return found


def suggested(name: str) -> str:
    """Return a question with the names that begin like a misspelt one, or the nearest; or ""."""

    def plain(text: str) -> str:
        return "".join(filter(str.isalnum, text.lower()))

    begun = [item for item in names() if plain(name) and plain(item).startswith(plain(name))]
    if not begun:
        return suggestion(name, names())
    listed = ", ".join(f"'{item}'" for item in begun[:MOST_NAMED])
    return f" Did you mean {listed}{', …' if len(begun) > MOST_NAMED else ''}?"


MOST_NAMED = 6
"""Foundations that a message names."""


def covering(elements: Collection[int], inputs: Collection[str] = ()) -> str:
    """Return foundations that know all ``elements``, for a message; empty if none is known.

    ``inputs`` are those of charge and spin that they must read. Those that are here come first,
    then those that are freely licensed.
    """
    found = [
        item
        for item in entries()
        if set(elements) <= set(item.elements) and set(inputs) <= item.inputs
    ]
    found.sort(key=lambda item: (item.state == "to download", item.licence == ASL))
    shown = []
    for item in found[:MOST_NAMED]:
        size = f", {item.size / 1e6:.0f} MB" if item.size else ""
        shown.append(item.name + (f" (--download{size})" if item.state == "to download" else ""))
    return ", ".join(shown) + (", …" if len(found) > MOST_NAMED else "")


def fetch(name: str, accept_licence: bool = False) -> Path:
    """Return the file of a published potential, downloaded unless it is in the cache.

    Raises FoundationError if a licence must be accepted first or the download fails, saying what to
    fetch and where to put it.
    """
    entry = published()[name]
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
                match entry.source:
                    case Address(url):
                        download(url, entry.file, entry.sha256, entry.size)
                    case Wheel():
                        download_wheel(entry.source, entry.sha256, _beside(entry.source))
    except OSError as error:
        raise FoundationError(f"'{entry.file}' cannot be written: {error}.") from error
    return entry.file


def _beside(wheel: Wheel) -> dict[Wheel, str]:
    """Return the other published potentials in the same wheel, and their sha256."""
    return {
        item.source: item.sha256
        for item in published().values()
        if isinstance(item.source, Wheel) and item.sha256 and item.source.same_file(wheel)
    }
