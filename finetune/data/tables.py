"""The tables of a store: whether they fit together, and which labels a row of them has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray


def check_tables(file: h5py.File, labels: Sequence[str], levels: int, sources: int) -> None:
    """Refuse a store whose tables do not fit together.

    Args:
        file: The store.
        labels: Names of its labels.
        levels: Number of levels of theory.
        sources: Number of files that structures came from.

    Raises:
        ValueError: Saying which table is wrong.
    """
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
    for name in labels:
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
        raise ValueError("'level' names levels of theory that are not there")
    places = file["source"][:, 0]
    if ((places < 0) | (places >= sources)).any():
        raise ValueError("'source' names files that are not there")


def labels_of(
    labels: Mapping[str, tuple[NDArray[np.int64], int, NDArray[Any]]], index: int, atoms: int
) -> dict[str, Any]:
    """Return the labels of a structure by name, None where there is none."""
    found: dict[str, Any] = {}
    for name, (rows, first, values) in labels.items():
        row = int(rows[index])
        if row < 0:
            found[name] = None
        elif name == "forces":
            found[name] = values[row - first : row - first + atoms]
        else:
            label = values[row - first]
            found[name] = float(label) if name == "energy" else label
    return found
