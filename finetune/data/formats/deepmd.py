"""Systems of DeePMD-kit: a folder of NumPy or text files, or a group of an HDF5 file.

A system has ``type.raw`` (types ``[n]``), ``type_map.raw`` (elements of the types), ``nopbc`` where
it is not periodic, and sets ``set.000`` … of S structures each: ``coord [S, 3n]`` (Å), ``box
[S, 9]`` (Å), ``energy [S]`` (eV), ``force [S, 3n]`` (eV/Å), ``virial [S, 9]`` (eV, −V times the
stress), and ``real_atom_types [S, n]`` where structures of several compositions are mixed. See
DeePMD-kit's documentation of its data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers

from finetune.core.errors import DataError
from finetune.core.units import Units
from finetune.data.formats.frames import File, Format, Frame, Frames, elements, reason
from finetune.recipe.sections import LabelKeys

TYPES = "type.raw"
"""The file, or array, that makes a folder, or a group, a system."""
_NATURAL = {"energy": "energy", "forces": "forces", "stress": "stress"}
_TABLES = {"coord": 3, "force": 3, "energy": 0, "box": 9, "virial": 9, "real_atom_types": 1}
"""Numbers in a row of each table, by atom for those up to 3; 0 is one number a row."""


@dataclass(frozen=True)
class System:
    """A system: its name in messages, the names in it, and what gives an array by its name."""

    name: str
    sets: list[str]
    get: Callable[[str], Any]


def frames(systems: Iterable[System], file: File) -> Frames:
    """Return the structures of systems; elements of types may stand after ``@``, as in ``@O,H``."""
    symbols = elements(file)
    return Frames(
        "DeePMD-kit",
        _stream(systems, file, symbols),
        natural=_NATURAL,
        usual=Units(energy="eV", length="Å"),
        chosen=symbols is not None,
    )


def open_folder(file: File, keys: LabelKeys) -> Frames:
    """Open the system whose ``type.raw`` is the file."""
    folder = file.path.parent
    sets = sorted(path.name for path in folder.glob("set.*") if path.is_dir())
    return frames([System(str(folder), sets, lambda name: _load(folder / name))], file)


DEEPMD = Format(lambda file: file.path.name == TYPES, open_folder)


def _load(path: Path) -> Any:
    """Return what a file of a system has, or None; a table may be text instead of NumPy."""
    if path.name == "nopbc":
        return path.exists() or None
    if path.suffix == ".npy" and path.is_file():
        return np.load(path, mmap_mode="r", allow_pickle=False)
    text = path.with_suffix(".raw")
    if not text.is_file():
        return None
    if path.name == "type_map.raw":
        return np.array(text.read_text(encoding="utf-8").split())
    return np.loadtxt(text, ndmin=1 if path.name == TYPES else 2)


def _stream(systems: Iterable[System], file: File, symbols: list[str] | None) -> Iterator[Frame]:
    index = 0
    for system in systems:
        try:
            for atoms in _structures(system, symbols):
                yield index, atoms
                index += 1
            continue
        except DataError as error:
            why = str(error)
        except Exception as error:  # NumPy and h5py raise whatever damage makes them
            why = f"cannot be read ({reason(error)}). Is it complete?"
        where = f"'{file.name}', structure {index}: the system '{system.name.strip('/')}'"
        yield index, DataError(f"{where} {why}")
        index += 1


def _structures(system: System, symbols: list[str] | None) -> Iterator[Atoms]:
    types = np.asarray(system.get(TYPES)).astype(int).ravel()
    if symbols is None:
        names = system.get("type_map.raw")
        if names is None:
            raise DataError(
                "has types without elements. Write these into 'type_map.raw' in the order of the "
                "types, or name them after @, as in FOLDER@O,H."
            )
        symbols = [name.decode() if isinstance(name, bytes) else str(name) for name in names]
    numbers = np.array([atomic_numbers[symbol] for symbol in symbols])
    periodic = system.get("nopbc") is None
    for name in system.sets or [""]:
        tables = _tables(system, name, len(types))
        if periodic and "box" not in tables:
            raise DataError("has neither 'box' nor 'nopbc'. Write an empty file 'nopbc' for one.")
        for row in range(len(tables["coord"])):
            kinds = tables["real_atom_types"][row] if "real_atom_types" in tables else types
            real = np.asarray(kinds) >= 0  # others fill up a row of mixed compositions
            if len(numbers) <= max(kinds):
                raise DataError(f"has the type {max(kinds)} and {len(numbers)} elements.")
            atoms = Atoms(
                numbers[np.asarray(kinds, int)[real]], tables["coord"][row].reshape(-1, 3)[real]
            )
            if periodic:
                atoms.set_cell(tables["box"][row].reshape(3, 3))
                atoms.pbc = True
            if "energy" in tables:
                atoms.info["energy"] = float(tables["energy"][row, 0])
            if "force" in tables:
                atoms.arrays["forces"] = np.array(tables["force"][row].reshape(-1, 3)[real])
            if "virial" in tables and periodic:
                virial = tables["virial"][row].reshape(3, 3)
                atoms.info["stress"] = -virial / atoms.get_volume()
            yield atoms


def _tables(system: System, part: str, atoms: int) -> dict[str, Any]:
    """Return the tables of a set as ``[S, …]``; refuse those that do not fit together."""
    found: dict[str, Any] = {}
    for name, width in _TABLES.items():
        table = system.get(f"{part}/{name}.npy".lstrip("/"))
        if table is None:
            continue
        size = max(1, width * atoms if width <= 3 else width)
        rows = len(found["coord"]) if "coord" in found else np.size(table) // size
        if np.size(table) != rows * size:
            raise DataError(
                f"has '{name}' of shape {np.shape(table)} in '{part or '.'}'; it needs "
                f"({rows}, {size})."
            )
        found[name] = np.asarray(table).reshape(rows, size)
    if "coord" not in found:
        raise DataError(f"has no 'coord' in '{part or '.'}'.")
    return found
