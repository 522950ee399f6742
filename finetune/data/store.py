"""Read structures and labels from one HDF5 file, one at a time by index."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from finetune.data.checks import check
from finetune.data.labels import Structure
from finetune.data.sequences import LazySequence
from finetune.data.tables import FORMAT, LABELS, VERSION, check_tables, labels_of
from finetune.errors import DataError
from finetune.sections import LabelKeys

BLOCK = 1024
"""Structures read at once when all are read in turn."""


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
                    f"{stop - 1}. `data convert --skip-faulty` writes the others anew."
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
        except (ValueError, RecursionError):
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
