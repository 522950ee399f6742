"""Dump files of LAMMPS: geometries and, where they were dumped, forces; never energies.

ASE reads them, in the units ``metal``, and adds an energy of zero, which is removed here.
"""

from __future__ import annotations

from collections.abc import Iterator
from io import StringIO
from itertools import islice

import ase.io
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io.formats import ioformats, open_with_compression

from finetune.core.errors import DataError
from finetune.core.units import Units
from finetune.data.formats.frames import File, Format, Frame, Frames, elements, reason
from finetune.recipe.sections import LabelKeys

_UNITS = {
    "metal": Units(energy="eV", length="Å"),
    "real": Units(energy="kcal/mol", length="Å"),
    "electron": Units(energy="Hartree", length="Bohr"),
}
"""Units of LAMMPS's ``units`` command that have energies and lengths of atoms."""
_NOTE = (
    "note: a LAMMPS dump has no energies. Label its structures (`label`), or join energies to them "
    "with data.energies."
)
_VELOCITIES = "note: the velocities are no labels and are not kept."


def open_dump(file: File, keys: LabelKeys) -> Frames:
    """Open a dump file; refuses one whose atoms have types, but neither elements nor masses."""
    with open_with_compression(str(file.path), "rb") as text:
        head = [line.decode("utf-8", "replace").strip() for line in islice(text, 100)]
    columns: list[str] = next(
        (line.split()[2:] for line in head if line.startswith("ITEM: ATOMS")), []
    )
    symbols = None if {"element", "mass"} & set(columns) else elements(file)
    if symbols is None and not {"element", "mass"} & set(columns):
        raise DataError(
            f"'{file.name}' has types of atoms without elements. Name these in the order of the "
            f"types, '{file.path}@O,H', or dump them: `dump_modify ID element O H`."
        )
    stated = head[head.index("ITEM: UNITS") + 1] if "ITEM: UNITS" in head[:-1] else None
    if stated is not None and stated not in _UNITS:
        raise DataError(
            f"'{file.name}' is in LAMMPS's units '{stated}'; {', '.join(_UNITS)} are read."
        )
    return Frames(
        ioformats["lammps-dump-text"].description,
        _corrected(_stream(file), symbols, file.name),
        chosen=symbols is not None,
        natural={"forces": "forces"},
        stated=None if stated is None else _UNITS[stated].filled(),
        usual=_UNITS["metal"],
        notes=[_NOTE, *([_VELOCITIES] if "vx" in columns else [])],
    )


DUMP = Format(lambda file: file.ase_kind == "lammps-dump-text", open_dump)


def _stream(file: File) -> Iterator[Frame]:
    """Yield the snapshots, each read by ASE once its rows are counted."""
    for index, lines in enumerate(_snapshots(file)):
        try:
            if isinstance(lines, Exception):
                raise lines
            yield index, _atoms(lines)
        except Exception as error:  # what each kind of compression, and a damaged number, makes
            known = isinstance(error, DataError)
            why = str(error) if known else f"cannot be read ({reason(error)})"
            where = f"'{file.name}', structure {index}"
            yield index, DataError(f"{where} {why}. Is the file complete?")


def _snapshots(file: File) -> Iterator[list[str] | Exception]:
    """Yield the lines of each snapshot, and at last what keeps a file from being read."""
    lines: list[str] = []
    try:
        with open_with_compression(str(file.path), "rt") as text:
            for line in text:
                if line.startswith("ITEM: TIMESTEP"):
                    if lines:
                        yield lines
                    lines = [line]
                elif lines:
                    lines.append(line)
    except Exception as error:  # each kind of compression has its own
        yield error
        return
    if lines:
        yield lines


def _atoms(lines: list[str]) -> Atoms:
    """Return a snapshot; refuse one whose rows are not as many as its number of atoms."""
    items = [place for place, line in enumerate(lines) if line.startswith("ITEM:")]
    parts = {
        lines[start][5:].strip(): [line for line in lines[start + 1 : end] if line.strip()]
        for start, end in zip(items, [*items[1:], len(lines)], strict=True)
    }
    rows = next((part for name, part in parts.items() if name.startswith("ATOMS")), [])
    number = " ".join(parts.get("NUMBER OF ATOMS", [])).strip()
    if number != str(len(rows)):
        raise DataError(f"should have {number or 'a number of'} atoms, but has {len(rows)} rows")
    found: Atoms = ase.io.read(StringIO("".join(lines)), index=0, format="lammps-dump-text")
    return found


def _corrected(stream: Iterator[Frame], symbols: list[str] | None, source: str) -> Iterator[Frame]:
    """Yield structures with the elements of their types, and without ASE's energy of zero."""
    for index, frame in stream:
        if isinstance(frame, DataError):
            yield index, frame
            continue
        wrong = [kind for kind in frame.numbers if symbols and not 0 < kind <= len(symbols)]
        if symbols is not None and wrong:
            why = f"has the type {wrong[0]}, but {len(symbols)} elements are named."
            yield index, DataError(f"'{source}', structure {index} {why}")
            continue
        if symbols is not None:
            frame.symbols = [symbols[kind - 1] for kind in frame.numbers]
        if frame.calc is not None:
            frame.calc = SinglePointCalculator(frame, forces=frame.calc.results["forces"])
        yield index, frame
