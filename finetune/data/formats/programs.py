"""Everything else that ASE reads: databases, trajectories, outputs of programs, XSF."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import ase.io
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io.formats import filetype, ioformats
from ase.units import Hartree

from finetune.core.errors import DataError
from finetune.core.units import Units
from finetune.data.formats.frames import Frame, Frames, reason

_NATURAL = {"energy": "energy", "forces": "forces", "stress": "stress"}
_NAMED = {"db", "json", "traj", "bundletrajectory", "mysql", "postgresql"}
"""Formats that hold labels under names of the user's."""
_COUNTED = {"vasp", "vasp-xdatcar"}
"""Formats whose head says how many atoms follow, for which ASE makes room at once."""
_AENET = re.compile(r"#\s*total energy\s*=\s*([-+\d.eEdD]+)\s*(eV)?", re.IGNORECASE)


def kind_of(path: Path, source: str) -> str:
    """Return ASE's name of a file's format.

    Raises:
        DataError: If ASE does not know it.
    """
    try:
        return str(filetype(str(path)))
    except Exception:  # the guesses look into the file
        raise DataError(
            f"'{source}' cannot be read by ASE: its format is unknown. Convert it to extended XYZ "
            "(.xyz), or give it the name that its program gives such files."
        ) from None


def open_with_ase(path: Path, source: str, index: str, kind: str) -> Frames:
    """Open a file with ASE's reader for it.

    Args:
        path: The file.
        source: What the user calls it.
        index: What of it to read: ``:`` or a query for a database.
        kind: ASE's name of the format.
    """
    description = ioformats[kind].description if kind in ioformats else kind
    stream = _stream(path, source, index, kind)
    if kind in _NAMED:
        return Frames(description, stream, chosen=index != ":")
    return Frames(description, stream, natural=_NATURAL, stated=Units().filled())


def _stream(path: Path, source: str, index: str, kind: str) -> Iterator[Frame]:
    count = 0
    if kind in _COUNTED:
        _check_counts(path, source)
    try:
        frames = ase.io.iread(path, index=index, format=kind, do_not_split_by_at_sign=True)
        for count, atoms in enumerate(frames, 1):  # noqa: B007
            if kind == "xsf":
                _aenet(path, atoms)
            yield count - 1, atoms
    except (StopIteration, IndexError):
        if count == 0:
            raise DataError(f"'{source}' holds no structure at that index.") from None
        yield count, _fault(source, count, "it ends in the middle of it")
    except Exception as error:  # ASE's readers raise whatever their parsers raise
        yield count, _fault(source, count, reason(error))


def _check_counts(path: Path, source: str) -> None:
    """Raise if the head of a POSCAR promises more atoms than the file has lines."""
    with path.open(encoding="utf-8", errors="replace") as file:
        head = [line.split() for _, line in zip(range(7), file, strict=False)]
        lines = len(head) + sum(1 for _ in file)
    for words in head[5:]:
        if words and all(word.isdigit() for word in words) and sum(map(int, words)) > lines:
            raise DataError(
                f"'{source}', structure 0 is to have {' + '.join(words)} atoms, but the file has "
                f"only {lines} lines. Is the file whole?"
            )


def _fault(source: str, count: int, why: str) -> DataError:
    return DataError(
        f"'{source}', structure {count} cannot be read by ASE ({why}). Is the file whole, and of "
        f"the format that its name says?"
    )


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
