"""All other files that ASE reads: trajectories, outputs of programs, XSF."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import ase.io
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io.formats import ioformats, open_with_compression
from ase.io.vasp_parsers.vasp_outcar_parsers import OUTCARChunk, outcarchunks
from ase.units import Hartree

from finetune.core.errors import DataError
from finetune.core.units import Units
from finetune.data.formats.convergence import STEPS, Step
from finetune.data.formats.frames import (
    File,
    Format,
    Frame,
    Frames,
    LeftOutError,
    reason,
    unreadable,
)
from finetune.recipe.sections import LabelKeys

_NATURAL = {"energy": "energy", "forces": "forces", "stress": "stress"}
_NAMED = {"traj", "bundletrajectory"}
"""Formats in which users name the labels."""
_COUNTED = {"vasp", "vasp-xdatcar"}
"""Formats whose head gives the number of atoms, for which ASE allocates memory at once."""
_AENET = re.compile(r"#\s*total energy\s*=\s*([-+\d.eEdD]+)\s*(eV)?", re.IGNORECASE)


def open_with_ase(file: File, keys: LabelKeys) -> Frames:
    """Open a file with ASE's reader for its format."""
    kind = file.ase_kind
    stream = _stream(file.path, file.name, kind)
    if kind in _NAMED:
        return Frames(ioformats[kind].description, stream)
    return Frames(ioformats[kind].description, stream, natural=_NATURAL, stated=Units().filled())


ASE = Format(lambda file: True, open_with_ase)


def _stream(path: Path, source: str, kind: str) -> Iterator[Frame]:
    count, title = 0, ioformats[kind].description
    if kind in _COUNTED:
        _check_counts(path, source)
    if kind == "xsf":
        _check_rows(path, source)
    try:
        if kind == "vasp-out":
            frames: Iterator[Any] = _outcar(path)
        else:
            frames = ase.io.iread(path, index=":", format=kind, do_not_split_by_at_sign=True)
        steps = STEPS[kind](path) if kind in STEPS else iter(())
        for count, frame in enumerate(_checked(frames, steps, source), 1):  # noqa: B007
            if kind == "xsf" and isinstance(frame, ase.Atoms):
                _aenet(path, frame)
            yield count - 1, frame
    except (StopIteration, IndexError):
        if count == 0:
            raise DataError(f"'{source}' contains no structure at that index.") from None
        yield count, unreadable(source, count, "the file ends within it", title)
    except Exception as error:  # ASE's readers raise whatever their parsers raise
        yield count, unreadable(source, count, reason(error), title)


def _checked(
    frames: Iterator[Any], steps: Iterator[Step], source: str
) -> Iterator[ase.Atoms | DataError]:
    """Yield what ASE reads; leave out steps that are no labels, and correct energies."""
    for index, step in enumerate(chain(steps, repeat(Step()))):
        frame = next(frames, None) if step.read else None
        if step.fault:
            yield LeftOutError(f"'{source}', structure {index}: {step.fault}.")
        elif frame is None:
            return
        else:
            atoms = frame.build() if isinstance(frame, OUTCARChunk) else frame
            if step.level:
                atoms.info["level_of_theory"] = step.level
            if step.energy is not None:
                atoms.calc.results |= {"energy": step.energy, "free_energy": step.energy}
            yield atoms


def _outcar(path: Path) -> Iterator[OUTCARChunk]:
    """Yield the ionic steps of an OUTCAR before ASE parses them, which it cannot where ML does."""
    with open_with_compression(str(path), "rt") as file:
        yield from outcarchunks(file)


def _check_counts(path: Path, source: str) -> None:
    """Refuse a POSCAR whose head gives more atoms than the file has lines."""
    with path.open(encoding="utf-8", errors="replace") as file:
        head = [line.split() for _, line in zip(range(7), file, strict=False)]
        lines = len(head) + sum(1 for _ in file)
    for words in head[5:]:
        if words and all(word.isdigit() for word in words) and sum(map(int, words)) > lines:
            raise DataError(
                f"'{source}', structure 0 should have {' + '.join(words)} atoms, but the file has "
                f"only {lines} lines. Is the file complete?"
            )


def _check_rows(path: Path, source: str) -> None:
    """Refuse an XSF file with more or fewer rows after PRIMCOORD than it says."""
    index, number, rows = 0, None, 0
    with open_with_compression(str(path), "rb") as file:
        lines = (words for line in file if (words := line.split()) and words[0][:1] != b"#")
        for words in chain(lines, [[b"END"]]):
            if number is not None and len(words) > 3:
                rows += 1
                continue
            if number is not None and number != b"%d" % rows:
                raise DataError(
                    f"'{source}', structure {index} should have {number.decode('ascii', 'replace')}"
                    f" atoms, but has {rows} rows. Is the file complete?"
                )
            index += number is not None
            number, rows = (next(lines, [b""])[0] if words[0] == b"PRIMCOORD" else None), 0


def _aenet(path: Path, atoms: ase.Atoms) -> None:
    """Take the energy that ænet writes into the first line of an XSF file (eV).

    Its forces are in eV/Å, where ASE takes those of an XSF file to be in Hartree/Å.
    """
    with path.open(encoding="utf-8", errors="replace") as file:
        found = _AENET.search(file.readline(500))
    if found is None:
        return
    results = {"energy": float(found[1].lower().replace("d", "e"))}
    if atoms.calc is not None and "forces" in atoms.calc.results:
        results["forces"] = atoms.calc.results["forces"] / Hartree
    atoms.calc = SinglePointCalculator(atoms, **results)
