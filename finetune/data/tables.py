"""The tables of a store: which there are, whether they fit together, what a row of them holds.

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

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

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
"""Shape of a row and type of every table that grows with the structures."""
_HDF5 = b"\x89HDF\r\n\x1a\n"


def is_hdf5(path: Path) -> bool:
    """Whether a file is HDF5, whatever its name."""
    with path.open("rb") as file:
        return file.read(len(_HDF5)) == _HDF5


def is_store(path: Path) -> bool:
    """Whether a file says that it is a store; a damaged one is none."""
    if not is_hdf5(path):
        return False
    try:
        with h5py.File(path, "r") as file:
            return bool(file.attrs.get("format") == FORMAT)
    except OSError:
        return False


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
