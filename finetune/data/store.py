"""One HDF5 file of structures and labels: read one at a time by index, and written."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from finetune.core.errors import DataError
from finetune.data.structures import LazySequence, Structure, View, check
from finetune.recipe.sections import LabelKeys

FORMAT, VERSION = "piwsl-finetune/structures", 1
LABELS: dict[str, tuple[int, ...]] = {"energy": (), "forces": (3,), "stress": (3, 3)}
COLUMNS: dict[str, tuple[tuple[int, ...], Any]] = {
    "offsets": ((), np.int64),
    "numbers": ((), np.uint8),
    "positions": ((3,), np.float64),
    "cell": ((3, 3), np.float64),
    "pbc": ((3,), np.bool_),
    "charge": ((), np.int32),
    "spin": ((), np.int32),
    "source": ((2,), np.int64),
    "level": ((), np.int32),
    "tags": ((), h5py.string_dtype()),
    **{f"{name}/row": ((), np.int64) for name in LABELS},
    **{f"{name}/values": (shape, np.float64) for name, shape in LABELS.items()},
}
"""Shape and type of a row of each table that grows with the structures."""
SUFFIXES = {".h5", ".hdf5"}
BLOCK = 1024
"""Structures read together when all are read in turn."""
CHUNK = 1024
"""Rows of a chunk, compressed without loss."""


def _check_tables(file: h5py.File, levels: int, sources: int) -> None:
    """Raise a ValueError that names the table if the tables of a store do not fit together."""
    atoms = file["offsets"][:]
    count = len(atoms) - 1
    if count < 1 or atoms[0] != 0 or (np.diff(atoms) < 1).any():
        raise ValueError("'offsets' do not rise from 0")
    for name in ("numbers", "positions"):
        if len(file[name]) != atoms[-1]:
            raise ValueError(f"'{name}' has {len(file[name])} rows for {atoms[-1]} atoms")
    columns = ("cell", "pbc", "charge", "spin", "level", "source")
    for name in (*columns, *(("tags",) if "tags" in file else ())):
        if len(file[name]) != count:
            raise ValueError(f"'{name}' has {len(file[name])} rows for {count} structures")
    for name in LABELS:
        rows = file[f"{name}/row"][:]
        if len(rows) != count:
            raise ValueError(f"'{name}/row' has {len(rows)} rows for {count} structures")
        present = rows >= 0
        sizes = np.diff(atoms)[present] if name == "forces" else np.ones(present.sum(), int)
        ends = np.concatenate([[0], np.cumsum(sizes)])
        if (rows[present] != ends[:-1]).any():
            raise ValueError(f"'{name}/row' does not number the labels")
        if len(file[f"{name}/values"]) != ends[-1]:
            raise ValueError(f"'{name}/values' does not have {ends[-1]} rows")
    if (file["level"][:] >= levels).any():
        raise ValueError("'level' names levels of theory that do not exist")
    places = file["source"][:, 0]
    if ((places < 0) | (places >= sources)).any():
        raise ValueError("'source' names files that do not exist")


class Store(LazySequence[Structure]):
    """The structures of a store, read when they are asked for, and checked at the first time.

    Only what finds them is kept in memory. A forked process opens the file again. Raises a
    `DataError` for a file that is missing, damaged or no store.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open: tuple[int, h5py.File] | None = None
        try:
            file = self._file
            if file.attrs.get("format") != FORMAT:
                raise DataError(f"'{path}' is HDF5 but no store of this package.")
            if file.attrs["format_version"] != VERSION:
                raise DataError(
                    f"'{path}' has format version {file.attrs['format_version']}; this release "
                    f"reads version {VERSION}."
                )
            self._offsets: NDArray[np.int64] = file["offsets"][:]
            self._rows = {name: file[f"{name}/row"][:] for name in LABELS}
            self._level: NDArray[np.int32] = file["level"][:]
            self._source: NDArray[np.int64] = file["source"][:]
            self._levels = [item.decode() for item in file["levels"][:]]
            self._sources = [item.decode() for item in file["sources"][:]]
            _check_tables(file, len(self._levels), len(self._sources))
            self._checked = np.zeros(len(self), dtype=bool)
        except (OSError, KeyError, ValueError) as error:
            raise DataError(f"'{path}' cannot be read as a store: {error}.") from error

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def item(self, index: int) -> Structure:
        """Read one structure; refuse one that no potential can evaluate, or with absurd labels."""
        return next(self._between(index, index + 1))

    def __iter__(self) -> Iterator[Structure]:
        for start in range(0, len(self), BLOCK):
            yield from self._between(start, min(start + BLOCK, len(self)))

    def _between(self, start: int, stop: int) -> Iterator[Structure]:
        """Read the structures from ``start`` to ``stop`` together and yield them."""
        file, offsets = self._file, self._offsets
        first, last = offsets[start], offsets[stop]
        numbers = file["numbers"][first:last].astype(np.int64)
        positions = self._finite(file["positions"][first:last], start, stop)
        cell, pbc, charge, spin = (
            file[name][start:stop] for name in ("cell", "pbc", "charge", "spin")
        )
        tags = file["tags"][start:stop] if "tags" in file else [b""] * (stop - start)
        labels = {name: self._labels(name, start, stop) for name in LABELS}
        for place, index in enumerate(range(start, stop)):
            atoms = slice(offsets[index] - first, offsets[index + 1] - first)
            level, (source, number) = self._level[index], self._source[index]
            item = Structure(
                numbers=numbers[atoms],
                positions=positions[atoms],
                cell=cell[place],
                pbc=pbc[place],
                charge=int(charge[place]),
                spin=int(spin[place]),
                **{name: values[place] for name, values in labels.items()},
                where=self._sources[source] + ("" if number < 0 else f", structure {number}"),
                level_of_theory=None if level < 0 else self._levels[level],
                tags=self._tags(tags[place], index),
            )
            if not self._checked[index]:
                check(replace(item, where=f"'{self.path}', structure {index}"), LabelKeys())
                self._checked[index] = True
            yield item

    def _labels(self, name: str, start: int, stop: int) -> list[Any]:
        """Return a label of each structure from ``start`` to ``stop``, None where it is absent."""
        rows = self._rows[name][start:stop]
        sizes = np.diff(self._offsets[start : stop + 1]) if name == "forces" else np.ones_like(rows)
        present = rows >= 0
        if not present.any():
            return [None] * len(rows)
        first, end = rows[present][0], (rows + sizes)[present][-1]
        values = self._finite(self._file[f"{name}/values"][first:end], start, stop)
        found: list[Any] = []
        for row, size in zip(rows, sizes, strict=True):
            label: Any = values[row - first : row - first + size] if row >= 0 else None
            if label is not None and name != "forces":
                label = float(label[0]) if name == "energy" else label[0]
            found.append(label)
        return found

    def _finite(self, values: NDArray[Any], start: int, stop: int) -> NDArray[Any]:
        if not np.isfinite(values).all():
            raise DataError(
                f"'{self.path}' contains NaN or infinite values in structures {start} to "
                f"{stop - 1}. `data convert --skip-faulty` writes the others to a new file."
            )
        return values

    def _tags(self, text: bytes, index: int) -> dict[str, str | float]:
        try:
            found = json.loads(text) if text else {}
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict) or not all(
            isinstance(value, (str, float)) for value in found.values()
        ):
            raise DataError(f"'{self.path}', structure {index}: its tags are damaged.")
        return found

    @property
    def _file(self) -> h5py.File:
        if self._open is None or self._open[0] != os.getpid():
            self._open = (os.getpid(), h5py.File(self.path, "r"))
        return self._open[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": None}


def write_store(path: Path, blocks: Iterable[Sequence[Structure]]) -> int:
    """Write blocks that fit into memory; the file appears when it is complete.

    Returns the number of structures. Refuses a file that exists and a name that is not of HDF5.
    """
    check_suffix(path)
    if path.exists():
        raise DataError(f"'{path}' exists. Choose another name.")
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        file = h5py.File(temporary, "w")
    except OSError as error:
        raise DataError(f"'{path}' cannot be written: {error}.") from error
    count, text = 0, h5py.string_dtype()
    sources: dict[str, int] = {}
    levels: dict[str, int] = {}
    try:
        with file:
            for name, (shape, dtype) in COLUMNS.items():
                sizes = {"maxshape": (None, *shape), "chunks": (CHUNK, *shape), "shuffle": True}
                packing = {"compression": "gzip", "compression_opts": 1}
                file.create_dataset(name, (0, *shape), dtype, **sizes, **packing)
            _add(file["offsets"], [0])
            for items in blocks:
                _append(file, items, sources, levels)
                count += len(items)
            file.create_dataset("sources", data=list(sources), dtype=text)
            file.create_dataset("levels", data=list(levels), dtype=text)
            file.attrs.update({"format": FORMAT, "format_version": VERSION})
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return count


def _append(
    file: h5py.File, items: Sequence[Structure], sources: dict[str, int], levels: dict[str, int]
) -> None:
    """Add structures to a store; new names of files and levels of theory get the next numbers."""
    places = []
    for item in items:
        name, found, index = item.where.rpartition(", structure ")
        if not found or not index.isdigit():
            name, index = item.where, "-1"
        places.append((sources.setdefault(name, len(sources)), int(index)))
    theory = [item.level_of_theory for item in items]
    columns: dict[str, Any] = {
        "offsets": len(file["numbers"]) + np.cumsum([len(item) for item in items]),
        "numbers": np.concatenate([item.numbers for item in items]),
        "positions": np.concatenate([item.positions for item in items]),
        **{
            name: np.stack([getattr(item, name) for item in items])
            for name in ("cell", "pbc", "charge", "spin")
        },
        "source": places,
        "level": [-1 if name is None else levels.setdefault(name, len(levels)) for name in theory],
        "tags": [json.dumps(dict(item.tags)) if item.tags else "" for item in items],
    }
    for name, shape in LABELS.items():
        row = len(file[f"{name}/values"])
        rows, values = [], [np.empty((0, *shape))]
        for item in items:
            label = getattr(item, name)
            rows.append(-1 if label is None else row)
            if label is not None:
                values.append(np.asarray(label, np.float64).reshape(-1, *shape))
                row += len(values[-1])
        columns |= {f"{name}/row": rows, f"{name}/values": np.concatenate(values)}
    for name, new in columns.items():
        _add(file[name], new)


def _add(dataset: h5py.Dataset, values: Any) -> None:
    rows, values = len(dataset), np.asarray(values)
    dataset.resize(rows + len(values), axis=0)
    dataset[rows:] = values


def check_suffix(path: Path) -> None:
    """Refuse a name without a suffix of HDF5."""
    if path.suffix not in SUFFIXES:
        raise DataError(f"a store is an HDF5 file: name it '{path}.h5', not '{path}'.")


class Usable(View[Structure]):
    """Some structures of a store, each read alone: reading together fails at a bad one."""

    def __iter__(self) -> Iterator[Structure]:
        return LazySequence.__iter__(self)


def usable(structures: Sequence[Structure]) -> tuple[Sequence[Structure], list[str]]:
    """Read all structures; return those that can be used, and what is wrong with the others."""
    try:
        for _ in structures:
            pass
        return structures, []
    except DataError:
        kept, faults = [], []
    for index in range(len(structures)):
        try:
            structures[index]
            kept.append(index)
        except DataError as error:
            faults.append(str(error))
    return Usable(structures, kept), faults
