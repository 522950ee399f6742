"""The files that a name, a folder or a pattern stands for, and the structures that ``@`` picks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from glob import glob, has_magic
from itertools import islice
from pathlib import Path

from ase.io.formats import string2index

from finetune.core.errors import DataError
from finetune.core.resources import expanded, find, shipped
from finetune.data.formats.frames import PACKED, File, Frame

_KINDS = {
    *(".xsf", ".xyz", ".extxyz", ".traj", ".db", ".npz", ".h5", ".hdf5"),
    *(".out", ".log", ".pwo", ".xml", ".cif"),
}


def find_files(source: str, beside: Path | None = None) -> tuple[list[File], list[str]]:
    """Return the files that a source names, and notes on files of a folder that are not read.

    A source is a file, a folder of files of one kind, or a pattern such as ``set-*/part?.xyz``;
    ``@`` and an index expression may follow. Relative paths are looked up in the recipe's folder
    ``beside``, too. Refuses a source that names no file.
    """
    name, at, index = source.rpartition("@")
    if not at or find(source, beside) is not None:
        name, index = source, ":"
    path = find(name, beside)
    if path is not None and path.is_file():
        return [File(path, source, index)], []
    if path is not None and path.is_dir():
        return _in_folder(path, index)
    if has_magic(name):
        return [File(found, str(found), index) for found in _matching(name, beside)], []
    places = dict.fromkeys((Path.cwd(), beside.resolve() if beside else Path.cwd()))
    folders = ", ".join(str(place) for place in places)
    raise DataError(f"no structure file '{name}' (looked in {folders}).")


def _in_folder(folder: Path, index: str) -> tuple[list[File], list[str]]:
    paths = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    kinds = Counter(kind for path in paths if (kind := _kind(path)) in _KINDS)
    if not kinds:
        raise DataError(
            f"the folder '{folder}' contains no file with a suffix of a structure file. Name the "
            f"files with a pattern, e.g. '{folder}/*'."
        )
    if len(kinds) > 1:
        listed = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        raise DataError(
            f"the folder '{folder}' contains files of several kinds ({listed}). Name those that "
            f"you mean with a pattern, e.g. '{folder}/*{sorted(kinds)[0]}'."
        )
    (kind,) = kinds
    others = [path.name for path in paths if _kind(path) != kind]
    notes = [f"'{folder}': {len(others)} other files ({', '.join(others[:5])})"] if others else []
    return [File(p, str(p), index) for p in paths if _kind(p) == kind], notes


def _kind(path: Path) -> str:
    suffixes = [suffix for suffix in path.suffixes if suffix not in PACKED]
    return suffixes[-1].lower() if suffixes else ""


def _matching(pattern: str, beside: Path | None) -> list[Path]:
    path = expanded(pattern)
    roots = [Path()]
    if not path.is_absolute():
        roots += [beside] if beside is not None else []
        roots += [shipped()] if path.parts[0] in {"data", "recipes"} else []
    for root in roots:
        found = sorted(Path(name) for name in glob(str(root / path), recursive=True))
        files = [name for name in found if name.is_file()]
        if files:
            return files
    raise DataError(f"no structure file matches '{pattern}'.")


def select(stream: Iterator[Frame], file: File) -> Iterator[Frame]:
    """Keep the structures that a file's index expression names, reading no further than needed."""
    try:
        chosen = string2index(file.index)
    except (TypeError, ValueError):
        chosen = file.index
    if isinstance(chosen, str):
        raise DataError(
            f"'{file.name}': '{file.index}' is not an index expression; write FILE@5, FILE@:50 or "
            "FILE@-10:."
        )
    if isinstance(chosen, int):
        chosen = slice(chosen, chosen + 1 or None)
    if chosen.step == 0:
        raise DataError(f"'{file.name}': the step of '{file.index}' is zero.")
    parts = (chosen.start, chosen.stop, chosen.step)
    if all(part is None or part >= 0 for part in parts):
        yield from islice(stream, *parts)
    else:
        yield from list(stream)[chosen]
