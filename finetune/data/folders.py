"""Folders and archives of structure files: which of their files are read."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path, PurePath
from tempfile import TemporaryDirectory

from finetune.core.errors import DataError
from finetune.data import archives
from finetune.data.formats.deepmd import TYPES
from finetune.data.formats.frames import PACKED, File

_KINDS = (
    {
        *(".xsf", ".xyz", ".extxyz", ".traj", ".db", ".npz", ".h5", ".hdf5"),
        *(".out", ".log", ".pwo", ".xml", ".cif", ".aselmdb"),
    },
    {".json", ".jsonl", ".cfg", ".dump", ".lammpstrj", *archives.SUFFIXES},
)
"""Suffixes of structure files; those of the second group count where there are none of the first,
as other files have them too."""
_INDEX = re.compile(r"[-\d:]*")


def in_folder(folder: Path, index: str) -> tuple[list[File], list[str]]:
    """Return the structure files of one kind in a folder, and a note on the others.

    A folder without such files, but with systems of DeePMD-kit somewhere within, stands for these.
    Refuses files of several kinds, and none.
    """
    paths = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    if not any(_kind(path) in kinds for path in paths for kinds in _KINDS) and (
        systems := sorted(folder.rglob(TYPES))
    ):
        return [File(path, str(path.parent), index) for path in systems], []
    chosen, notes = _one_kind(paths, f"the folder '{folder}'", f"{folder}/*")
    return [File(Path(path), str(path), index) for path in chosen], notes


def unpacked(file: File, notes: list[str]) -> Iterator[File]:
    """Yield the file, or, if it is packed, one member after the other from a temporary folder.

    Of an archive, those members are read that a pattern after ``@`` matches (``set.zip@*.xyz``), or
    those of one kind, as of a folder; ``notes`` say which are not. A member lasts until the next
    one is asked for. Refuses hostile archives (`archives.entries`).
    """
    if not archives.is_packed(file.path):
        yield file
        return
    name = file.name.removesuffix(f"@{file.index}")
    by_index = _INDEX.fullmatch(file.index)
    members = [file.path.stem]
    if archives.is_archive(file.path):
        inside = {PurePath(item): item for item, *_ in archives.entries(file.path, name)}
        shown = [p for p in inside if not p.name.startswith(".") and "__MACOSX" not in p.parts]
        if by_index:
            chosen, others = _one_kind(shown, f"the archive '{name}'", f"{name}@*")
            notes += others
        else:
            chosen = [path for path in shown if fnmatch(str(path), file.index)]
        members = [inside[path] for path in chosen]
    if not members:
        raise DataError(f"no file in the archive '{name}' matches '{file.index}'.")
    for member, opened in archives.contents(file.path, name, set(members)):
        with TemporaryDirectory(prefix="structures-") as folder:
            path = Path(folder) / PurePath(member).name
            archives.copy(opened, path, file.path, name)
            if File(path, str(path)).is_store or archives.is_archive(path):
                raise DataError(
                    f"'{name}' has '{member}' in it: stores, and archives within archives, are not "
                    "read from an archive. Unpack it first."
                )
            inner = File(path, f"{name}/{member}", file.index if by_index else ":")
            yield from unpacked(inner, notes)


def _one_kind(
    paths: Sequence[PurePath], where: str, pattern: str
) -> tuple[list[PurePath], list[str]]:
    """Return the paths with a suffix of structure files, and a note on the others.

    Refuses several such suffixes; ``pattern`` says how files are named that are meant.
    """
    counts = (Counter(kind for p in paths if (kind := _kind(p)) in kinds) for kinds in _KINDS)
    kinds = next((found for found in counts if found), None)
    if not kinds:
        raise DataError(
            f"{where} contains no file with a suffix of a structure file. Name the files with "
            f"a pattern, e.g. '{pattern}'."
        )
    if len(kinds) > 1:
        listed = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        raise DataError(
            f"{where} contains files of several kinds ({listed}). Name those that you mean "
            f"with a pattern, e.g. '{pattern}{sorted(kinds)[0]}'."
        )
    (kind,) = kinds
    others = [path.name for path in paths if _kind(path) != kind]
    listed = ", ".join(others[:5])
    notes = [f"{where}: {len(others)} other files ({listed})"] if others else []
    return [path for path in paths if _kind(path) == kind], notes


def _kind(path: PurePath) -> str:
    suffixes = [suffix for suffix in path.suffixes if suffix not in PACKED]
    return suffixes[-1].lower() if suffixes else ""
