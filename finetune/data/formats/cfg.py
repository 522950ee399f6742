"""Configurations of MLIP (moment tensor potentials, ``.cfg``): energies, forces and virials.

Between ``BEGIN_CFG`` and ``END_CFG`` stand ``Size``, ``Supercell`` (Å), ``AtomData:`` with the
names of its columns, ``Energy`` (eV) and ``PlusStress:`` (eV), which is −V times the stress.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from ase import Atoms
from ase.io.formats import open_with_compression

from finetune.core.errors import DataError
from finetune.core.units import Units
from finetune.data.formats.frames import File, Format, Frame, Frames, elements, reason
from finetune.recipe.sections import LabelKeys

_NO_END = "has no END_CFG. Is the file complete?"
_NATURAL = {"energy": "energy", "forces": "forces", "stress": "stress"}
_PLACES = {"xx": (0, 0), "yy": (1, 1), "zz": (2, 2), "yz": (1, 2), "xz": (0, 2), "xy": (0, 1)}


def open_cfg(file: File, keys: LabelKeys) -> Frames:
    """Open a file of configurations; after ``@`` stand the elements of its types, ``@Si,O``."""
    symbols = elements(file)
    if symbols is None:
        raise DataError(
            f"'{file.name}' has types of atoms without elements. Name these in the order of the "
            f"types, which begin at 0: '{file.path}@Si,O'."
        )
    return Frames(
        "MLIP configurations",
        _stream(file, symbols),
        natural=_NATURAL,
        usual=Units(energy="eV", length="Å"),
        chosen=True,
    )


def _recognises(file: File) -> bool:
    if ".cfg" not in file.path.suffixes:
        return False
    try:
        with open_with_compression(str(file.path), "rb") as content:
            return b"BEGIN_CFG" in content.read(1000)
    except Exception:  # what reads it says what is wrong
        return False


CFG = Format(_recognises, open_cfg)


def _stream(file: File, symbols: list[str]) -> Iterator[Frame]:
    where = f"'{file.name}', structure"
    for index, block in enumerate(_blocks(file)):
        try:
            if isinstance(block, Exception):
                raise block
            yield index, _atoms(block, symbols)
        except DataError as error:
            yield index, DataError(f"{where} {index} {error}")
        except Exception as error:  # what a damaged number makes
            yield index, DataError(f"{where} {index} cannot be read ({reason(error)}).")


def _blocks(file: File) -> Iterator[list[str] | Exception]:
    """Yield the lines of each configuration, and at last what keeps a file from being read."""
    block: list[str] | None = None
    try:
        with open_with_compression(str(file.path), "rt") as text:
            for line in text:
                word = line.strip()
                if word == "BEGIN_CFG":
                    if block is not None:
                        yield DataError(_NO_END)
                    block = []
                elif word == "END_CFG" and block is not None:
                    yield block
                    block = None
                elif block is not None and word:
                    block.append(word)
    except Exception as error:  # each kind of compression has its own
        yield error
        return
    if block is not None:
        yield DataError(_NO_END)


def _atoms(lines: list[str], symbols: list[str]) -> Atoms:
    found: dict[str, Any] = {}
    info: dict[str, Any] = {}
    rest = iter(lines)
    for line in rest:
        name, *words = line.split()
        if name == "Size":
            found["size"] = int(next(rest))
        elif name == "Supercell":
            found["cell"] = [[float(word) for word in next(rest).split()] for _ in range(3)]
        elif name == "AtomData:":
            rows = [next(rest).split() for _ in range(found["size"])]
            found |= dict(zip(words, np.array(rows, dtype=float).T, strict=True))
        elif name == "Energy":
            info["energy"] = float(next(rest).split()[0])
        elif name == "PlusStress:":
            found["virial"] = dict(zip(words, map(float, next(rest).split()), strict=True))
        elif name == "Feature":
            info[words[0]] = " ".join(words[1:])
        else:
            raise DataError(f"has a line that is unknown: '{line[:40]}'. Remove it.")
    wrong = [kind for kind in found["type"] if kind not in range(len(symbols))]
    if wrong:
        raise DataError(f"has the type {wrong[0]:g}, but {len(symbols)} elements are named.")
    types = found["type"].astype(int)
    cell = found.get("cell")
    columns = "cartes" if "cartes_x" in found else "direct"
    positions = np.stack([found[f"{columns}_{axis}"] for axis in "xyz"], axis=1)
    if columns == "direct":
        positions = positions @ np.array(cell)
    atoms = Atoms([symbols[kind] for kind in types], positions, cell=cell, pbc=cell is not None)
    atoms.info.update(info)
    if "fx" in found:
        atoms.arrays["forces"] = np.stack([found[f"f{axis}"] for axis in "xyz"], axis=1)
    if "virial" in found and cell is not None:
        stress = np.zeros((3, 3))
        for name, value in found["virial"].items():
            row, column = _PLACES[name]
            stress[row, column] = stress[column, row] = -value / atoms.get_volume()
        atoms.info["stress"] = stress
    return atoms
