"""ANI-1x / ANI-1ccx HDF5: groups of conformers of one composition, labels of several levels.

Each group has ``coordinates [conformers, n, 3]`` (Å), ``atomic_numbers [n]`` and labels such as
``wb97x_dz.energy [conformers]``, ``ccsd(t)_cbs.energy``, ``wb97x_dz.forces [conformers, n, 3]`` in
Hartree and Hartree/Å (Smith et al., Scientific Data 7, 134 (2020)). NaN stands for an absent label.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from ase import Atoms
from ase.data import atomic_numbers

from finetune.core.errors import DataError
from finetune.core.units import Units
from finetune.data.formats.frames import File, Format, Frame, Frames, reason
from finetune.data.store import SUFFIXES
from finetune.recipe.sections import LabelKeys

BLOCK = 1024
"""Conformers read at once."""


def open_ani(file: File, keys: LabelKeys) -> Frames:
    """Open an ANI file; of its labels, those that ``keys`` names are read."""
    path, source = file.path, file.name
    if not h5py.is_hdf5(path):
        raise DataError(f"'{source}' is not HDF5, although its name says so. Is it complete?")
    try:
        with h5py.File(path, "r") as content:
            groups: list[str] = []
            names: set[str] = set()

            def visit(name: str, item: Any) -> None:
                if isinstance(item, h5py.Group) and "coordinates" in item:
                    groups.append(name)
                    names.update(key for key in item if item[key].dtype.kind == "f")

            content.visititems(visit)
    except Exception as error:  # h5py raises whatever damage makes it
        raise DataError(
            f"'{source}' cannot be read as HDF5 ({reason(error)}). Is it complete?"
        ) from None
    if not groups:
        raise DataError(
            f"'{source}' is HDF5, but neither a store of this package nor in the layout of ANI-1x "
            "(groups with coordinates and atomic_numbers)."
        )
    return Frames(
        "ANI HDF5",
        _stream(path, source, groups, keys),
        usual=Units(energy="Hartree", length="Å"),
        names=frozenset(names - {"coordinates"}),
        sparse=True,
    )


ANI = Format(lambda file: file.path.suffix in SUFFIXES or h5py.is_hdf5(file.path), open_ani)


def _stream(path: Path, source: str, groups: list[str], keys: LabelKeys) -> Iterator[Frame]:
    index = 0
    with h5py.File(path, "r") as file:
        for name in groups:
            try:
                for atoms in _group(file[name], name, keys):
                    yield index, atoms
                    index += 1
                continue
            except DataError as error:
                why = str(error)
            except Exception as error:  # h5py raises whatever damage makes it
                why = f"the group '{name}' cannot be read ({reason(error)})."
            yield index, DataError(f"'{source}', structure {index}: {why}")
            index += 1


def _group(group: h5py.Group, name: str, keys: LabelKeys) -> Iterator[Atoms]:
    species = next((key for key in ("atomic_numbers", "species") if key in group), None)
    if species is None:
        raise DataError(f"the group '{name}' has no atomic_numbers.")
    found = np.asarray(group[species][()])
    if found.dtype.kind in "SO":
        found = np.array([atomic_numbers[s.decode() if isinstance(s, bytes) else s] for s in found])
    numbers = _atomic_numbers(found, name)
    shape = group["coordinates"].shape
    if len(shape) != 3 or shape[1:] != (len(numbers), 3):
        raise DataError(
            f"the group '{name}' has {len(numbers)} atomic numbers and coordinates of shape "
            f"{shape}."
        )
    wanted = {}
    for quantity, size in (("energy", shape[:1]), ("forces", shape)):
        key = getattr(keys, quantity)
        if key in group:
            if group[key].shape != size:
                raise DataError(
                    f"'{key}' of the group '{name}' has shape {group[key].shape}; it needs {size}."
                )
            wanted[key] = quantity
    for start in range(0, shape[0], BLOCK):
        block = slice(start, start + BLOCK)
        positions = group["coordinates"][block].astype(float)
        labels = {key: group[key][block].astype(float) for key in wanted}
        for place in range(len(positions)):
            atoms = Atoms(numbers, positions[place])
            levels = set()
            for key, quantity in wanted.items():
                value = labels[key][place]
                if np.isnan(value).all():
                    continue
                levels.add(key.rpartition(".")[0])
                if quantity == "energy":
                    atoms.info[key] = float(value)
                else:
                    atoms.arrays[key] = value
            if levels - {""}:
                atoms.info["level_of_theory"] = ", ".join(sorted(levels))
            yield atoms


def _atomic_numbers(found: Any, name: str) -> list[int]:
    """Return whole numbers; refuse what would have to be rounded."""
    if found.dtype.kind not in "iuf" or found.ndim != 1:
        raise DataError(
            f"the atomic numbers of the group '{name}' are {found.dtype} of shape {found.shape}; "
            "they must be a row of whole numbers."
        )
    wrong = np.flatnonzero(~np.isfinite(found) | (found != np.round(found)))
    if len(wrong):
        raise DataError(
            f"the group '{name}' has the atomic number {found[wrong[0]]:g}, which is no whole "
            "number. Is the file damaged?"
        )
    return [int(number) for number in found]
