"""Write structures to extended XYZ or to a store, completely or not at all."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms
from ase.io.extxyz import key_val_dict_to_str, key_val_str_to_dict

from finetune.core.errors import DataError, system_errors
from finetune.core.files import appearing, write_atomically
from finetune.data.labels import label
from finetune.data.store import SUFFIXES, write_store
from finetune.data.structures import Structure, to_atoms

XYZ = {".xyz", ".extxyz"}
BLOCK = 1000
"""Structures held in memory at once."""


@system_errors()
def write_structures(path: Path, structures: Iterable[Structure]) -> int:
    """Write structures and their labels in eV and Å; the file appears when it is complete.

    A store (``.h5``, ``.hdf5``) is exact; extended XYZ (``.xyz``, ``.extxyz``) has the names
    REF_energy, REF_forces and REF_stress, with positions and forces to 1e-8. Tags whose names mean
    something else there (``Lattice``, a word under ``dipole``) are called ``tag_NAME``. Returns the
    number of structures.

    Raises:
        DataError: If the file exists, its name has no known suffix, or there is nothing to write.
    """
    check_name(path)
    if path.suffix in SUFFIXES:
        return write_store(path, _blocks(structures))
    count = 0
    with appearing(path) as descriptor, os.fdopen(descriptor, "w", encoding="utf-8") as file:
        for block in _blocks(structures):
            ase.io.write(file, [_xyz_atoms(item) for item in block], format="extxyz")
            count += len(block)
        file.flush()
        os.fsync(descriptor)
    return count


@system_errors()
def write_parts(
    folder: Path,
    structures: Sequence[Structure],
    parts: Mapping[str, Sequence[int]],
    suffix: str,
    facts: Mapping[str, Any],
) -> dict[Path, int]:
    """Write the parts of a split, and ``split.json`` with their indices and ``facts``.

    Returns the files (suffix ``xyz`` or ``h5``) and how many structures each has. Refuses files
    that exist and other suffixes before anything is written.
    """
    if suffix.lstrip(".") not in ("xyz", "h5"):
        raise DataError(f"--suffix is '{suffix}'; choose xyz or h5.")
    if folder.exists() and not folder.is_dir():
        raise DataError(f"'{folder}' is a file; name a folder with --to.")
    paths = {name: folder / f"{name}.{suffix.lstrip('.')}" for name in parts}
    record = folder / "split.json"
    for path in paths.values():
        _check_free(path)
    if record.exists():
        raise DataError(f"'{record}' exists. Choose another folder.")
    folder.mkdir(parents=True, exist_ok=True)
    counts = {
        path: write_structures(path, (structures[index] for index in parts[name]))
        for name, path in paths.items()
    }
    content = {**facts, "parts": {name: list(indices) for name, indices in parts.items()}}
    write_atomically(record, json.dumps(content, indent=1).encode())
    return counts


def check_name(path: Path) -> None:
    """Refuse a name of unknown suffix, a file that exists, or a folder that does not."""
    _check_free(path)
    if not path.parent.is_dir():
        raise DataError(f"there is no folder '{path.parent}' to write '{path.name}' to. Make it.")
    if not os.access(path.parent, os.W_OK):
        raise DataError(f"'{path}' cannot be written: no right to write to its folder.")


def check_no_folder(path: Path) -> None:
    """Refuse the name of a folder."""
    if path.is_dir():
        file = path / "structures.xyz"
        raise DataError(f"'{path}' is a folder. Name a file to write, e.g. '{file}' (or .h5).")


def _check_free(path: Path) -> None:
    check_no_folder(path)
    if path.suffix not in SUFFIXES | XYZ:
        raise DataError(
            f"the name '{path}' does not tell the format: end it in .h5 (store) or .xyz (extended "
            f"XYZ), e.g. '{path}.h5'."
        )
    if path.exists():
        raise DataError(f"'{path}' exists. Choose another name.")


def _xyz_atoms(structure: Structure) -> Atoms:
    tags: dict[str, Any] = {}
    for key, value in structure.tags.items():
        name = _name(key, isinstance(value, str))
        while name in tags:
            name += "_"
        tags[name] = _tag(name, value)
    return to_atoms(replace(structure, tags=tags), labels=True)


@lru_cache
def _name(key: str, is_text: bool) -> str:
    """Return the name of a tag; ``tag_NAME`` where ASE would not read it back, as of Lattice."""
    value, text = "x" if is_text else 1.5, StringIO()
    try:
        ase.io.write(text, Atoms("H", info={key: value}), format="extxyz")
        text.seek(0)
        if np.array_equal(label(ase.io.read(text, format="extxyz"), key), value):
            return key
    except Exception:  # writer and reader raise whatever a name makes them
        pass
    return "tag_" + re.sub(r"\W", "_", key)


def _tag(key: str, value: str | float) -> str | float | int:
    """Return a tag in the form that ASE reads back unchanged from an XYZ header, one line."""
    if isinstance(value, str):
        value = "".join(letter if letter.isprintable() else " " for letter in value)
        text = key_val_dict_to_str({key: value})
        read = None if value.startswith(("_JSON", "=")) else key_val_str_to_dict(text).get(key)
        if isinstance(read, str) and read == value:
            return value
        value = value.replace("\\", "/").replace('"', "'")
        return f"_JSON {json.dumps(value, ensure_ascii=False)}"
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


def _blocks(structures: Iterable[Structure]) -> Iterator[list[Structure]]:
    rest = iter(structures)
    if not (block := list(islice(rest, BLOCK))):
        raise DataError("there is no structure to write.")
    while block:
        yield block
        block = list(islice(rest, BLOCK))
