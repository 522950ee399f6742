"""Outputs of solid-state programs that ASE does not read: CP2K, SIESTA, ABACUS, PWmat, OpenMX.

dpdata reads them. It drops what did not converge, or takes it, without a count, and gives SIESTA's
stress the wrong sign; both are set right here against the text of the output.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import atomic_numbers
from ase.stress import full_3x3_to_voigt_6_stress

from finetune.core.errors import DataError
from finetune.core.units import Units
from finetune.data.formats.frames import PACKED, File, Format, Frames, LeftOutError, extra, reason
from finetune.recipe.sections import LabelKeys

_ELEMENT = re.compile(r"^\s+\d+\s+\d+\s+([A-Z][a-z]?)\s+\d+\s+-?\d", re.MULTILINE)
"""A row of CP2K's table of coordinates: atom, kind, element, atomic number."""
_HEAD = 20_000
"""Characters within which a program names itself."""


@dataclass(frozen=True)
class Solid:
    """How a program's output is recognised and handed to dpdata.

    Attributes:
        banner: Pattern that only its outputs have.
        source: Returns dpdata's name of the format and the path that it asks for.
        converged: Pattern of the end of each geometry's iterations.
        failed: Pattern, within such a match, of those that did not converge.
        stress: Sign that turns dpdata's virial into ASE's stress; 0 where it is not known.
        dropped: Whether dpdata drops what did not converge.
    """

    banner: str
    source: Callable[[File, str], tuple[str, Path]]
    converged: str = ""
    failed: str = ""
    stress: float = -1.0
    dropped: bool = False


def _cp2k(file: File, text: str) -> tuple[str, Path]:
    if "ENSEMBLE TYPE" in text or "MD| " in text:
        logs = sorted(file.path.parent.glob("*.log"))
        if logs != [file.path] or len(list(file.path.parent.glob("*pos*.xyz"))) != 1:
            raise DataError(
                f"'{file.name}' is molecular dynamics of CP2K: its geometries are in the file "
                "…-pos-1.xyz. Put both into a folder of their own, the output as the only .log."
            )
        upper = re.findall(r"CELL\| Vector (?:a.*?:\s+\S+\s+(\S+)|b.*?:\s+\S+\s+\S+)\s+(\S+)", text)
        if any(abs(float(number)) > 1e-3 for pair in upper for number in pair if number):
            raise DataError(
                f"'{file.name}': dpdata turns the cells of CP2K's molecular dynamics, but not its "
                "atoms. Only cells with a along x and b in the xy plane are read."
            )
        return "cp2k/aimd_output", file.path.parent
    count = text.rpartition("Multiplication driver")[2].count("ENERGY| Total FORCE_EVAL")
    if count > 1:
        raise DataError(
            f"'{file.name}' has {count} energies, but one geometry. Compute the steps of an "
            "optimisation as single points."
        )
    return "cp2k/output", file.path


def _siesta(file: File, text: str) -> tuple[str, Path]:
    if "outcoor: Atomic coordinates (Ang)" not in text:
        raise DataError(
            f"'{file.name}' has no coordinates in Å. Compute with WriteCoorStep and "
            "AtomCoorFormatOut Ang."
        )
    several = text.count("siesta: E_KS(eV) =") > 1
    return f"siesta/{'aimd_output' if several else 'output'}", file.path


def _abacus(file: File, text: str) -> tuple[str, Path]:
    run, folder = file.path.stem.removeprefix("running_"), file.path.parent
    inputs = folder.parent / "INPUT"
    found = inputs.is_file() and re.search(
        r"^\s*suffix\s+(\S+)", inputs.read_text("utf-8", "replace"), re.MULTILINE
    )
    if not inputs.is_file() or folder.name != f"OUT.{found[1] if found else 'ABACUS'}":
        raise DataError(
            f"'{file.name}' is an output of ABACUS, whose INPUT and STRU must be in the folder "
            f"above '{folder.name}', with that suffix."
        )
    return f"abacus/{'relax' if 'relax' in run else run}", folder.parent


def _openmx(file: File, text: str) -> tuple[str, Path]:
    if not file.path.with_suffix(".dat").is_file():
        raise DataError(f"'{file.name}' is of OpenMX: its input, ….dat, must be beside it.")
    return "openmx/md", file.path.with_suffix("")


SOLIDS: dict[str, Solid] = {
    "CP2K": Solid(r"CP2K\|", _cp2k, r"SCF run (?:NOT )?converged", "NOT"),
    "SIESTA": Solid(
        r"Siesta Version|SIESTA \d",
        _siesta,
        r"(?:SCF_NOT_CONV[\s\S]*?)?siesta: E_KS\(eV\) =",
        "NOT_CONV",
        stress=1.0,
    ),
    "ABACUS": Solid(
        r"ABACUS v|Atomic-orbital Based Ab-initio|WELCOME TO ABACUS",
        _abacus,
        r"final etot is|#TOTAL ENERGY#|convergence has (?:not|NOT) been achieved",
        "(?i)not",
        dropped=True,
    ),
    "PWmat": Solid(
        r"^\s*\d+\s*atoms,\s*Iteration",
        lambda file, text: ("pwmat/movement", file.path),
        stress=0.0,
        dropped=True,
    ),
    "OpenMX": Solid(
        r"time=.*Energy=.*\(Hartree\)[\s\S]*Cell_Vectors=",
        _openmx,
        r"time=.*",
        r"scf_conv=\s*0",
    ),
}
"""By name of the program."""


