"""Structures and labels in one HDF5 file, read one at a time by index.

Datasets (S structures, N atoms in all), chunked along the first axis::

    offsets [S+1]          where the atoms of each structure begin
    numbers [N]            atomic numbers
    positions [N, 3]       Å
    cell [S, 3, 3]         Å; pbc [S, 3]
    charge [S]             e; spin [S], the multiplicity
    source [S, 2]          row of `sources`, and the index within it
    level [S]              row of `levels` (level of theory), -1 where none is named
    tags [S]               JSON of further words and numbers by name, empty where there are none;
                           stores of earlier releases have no such table
    energy/row [S]         row of `energy/values` [.] (eV), -1 where there is no label
    forces/row [S]         first row of `forces/values` [., 3] (eV/Å), -1 likewise
    stress/row [S]         row of `stress/values` [., 3, 3] (eV/Å³), -1 likewise

A label that is absent takes no room, and nothing stands for it but its row -1.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from finetune.data.labels import Structure, check
from finetune.data.sequences import LazySequence
from finetune.data.tables import check_tables, labels_of
from finetune.errors import DataError
from finetune.sections import LabelKeys

FORMAT, VERSION = "piwsl-finetune/structures", 1
SUFFIXES = {".h5", ".hdf5"}
LABELS: dict[str, tuple[int, ...]] = {"energy": (), "forces": (3,), "stress": (3, 3)}
CHUNK = 1024
"""Rows of a chunk, compressed without loss."""
BLOCK = 1024
"""Structures read at once when all are read in turn."""
_COLUMNS: dict[str, tuple[tuple[int, ...], Any]] = {
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


class StoreWriter:
    """Writes a store, some structures at a time; a context that leaves a whole file or none.

    Args:
        path: The file; it appears when the context ends without an error.

    Raises:
        DataError: If it exists or cannot be made, or its name does not end in .h5 or .hdf5.
    """

    def __init__(self, path: Path) -> None:
        check_suffix(path)
        if path.exists():
            raise DataError(f"'{path}' exists. Choose another name.")
        self.path = path
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            self._file = h5py.File(self._temporary, "w")
        except OSError as error:
            raise DataError(f"'{path}' cannot be written: {error}.") from error
        for name, (shape, dtype) in _COLUMNS.items():
            self._file.create_dataset(
                name,
                (0, *shape),
                dtype,
                maxshape=(None, *shape),
                chunks=(CHUNK, *shape),
                shuffle=True,
                compression="gzip",
                compression_opts=1,
            )
        self._add("offsets", [0])
        self._sources: dict[str, int] = {}
        self._levels: dict[str, int] = {}

    def append(self, structures: Iterable[Structure]) -> None:
        """Add structures."""
        items = list(structures)
        if not items:
            return
        first = int(self._file["numbers"].shape[0])
        lengths = np.cumsum([len(item) for item in items])
        self._add("offsets", first + lengths)
        self._add("numbers", np.concatenate([item.numbers for item in items]))
        self._add("positions", np.concatenate([item.positions for item in items]))
        for name in ("cell", "pbc", "charge", "spin"):
            self._add(name, np.stack([getattr(item, name) for item in items]))
        self._add("source", [self._source(item.where) for item in items])
        self._add("level", [self._level(item.level_of_theory) for item in items])
        self._add("tags", [json.dumps(dict(item.tags)) if item.tags else "" for item in items])
        for name, shape in LABELS.items():
            row = int(self._file[f"{name}/values"].shape[0])
            rows, values = [], []
            for item in items:
                label = getattr(item, name)
                rows.append(-1 if label is None else row)
                if label is not None:
                    values.append(np.asarray(label, np.float64).reshape(-1, *shape))
                    row += len(values[-1])
            self._add(f"{name}/row", rows)
            if values:
                self._add(f"{name}/values", np.concatenate(values))

    def _add(self, name: str, values: Any) -> None:
        dataset, values = self._file[name], np.asarray(values)
        rows = dataset.shape[0]
        dataset.resize(rows + len(values), axis=0)
        dataset[rows:] = values

    def _source(self, where: str) -> tuple[int, int]:
        name, found, index = where.rpartition(", structure ")
        if not found or not index.isdigit():
            name, index = where, "-1"
        return self._sources.setdefault(name, len(self._sources)), int(index)

    def _level(self, level: str | None) -> int:
        return -1 if level is None else self._levels.setdefault(level, len(self._levels))

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                text = h5py.string_dtype()
                self._file.create_dataset("sources", data=list(self._sources), dtype=text)
                self._file.create_dataset("levels", data=list(self._levels), dtype=text)
                self._file.attrs.update({"format": FORMAT, "format_version": VERSION})
            self._file.close()
            if error is None:
                os.replace(self._temporary, self.path)
        finally:
            self._temporary.unlink(missing_ok=True)


def check_suffix(path: Path) -> None:
    """Refuse a name that does not say that it is HDF5.

    Raises:
        DataError: With a name that does.
    """
    if path.suffix not in SUFFIXES:
        raise DataError(f"a store is an HDF5 file: name it '{path}.h5', not '{path}'.")


def is_store(path: Path) -> bool:
    """Whether an HDF5 file says that it is a store; a damaged one is none."""
    try:
        with h5py.File(path, "r") as file:
            return bool(file.attrs.get("format") == FORMAT)
    except OSError:
        return False


class Store(LazySequence[Structure]):
    """The structures of a store, read when they are asked for.

    Only what finds them is held in memory. Processes that are forked open the file anew. Each
    structure is checked when it is read for the first time.

    Args:
        path: The file.

    Raises:
        DataError: If it is missing, damaged or no store.
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
            check_tables(file, tuple(LABELS), len(self._levels), len(self._sources))
            self._checked = np.zeros(len(self), dtype=bool)
        except (OSError, KeyError, ValueError) as error:
            raise DataError(f"'{path}' cannot be read as a store: {error}.") from error

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def item(self, index: int) -> Structure:
        """Read one structure.

        Raises:
            DataError: If no potential could evaluate it, or its labels are absurd.
        """
        return next(self._between(index, index + 1))

    def __iter__(self) -> Iterator[Structure]:
        for start in range(0, len(self), BLOCK):
            yield from self._between(start, min(start + BLOCK, len(self)))

    def _between(self, start: int, stop: int) -> Iterator[Structure]:
        """Read the structures from ``start`` to ``stop`` at once and yield them."""
        file, offsets = self._file, self._offsets
        first, last = offsets[start], offsets[stop]
        numbers = file["numbers"][first:last].astype(np.int64)
        positions = file["positions"][first:last]
        cell, pbc, charge, spin = (
            file[name][start:stop] for name in ("cell", "pbc", "charge", "spin")
        )
        tags = file["tags"][start:stop] if "tags" in file else [b""] * (stop - start)
        labels = {name: self._labels(name, start, stop) for name in LABELS}
        for values in (positions, *(found[2] for found in labels.values())):
            if not np.isfinite(values).all():
                raise DataError(
                    f"'{self.path}' holds NaN or infinite values in structures {start} to "
                    f"{stop - 1}. Write it anew with `data convert`."
                )
        for index in range(start, stop):
            atoms = slice(offsets[index] - first, offsets[index + 1] - first)
            level = self._level[index]
            item = Structure(
                numbers=numbers[atoms],
                positions=positions[atoms],
                cell=cell[index - start],
                pbc=pbc[index - start],
                charge=int(charge[index - start]),
                spin=int(spin[index - start]),
                **labels_of(labels, index, int(offsets[index + 1] - offsets[index])),
                where=self._where(index),
                level_of_theory=None if level < 0 else self._levels[level],
                tags=self._tags(tags[index - start], index),
            )
            if not self._checked[index]:
                check(replace(item, where=f"'{self.path}', structure {index}"), LabelKeys())
                self._checked[index] = True
            yield item

    def _labels(
        self, name: str, start: int, stop: int
    ) -> tuple[NDArray[np.int64], int, NDArray[Any]]:
        """Return rows, the first of them, and the values from there on, of a label."""
        rows = self._rows[name]
        present = rows[start:stop][rows[start:stop] >= 0]
        dataset = self._file[f"{name}/values"]
        if not len(present):
            return rows, 0, dataset[0:0]
        end = int(present[-1])
        if name == "forces":
            last = start + int(np.flatnonzero(rows[start:stop] == end)[0])
            end += int(self._offsets[last + 1] - self._offsets[last])
        else:
            end += 1
        return rows, int(present[0]), dataset[int(present[0]) : end]

    def _tags(self, text: bytes, index: int) -> dict[str, str | float]:
        try:
            found = json.loads(text) if text else {}
        except ValueError:
            found = None
        if not isinstance(found, dict) or not all(
            isinstance(value, (str, float)) for value in found.values()
        ):
            raise DataError(f"'{self.path}', structure {index}: its tags are damaged.")
        return found

    def _where(self, index: int) -> str:
        source, place = self._source[index]
        name = self._sources[source]
        return name if place < 0 else f"{name}, structure {place}"

    @property
    def _file(self) -> h5py.File:
        if self._open is None or self._open[0] != os.getpid():
            self._open = (os.getpid(), h5py.File(self.path, "r"))
        return self._open[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": None}
