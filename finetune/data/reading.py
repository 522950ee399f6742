"""Read labelled structures from files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import ase.io
from ase import Atoms
from ase.io.formats import string2index

from finetune.data.labels import Structure, check_keys, from_atoms
from finetune.data.sequences import Joined, LazySequence
from finetune.data.store import Store, StoreWriter
from finetune.errors import DataError, system_errors
from finetune.recipe import LabelKeys
from finetune.resources import find

STORES = {".h5", ".hdf5"}


@system_errors()
def read_structures(
    sources: str | Path | Sequence[str | Path],
    keys: LabelKeys | None = None,
    beside: Path | None = None,
    need_labels: bool = True,
) -> Sequence[Structure]:
    """Read every structure of one or several files.

    Args:
        sources: Paths of anything ASE reads, or of stores (``.h5``), which are left on disk;
            ``file.xyz@:50`` takes ASE's index expressions.
        keys: Names of the labels in the files.
        beside: Folder of the recipe, where relative paths are looked up too.
        need_labels: Whether files without a single energy or force are an error.

    Returns:
        The structures in file order, at least one.

    Raises:
        DataError: For missing, unreadable or empty files, absent label keys and bad labels.
    """
    keys = keys or LabelKeys()
    paths = [sources] if isinstance(sources, (str, Path)) else list(sources)
    if not paths:
        raise DataError("no structure file is named.")
    parts: list[Sequence[Structure]] = []
    for source in paths:
        path, index = _find(str(source), beside)
        if path.suffix in STORES:
            parts.append(_from_store(path, index, str(source)))
            continue
        frames = _read(str(source), path, index)
        check_keys(frames, keys, f"'{source}'", need_labels)
        parts.append(
            [
                from_atoms(atoms, keys, f"'{source}', structure {index}")
                for index, atoms in enumerate(frames)
            ]
        )
    if len(parts) == 1:
        return parts[0]
    if any(isinstance(part, LazySequence) for part in parts):
        return Joined(parts)
    return [item for part in parts for item in part]


@system_errors()
def store(
    sources: Sequence[str | Path], to: Path, keys: LabelKeys | None = None, block: int = 1000
) -> int:
    """Write the structures of files into a store, a block at a time.

    Args:
        sources: Paths of anything ASE reads.
        to: The store; must not exist.
        keys: Names of the labels in the files.
        block: Structures held in memory at once, where the format can be read in steps.

    Returns:
        The number of structures.

    Raises:
        DataError: For what `read_structures` refuses, and if the store cannot be written.
    """
    keys = keys or LabelKeys()
    count = 0
    with StoreWriter(to) as writer:
        for source in sources:
            path, index = _find(str(source), None)
            frames = _iterate(str(source), path, index)
            place = 0
            while items := list(islice(frames, block)):
                if place == 0:
                    check_keys(items, keys, f"'{source}'", need_labels=True)
                writer.append(
                    from_atoms(atoms, keys, f"'{source}', structure {place + offset}")
                    for offset, atoms in enumerate(items)
                )
                place += len(items)
            if place == 0:
                raise DataError(f"'{source}' holds no structures.")
            count += place
    return count


def _iterate(source: str, path: Path, index: str) -> Iterator[Atoms]:
    try:
        yield from ase.io.iread(path, index=index, do_not_split_by_at_sign=True)
    except Exception as error:  # ASE's readers raise whatever their parsers raise
        reason = f"{type(error).__name__}: {error}"
        raise DataError(f"'{source}' cannot be read by ASE ({reason}).") from error


def _from_store(path: Path, index: str, source: str) -> Sequence[Structure]:
    opened = Store(path)
    try:
        chosen = string2index(index)
        found = opened[chosen] if isinstance(chosen, slice) else [opened[chosen]]
    except (ValueError, IndexError):
        raise DataError(f"'{source}' holds no structure at that index.") from None
    if not len(found):
        raise DataError(f"'{source}' holds no structures.")
    return opened if len(found) == len(opened) else found


def _find(source: str, beside: Path | None) -> tuple[Path, str]:
    """Return the file that a source names, and the index expression."""
    name, at, index = source.rpartition("@")
    if not at or find(source, beside) is not None:
        name, index = source, ":"
    path = find(name, beside)
    if path is None or not path.is_file():
        places = dict.fromkeys((Path.cwd(), beside.resolve() if beside else Path.cwd()))
        folders = ", ".join(str(place) for place in places)
        raise DataError(f"no structure file '{name}' (looked in {folders}).")
    return path, index


def _read(source: str, path: Path, index: str) -> list[Atoms]:
    try:
        frames = ase.io.read(path, index=index, do_not_split_by_at_sign=True)
    except (StopIteration, IndexError):
        raise DataError(f"'{source}' holds no structure at that index.") from None
    except Exception as error:  # ASE's readers raise whatever their parsers raise
        reason = f"{type(error).__name__}: {error}"
        raise DataError(f"'{source}' cannot be read by ASE ({reason}).") from error
    frames = frames if isinstance(frames, list) else [frames]
    if not frames:
        raise DataError(f"'{source}' holds no structures.")
    return frames
