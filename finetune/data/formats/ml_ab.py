"""ML_AB files of VASP: the ab initio data that its force fields are trained on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io.formats import open_with_compression
from ase.units import GPa

from finetune.core.errors import DataError
from finetune.core.units import Units
from finetune.data.formats.frames import File, Format, Frame, Frames, reason
from finetune.recipe.sections import LabelKeys

_BANNER = re.compile(r"\s*1\.0 Version\s*\n\*{10,}\s*\n\s*The number of configurations")
_CONFIGURATION = re.compile(r"^\s*Configuration num\.", re.MULTILINE)
_SECTION = r"^\s*{}\s*\n-+\s*\n([\s\S]*?)(?=^[=*-]{{10,}}|\Z)"


def open_ml_ab(file: File, keys: LabelKeys) -> Frames:
    """Open an ML_AB file; its stress is in kbar, positive under compression."""
    return Frames(
        "VASP ML_AB file",
        _structures(file),
        natural={"energy": "energy", "forces": "forces", "stress": "stress"},
        stated=Units().filled(),
    )


def _recognises(file: File) -> bool:
    try:
        with open_with_compression(str(file.path), "rb") as stream:
            return bool(_BANNER.match(stream.read(500).decode("utf-8", "replace")))
    except Exception:  # each kind of compression has its own; other formats say what is wrong
        return False


ML_AB = Format(_recognises, open_ml_ab)


def _structures(file: File) -> Iterator[Frame]:
    with open_with_compression(str(file.path), "rb") as stream:
        text = stream.read().decode("utf-8", "replace")
    for index, block in enumerate(_CONFIGURATION.split(text)[1:]):
        try:
            yield index, _structure(block)
        except Exception as error:  # a section that is absent or not of numbers
            yield (
                index,
                DataError(
                    f"'{file.name}', structure {index} of the ML_AB file cannot be read "
                    f"({reason(error)}). Is the file complete?"
                ),
            )


def _structure(block: str) -> Atoms:
    kinds = [line.split() for line in _section(block, "Atom types and atom numbers")]
    symbols = [symbol for symbol, count in kinds for _ in range(int(count))]
    atoms = Atoms(
        symbols,
        _numbers(block, r"Atomic positions \(ang\.\)"),
        cell=_numbers(block, r"Primitive lattice vectors \(ang\.\)"),
        pbc=True,
    )
    energy = float(_numbers(block, r"Total energy \(eV\)").item())
    results: dict[str, Any] = {"energy": energy, "free_energy": energy}
    results["forces"] = _numbers(block, r"Forces \(eV ang\.\^-1\)")
    if "Stress (kbar)" in block:
        xx, yy, zz = _numbers(block, "XX YY ZZ")[0]
        xy, yz, zx = _numbers(block, "XY YZ ZX")[0]
        results["stress"] = -0.1 * GPa * np.array([xx, yy, zz, yz, zx, xy])
    atoms.calc = SinglePointCalculator(atoms)
    atoms.calc.results = results
    return atoms


def _section(block: str, title: str) -> list[str]:
    found = re.search(_SECTION.format(title), block, re.MULTILINE)
    if found is None:
        raise ValueError(f"no section {title}")
    return [line for line in found[1].splitlines() if line.strip()]


def _numbers(block: str, title: str) -> np.ndarray:
    rows = [line.split() for line in _section(block, title)]
    return np.array([[float(word) for word in row] for row in rows])
