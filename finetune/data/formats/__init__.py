"""Which reader a file needs, by what is in it."""

from __future__ import annotations

import re
import zipfile

from finetune.core.errors import DataError
from finetune.data.formats.ani import open_ani
from finetune.data.formats.arrays import open_npz
from finetune.data.formats.frames import Frames
from finetune.data.formats.programs import kind_of, open_with_ase
from finetune.data.formats.xyz import open_xyz
from finetune.data.sources import File
from finetune.data.store import is_hdf5
from finetune.recipe.sections import LabelKeys

_INDEX = re.compile(r"[-\d:]*")


def open_frames(file: File, keys: LabelKeys) -> Frames:
    """Open a file that is no store.

    Raises:
        DataError: If it is empty, damaged or of an unknown kind.
    """
    path, name = file.path, file.name
    if path.stat().st_size == 0:
        raise DataError(f"'{name}' is empty. Was it written to the end?")
    if is_hdf5(path):
        return open_ani(path, name, keys)
    if path.suffix in {".h5", ".hdf5"}:
        raise DataError(f"'{name}' is not HDF5, although its name says so. Is it whole?")
    if path.suffix == ".npz" or (path.suffix == "" and zipfile.is_zipfile(path)):
        return open_npz(path, name)
    kind = kind_of(path, name)
    if kind in {"xyz", "extxyz"}:
        return open_xyz(path, name)
    if kind == "db" and not _INDEX.fullmatch(file.index):
        return open_with_ase(path, name, file.index, kind)  # a query
    return open_with_ase(path, name, ":", kind)