def open_solid(file: File, keys: LabelKeys) -> Frames:
    """Open an output with dpdata."""
    name = file.program(SOLIDS, _HEAD)
    dpdata = extra("dpdata", f"'{file.name}' is an output of {name}")
    if file.path.suffix in PACKED:
        raise DataError(f"'{file.name}' is a compressed output of {name}. Decompress it.")
    text = file.path.read_text("utf-8", "replace")
    solid = SOLIDS[name]
    kind, path = solid.source(file, text)
    try:
        with warnings.catch_warnings(record=True) as said, redirect_stdout(StringIO()):
            warnings.simplefilter("always")
            data = dpdata.LabeledSystem(str(path), fmt=kind).data
    except Exception as error:  # whatever its parsers raise
        raise DataError(
            f"'{file.name}' cannot be read by dpdata as {kind} ({reason(error)}). Is it complete?"
        ) from None
    faults = _faults(solid, text, " ".join(str(item.message) for item in said))
    frames = _frames(data, faults, solid, _empty(data, text, keys), file.name)
    return Frames(
        f"{name} output",
        enumerate(frames),
        natural={"energy": "energy", "forces": "forces", "stress": "stress"},
        stated=Units().filled(),
    )


SOLID_STATE = Format(lambda file: bool(file.program(SOLIDS, _HEAD)), open_solid)


def _faults(solid: Solid, text: str, said: str) -> list[bool]:
    """Return for each geometry whether it did not converge, as the text or dpdata says."""
    if solid.converged:
        ends = re.findall(solid.converged, text)
        return [bool(re.search(solid.failed, end)) for end in ends]
    listed = re.search(r"unconverged: \[([\d, ]+)\]", said)
    failed = {int(number) for number in listed[1].split(",")} if listed else set()
    return [number in failed for number in range(1, 1 + max(failed, default=0))]


def _frames(
    data: dict[str, Any], faults: list[bool], solid: Solid, empty: Atoms, source: str
) -> Iterator[Atoms | DataError]:
    """Yield the structures that dpdata found, and an error for each that did not converge."""
    count, sizes = len(data["energies"]), {key: len(data[key]) for key in ("coords", "forces")}
    failed = sum(faults)
    dropped = solid.dropped or count == 0
    if sizes["coords"] != count or sizes["forces"] not in {0, count}:
        raise DataError(
            f"'{source}': dpdata finds {sizes['coords']} geometries, {count} energies and "
            f"{sizes['forces']} sets of forces, which do not belong together."
        )
    expected = count + failed if dropped else count
    if failed and len(faults) != expected and solid.converged:
        raise DataError(
            f"'{source}': {failed} of {len(faults)} calculations did not converge, and which of "
            f"the {count} geometries they are of cannot be told. Compute them again."
        )
    faults = faults + [False] * (expected - len(faults))
    found = iter(range(count))
    for index in range(expected):
        wrong = faults[index]
        frame = next(found) if not (wrong and dropped) else 0
        if wrong:
            yield LeftOutError(f"'{source}', structure {index}: its electrons did not converge.")
        else:
            yield _atoms(data, frame, solid.stress, empty)


def _empty(data: dict[str, Any], text: str, keys: LabelKeys) -> Atoms:
    """Return what the structures of an output share: elements, periodicity, charge and spin."""
    kinds = [str(data["atom_names"][kind]) for kind in data["atom_types"]]
    printed = _ELEMENT.findall(text)[: len(kinds)]  # CP2K's kinds may have names of their own
    names = printed if len(printed) == len(kinds) else kinds
    periodic = re.search(r"POISSON\| Periodicity\s+(\w+)", text)
    pbc = [axis in periodic[1] for axis in "XYZ"] if periodic else True
    atoms = Atoms([atomic_numbers.get(name, 0) for name in names], pbc=pbc)
    for key, word in ((keys.charge, "Charge"), (keys.spin, "Multiplicity")):
        if key and (found := re.search(rf"DFT\| {word}\s+(-?\d+)", text)):
            atoms.info[key] = int(found[1])
    return atoms


def _atoms(data: dict[str, Any], frame: int, sign: float, empty: Atoms) -> Atoms:
    """Return one structure; ``sign`` turns its virial into stress."""
    atoms = empty.copy()
    atoms.positions = data["coords"][frame]
    atoms.cell = data["cells"][frame]
    energy = float(data["energies"][frame])
    results: dict[str, Any] = {"energy": energy, "free_energy": energy}
    if len(data["forces"]):
        results["forces"] = np.asarray(data["forces"][frame], dtype=float)
    if sign and len(data.get("virials", ())):
        virial = np.asarray(data["virials"][frame], dtype=float)
        stress = sign * (virial + virial.T) / (2 * atoms.get_volume())
        results["stress"] = full_3x3_to_voigt_6_stress(stress)
    atoms.calc = SinglePointCalculator(atoms)
    atoms.calc.results = results
    return atoms
