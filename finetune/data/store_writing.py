"""Write structures and labels into one HDF5 file, some at a time."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from finetune.data.labels import Structure
from finetune.data.tables import COLUMNS, FORMAT, LABELS, VERSION
from finetune.errors import DataError

SUFFIXES = {".h5", ".hdf5"}
CHUNK = 1024
"""Rows of a chunk, compressed without loss."""


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
        for name, (shape, dtype) in COLUMNS.items():
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

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
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
