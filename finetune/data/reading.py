"""Read labelled structures from files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import ase.io
from ase import Atoms

from finetune.data.labels import Structure, check_keys, from_atoms
from finetune.errors import DataError
from finetune.recipe import LabelKeys
from finetune.resources import find


def read_structures(
    sources: str | Path | Sequence[str | Path],
    keys: LabelKeys | None = None,
    beside: Path | None = None,
    need_labels: bool = True,
) -> list[Structure]:
    """Read every structure of one or several files.

    Args:
        sources: Paths of anything ASE reads; ``file.xyz@:50`` takes ASE's index expressions.
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
    structures = []
    for source in paths:
        frames = _read(str(source), beside)
        check_keys(frames, keys, f"'{source}'", need_labels)
        structures += [
            from_atoms(atoms, keys, f"'{source}', structure {index}")
            for index, atoms in enumerate(frames)
        ]
    return structures


def _read(source: str, beside: Path | None) -> list[Atoms]:
    name, at, index = source.rpartition("@")
    if not at or find(source, beside) is not None:
        name, index = source, ":"
    path = find(name, beside)
    if path is None or not path.is_file():
        places = dict.fromkeys((Path.cwd(), beside.resolve() if beside else Path.cwd()))
        folders = ", ".join(str(place) for place in places)
        raise DataError(f"no structure file '{name}' (looked in {folders}).")
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
