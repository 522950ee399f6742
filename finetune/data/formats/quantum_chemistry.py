"""Outputs of quantum chemistry programs: geometries and gradients by cclib, energies by level.

cclib gives geometry, charge, multiplicity, basis set and gradient. It pairs neither energies with
geometries nor levels with energies, so both are done here: an energy belongs to the geometry before
it, and its level is what its own line of the output says. Nothing is taken from cclib that the text
does not confirm.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import StringIO
from itertools import count
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io.formats import open_with_compression
from ase.units import Bohr, Hartree
from numpy.typing import NDArray
from scipy.spatial.distance import pdist

from finetune.core.errors import DataError
from finetune.core.text import counted
from finetune.core.units import Units
from finetune.data.formats.frames import File, Format, Frame, Frames, LeftOutError, extra, select
from finetune.recipe.sections import LabelKeys

_NUMBER = r"(?P<energy>-?\d+\.\d+(?:[DEde][-+]?\d+)?)"
_SAME = 1e-6
"""Hartree; energies of one level and geometry that differ by less are printed twice."""
_POST_HF = re.compile("MP[2-5]|CI|CC|QCI|BD|RI")
"""Methods after Hartree-Fock, some of which cclib calls functionals."""
_HEAD = 300_000
"""Bytes within which a program names itself."""


@dataclass(frozen=True)
class Program:
    """How a program writes what it computed.

    Attributes:
        banner: Text that only its outputs have.
        parser: Name of cclib's class.
        energies: Levels, and patterns of lines with a total energy ``<N>``. "" is the method that
            the pattern captures, "reference" that of orbitals (RHF, UKS), "SCF" Hartree-Fock or the
            functional, "correlated" that of the input, "excited" of a root.
        failed: Pattern of what it writes where its electrons do not converge.
        final: Pattern of the total energy that ends each geometry, of the level named last.
        functional: Pattern of what its functional is made of, where cclib does not know it, or of
            the method that the input names.
        root: Pattern of the excited state that the next energies and gradients are of.
        gradient: What turns cclib's gradient into forces in Hartree/Bohr; 0 where it is not read.
        unit: Of energies, eV.
        refused: Pattern of outputs whose energies and geometries cannot be paired, and why.
        corrections: Pattern of what ``final`` adds to the energy of its level, Hartree.
        state: Pattern of charge and multiplicity, where cclib's are wrong.
        retries: Whether it tries another algorithm where its electrons do not converge.
    """

    banner: str
    parser: str
    energies: tuple[tuple[str, str], ...]
    failed: str
    final: str = ""
    functional: str = ""
    root: str = ""
    gradient: float = -1.0
    unit: float = Hartree
    refused: tuple[str, str] = ("", "")
    corrections: str = ""
    state: str = ""
    retries: bool = False


PROGRAMS: dict[str, Program] = {
    "Gaussian": Program(
        "Entering Gaussian System|Gaussian, Inc",
        "Gaussian",
        (
            ("reference", r"SCF Done:\s+E\((?P<method>[^)]+)\)\s*=\s*<N>"),
            ("", r"E2\([^)]*\)\s*=\s*\S+\s+E\((?P<method>[^)]+)\)\s*=\s*<N>"),
            ("", r"EU(?P<method>MP[23])\s*=\s*<N>"),
            ("", r"\bU(?P<method>MP4\(\w+\))\s*=\s*<N>"),
            ("correlated", r"Wavefunction amplitudes converged\. E\(Corr\)=\s*<N>"),
            ("correlated", r"E\(CORR\)=\s*<N>.*\n(?:(?!.*CORR).*\n){0,2} CI/CC converged"),
            ("", r"^ (?P<method>(?:CCSD|QCISD|BD)\(T\))\s*=\s*<N>"),
            ("excited", r"Total Energy, E\((?P<method>[^)]+)\)\s*=\s*<N>"),
        ),
        r"Convergence criterion not met|Convergence failure",
        functional=(
            r"(?im)^ #(?:(?!\n -{4})[\s\S])*?"
            r"(?:\b(?:EOM)?-?(CCSD|QCISD|CCD|CISD|CID|BD)\b|\n -{4})"
        ),
        root=r"Excited State\s+(\d+):",
        refused=(
            r"ONIOM: extrapolated|Counterpoise corrected energy",
            "energies of several fragments or layers are not read. Compute them one by one",
        ),
        gradient=1.0,
        retries=True,
    ),
    "ORCA": Program(
        r"\* O   R   C   A \*",
        "ORCA",
        (
            ("SCF", r"^Total Energy\s+:\s+<N> Eh"),
            ("MP2", r"MP2 TOTAL ENERGY:\s+<N>"),
            ("", r"^E\((?P<method>MP[23])\)\s+=\s+<N>"),
            ("CCSD", r"^E\(TOT\)\s+\.\.\.\s+<N>"),
            ("", r"^E\((?P<method>CCSD(?:\(T\))?)\)\s+\.\.\.\s+<N>"),
            ("excited", r"^\s+E\(tot\)\s+=\s+<N> Eh"),
        ),
        r"Wavefunction not fully converged|SCF NOT CONVERGED|NOT YET CONVERGED!|have NOT converged",
        final=r"^FINAL SINGLE POINT ENERGY\s+<N>",
        functional=(
            r"Hamiltonian:\s+(?:Ab initio Hamiltonian.*Hartree-?\s?Fock|"
            r"Density Functional.*\n\s*Exchange Functional.*?\.{4}\s+(\S+)[\s\S]{0,300}?"
            r"Correlation Functional.*?\.{4}\s+(\S+)"
            r"(?:[\s\S]{0,300}?ScalHFX\s+\.{4}\s+(\S+))?)"
        ),
        root=r"DE\(\w+\)\s*=.*\(Root\s+(\d+)\)",
        corrections=r"(Dispersion|gCP) correction\s+(-?\d+\.\d+)",
    ),
    "Molpro": Program(
        "PROGRAM SYSTEM MOLPRO",
        "Molpro",
        (
            ("reference", r"!?(?P<method>\w+) STATE\s+1\.1 Energy\s+<N>"),
            ("", r"^ [ !](?P<method>\S+) total energy\s+<N>"),
        ),
        "No convergence",
    ),
    "Psi4": Program(
        "Psi4: An Open-Source",
        "Psi4",
        (
            ("reference", r"@(?:DF-)?(?P<method>\w+) Final Energy:\s+<N>"),
            ("DF-MP2", r"^\s+Total Energy\s+=\s+<N> \[Eh\]"),
            ("", r"\* (?P<method>\S+) total energy\s+=\s+<N>"),
        ),
        r"Could not converge SCF|SCF did not converge|Iterations did not converge",
    ),
    "Q-Chem": Program(
        "A Quantum Leap Into The Future",
        "QChem",
        (
            ("SCF", r"Total energy in the final basis set =\s+<N>"),
            ("", r"^\s+(?P<method>MP2|CCS?D(?:\(T\))?)\s+total energy\s+=\s+<N>"),
            ("", r"^ (?P<method>MP3) energy\s+=\s+<N>"),
            ("", r"^ *E(?P<method>MP4\w*)\s+=\s+<N>"),
        ),
        r"SCF failed to converge|Convergence failure",
        state=r"\$molecule\s+(-?\d+)\s+(\d+)",
    ),
    "NWChem": Program(
        "Northwest Computational Chemistry Package",
        "NWChem",
        (
            ("SCF", r"Total (?:SCF|DFT) energy\s*=\s*<N>"),
            ("", r"Total (?P<method>MP2|CCSD|CCSD\(T\)) energy:?\s+<N>"),
            ("", r"^ (?P<method>CCSD(?:\(T\))?|MBPT\(\d\)) total energy / hartree\s+=\s+<N>"),
        ),
        r"Calculation failed to converge|convergence failure",
        refused=("NWChem QMD Module", "steps of molecular dynamics are not read"),
    ),
    "Turbomole": Program(
        r"TURBOMOLE (?:V\d|rev)",
        "Turbomole",
        (
            ("SCF", r"\|\s+total energy\s+=\s+<N>\s+\|"),
            ("", r"Final (?P<method>\S+) energy\s+:\s+<N>"),
            ("", r"Method\s+:\s+(?P<method>\S+)\s*\n\s+Total Energy\s+:\s+<N>"),
        ),
        r"did not converge|not converged",
        gradient=0.0,  # cclib takes the gradient for a length, and does not say of what energy
    ),
    "DALTON": Program(
        "Dalton - An Electronic Structure Program",
        "DALTON",
        (
            ("SCF", r"@\s+Final (?:HF|DFT) energy:\s+<N>"),
            ("MP2", r"MP2 second order energy\s+:\s+<N>"),
            ("", r"^\s+Total (?P<method>MP2|CCS|CC2|CCSD)\s+energy:\s+<N>"),
            ("CCSD(T)", r"Total energy CCSD\(T\):\s+<N>"),
        ),
        r"(?i)(?:SCF|DIIS|wave ?function|CC).*not converged",
    ),
    "GAMESS": Program(
        r"GAMESS VERSION|PC GAMESS",
        "GAMESS",
        (
            ("reference", r"FINAL (?P<method>\S+) ENERGY IS\s+<N> AFTER"),
            ("SCF", r"FINAL ENERGY IS\s+<N> AFTER"),
            ("MP2", r"^\s+E\(MP2\)=\s+<N>"),
            ("", r"^\s+(?P<method>CCD|CCSD|CCSD\(T\))\s+ENERGY:\s+<N>"),
        ),
        "UNCONVERGED",
        functional=r"(?m)^\s+DFTTYP=(?!NONE)(\w+)",
    ),
    "MOPAC": Program(
        r"MOPAC20\d\d",
        "MOPAC",
        (("SCF", r"TOTAL ENERGY\s+=\s+<N> EV"),),
        r"UNABLE TO ACHIEVE SELF-CONSISTENCE",
        functional=r"\b(PM\d\S*|AM1|RM1|MNDO\S*)\b",
        unit=1.0,
        refused=(
            r"\A(?![\s\S]*\b1SCF\b)",
            "geometries of optimisations are not read. Compute single points (1SCF)",
        ),
    ),
    "ADF": Program(
        "Amsterdam Density Functional",
        "ADF",
        (("bonding energy", r"^Total Bonding Energy:\s+<N>"),),
        r"SCF (?:IS )?NOT (?:YET )?CONVERGED",
    ),
}
"""Programs whose outputs are read, by name."""


@dataclass
class Point:
    """One geometry and what was computed for it: energies by level, eV, and cclib's gradient.

    ``main`` is the level of its energy, ``excited`` that of the root last computed, ``oriented``
    whether it is in the input orientation, ``ended`` whether its final energy is printed.
    ``further`` counts energies of a level that it already has: their geometries are not printed.
    """

    numbers: Any = None
    positions: Any = None
    oriented: bool = False
    energies: dict[str, float] = field(default_factory=dict)
    main: str = ""
    excited: str = ""
    basis: str = ""
    charge: int | None = None
    spin: int | None = None
    corrections: dict[str, float] = field(default_factory=dict)
    gradient: Any = None
    gradient_level: str = ""
    failed: bool = False
    ended: bool = False
    further: int = 0


def open_output(file: File, keys: LabelKeys) -> Frames:
    """Open an output; ``data.keys.energy`` may name the level, such as ``CCSD(T)``."""
    name = file.program(PROGRAMS, _HEAD)
    program = PROGRAMS[name]
    cclib = extra("cclib.parser", f"'{file.name}' is an output of {name}")
    with open_with_compression(str(file.path), "rb") as stream:
        text = stream.read().decode("utf-8", "replace").replace("\r\n", "\n")
    pattern, why = program.refused
    if pattern and re.search(pattern, text):
        raise DataError(f"'{file.name}' is an output of {name}: {why}.")
    points = _points(_events(text, program, getattr(cclib, program.parser)), program)
    usual = {LabelKeys().energy, "energy", "free_energy"}
    asked = "" if not keys.energy or keys.energy in usual else keys.energy
    frames = list(select(enumerate(_frames(points, program, asked, keys, file.name)), file))
    if not asked:
        _check_level(frames, points, file.name)
    return Frames(
        f"{name} output",
        iter(frames),
        natural={"energy": "energy", "forces": "forces"},
        stated=Units().filled(),
        names=frozenset(level for point in points for level in point.energies),
        chosen=True,
        sparse=bool(asked),
    )


QUANTUM_CHEMISTRY = Format(lambda file: bool(file.program(PROGRAMS, _HEAD)), open_output)


def _events(text: str, program: Program, parser: Any) -> list[tuple[int, str, Any]]:
    """Return what an output says, in order: place, kind and value."""
    found = list(_read_by_cclib(text, program, parser))
    energies = [*program.energies, ("final", program.final)]
    for level, pattern in energies if program.final else energies[:-1]:
        matches = re.finditer(pattern.replace("<N>", _NUMBER), text, re.MULTILINE)
        found += [(match.start("energy"), "energy", (level, match)) for match in matches]
    for kind in ("failed", "root", "functional", "corrections", "state"):
        if pattern := getattr(program, kind):
            found += [(match.start(), kind, match) for match in re.finditer(pattern, text)]
    return sorted(found, key=lambda event: event[0])


def _read_by_cclib(text: str, program: Program, parser: Any) -> Iterator[tuple[int, str, Any]]:
    """Yield geometries, gradients, charge, multiplicity and method as cclib comes upon them.

    Its parsers fail in blocks that are not needed here (orbitals of newer versions), so that each
    line is handed to them by itself.
    """
    wrapper = extra("cclib.parser.logfilewrapper", "an output").FileWrapper(StringIO(text))
    reader = parser(wrapper, loglevel=logging.CRITICAL)
    reader.fupdate = reader.cupdate = 0.0
    reader.before_parsing()
    last: dict[str, Any] = {}
    said: dict[str, Any] = {}
    complete = False
    while not complete:
        at = wrapper.pos
        try:
            reader.extract(wrapper, next(wrapper))
        except StopIteration:
            complete = True
        except Exception:
            pass  # whatever the parser raises in a block that it does not know
        for name in ("inputcoords", "atomcoords", "grads"):
            values: Any = getattr(reader, name, ())
            if len(values) and values[-1] is not last.get(name):
                last[name] = values[-1]
                yield at, name, (getattr(reader, "atomnos", None), values[-1])
        metadata = reader.metadata
        now = {
            "charge": getattr(reader, "charge", None),
            "spin": getattr(reader, "mult", None),
            "basis": metadata.get("basis_set") or "",
            "functional": metadata.get("functional")
            or ("DFT" if "DFT" in metadata["methods"][-1:] else ""),
            "numbers": getattr(reader, "atomnos", None),
        }
        if any(now[key] is not said.get(key) for key in now):
            said = now
            yield at, "known", now


def _points(events: list[tuple[int, str, Any]], program: Program) -> list[Point]:
    """Give each energy and gradient to the geometry before it."""
    points: list[Point] = []
    point = Point()
    state: dict[str, Any] = {}
    printed: list[str] = []
    marks: dict[str, Any] = {"functional": "", "root": ""}
    for _, kind, value in events:
        if kind == "known":
            state = value | {key: state[key] for key in printed}
        elif kind == "state":
            printed = ["charge", "spin"]
            state |= {"charge": int(value[1]), "spin": int(value[2])}
        elif kind in {"inputcoords", "atomcoords"}:
            oriented = kind == "inputcoords"
            if point.oriented and not oriented and not point.energies:
                continue  # the same in standard orientation, which gradients do not refer to
            if point.positions is not None or not point.energies:
                point = Point()
                points.append(point)
            point.numbers, point.positions = value
            point.oriented = oriented
        elif kind == "energy":
            if not points or points[-1] is not point:
                points.append(point)
            level, match = value
            _take(point, level, match, program, state, marks)
        elif kind == "grads":
            used = program.gradient and point.energies and not point.further
            if used and point.gradient is None:
                point.main = point.excited or point.main
                point.gradient, point.gradient_level = value[1], point.main
        elif kind == "failed":
            point.failed = True
        elif kind == "corrections":
            point.corrections[value[1]] = float(value[2]) * program.unit
        elif kind == "functional":
            parts = [part for part in value.groups() if part]
            marks[kind] = "-".join(_share(part) for part in parts).upper() or "HF"
        else:
            marks[kind] = value[1]
        if point.numbers is None:
            point.numbers = state.get("numbers")
    return points


def _share(part: str) -> str:
    """Write a fraction of exact exchange as one."""
    return f"{100 * float(part):g}%HF" if re.fullmatch(r"\d+\.\d+", part) else part


def _take(
    point: Point,
    level: str,
    match: re.Match[str],
    program: Program,
    state: dict[str, Any],
    marks: dict[str, Any],
) -> None:
    """Take an energy of the level that its line names."""
    energy = float(re.sub("[Dd]", "E", match["energy"])) * program.unit
    method = match.groupdict().get("method") or ""
    functional = state.get("functional") or ""
    known = marks["functional"] or (functional if not _POST_HF.match(functional) else "") or "HF"
    orbitals = level in {"SCF", "reference"}
    if level == "reference":
        method = re.sub("^(RO|R|U)-?(?=.)", "", method)
        level = (functional or "DFT") if method == "KS" else method
    elif level == "SCF":
        level = known
    elif level == "correlated":
        level = known if _POST_HF.match(known) else "coupled cluster"
    elif level == "excited":
        kind = {"TD-HF/TD-DFT": f"TD-{point.main}", "CIS/TDA": f"TDA-{point.main}"}
        base = kind.get(method, method or f"TD-{point.main}")
        level = f"{base} root {marks['root'] or '?'}"
        point.excited = level
    elif level == "final":
        level = _final_level(point, energy, program, known)
        point.ended = True
    elif program.final and known != "HF" and re.fullmatch("MP2", level or method):
        level = f"{known}+MP2"  # of a double hybrid
    level = level or method
    if abs(point.energies.get(level, energy) - energy) > _SAME * program.unit:
        if program.retries and point.failed:
            point.failed = False
        else:
            point.further += 1
    if point.further:
        return
    point.energies[level] = energy
    point.charge, point.spin = state.get("charge"), state.get("spin")
    point.basis = state.get("basis", "")
    if point.ended or (level != point.excited and not (orbitals and point.main)):
        point.main = level


def _final_level(point: Point, energy: float, program: Program, known: str) -> str:
    """Return the level of a geometry's last energy, which its line does not name."""
    close = 10 * _SAME * program.unit
    for level, value in reversed(point.energies.items()):
        if abs(energy - value) < close:
            return level
        if abs(energy - value - sum(point.corrections.values())) < close:
            return "+".join([level, *("D" if n == "Dispersion" else n for n in point.corrections)])
    return f"a level that is not named, after {point.main}" if point.main else known


def _frames(
    points: list[Point], program: Program, asked: str, keys: LabelKeys, source: str
) -> Iterator[Atoms | DataError]:
    """Yield a structure for each geometry, of the level asked for or of that it ends with."""
    index = count()
    for place, point in enumerate(points):
        near = points[max(place - 1, 0) : place] + points[place + 1 : place + 2]
        if not point.energies and any(_alike(point, other) for other in near):
            continue  # printed once more, for example at the end
        where = f"'{source}', structure {next(index)}"
        if point.failed:
            yield LeftOutError(f"{where}: its electrons did not converge.")
        elif not point.energies or (program.final and not point.ended):
            yield LeftOutError(
                f"{where} has no energy: the output ends before it, or does not print it."
            )
        elif point.positions is None:
            yield LeftOutError(f"{where}: no geometry is printed for its energy.")
        else:
            yield _atoms(point, program, asked, keys, where)
        if point.further:
            yield LeftOutError(
                f"'{source}', structure {next(index)}: energies are printed "
                f"{counted(point.further, 'more time')} without a geometry (line search, "
                "numerical derivatives)."
            )


def _alike(point: Point, other: Point) -> bool:
    """Say whether two geometries are the same, up to orientation."""
    if np.shape(point.positions) != np.shape(other.positions) or point.positions is None:
        return False
    return bool(np.allclose(pdist(point.positions), pdist(other.positions), atol=1e-3))


def _atoms(
    point: Point, program: Program, asked: str, keys: LabelKeys, where: str
) -> Atoms | DataError:
    level = next((key for key in point.energies if key.casefold() == asked.casefold()), "")
    level = level if asked else point.main
    numbers, positions = np.asarray(point.numbers), np.asarray(point.positions, dtype=float)
    if positions.shape != (numbers.size, 3):
        return DataError(f"{where} has {numbers.size} elements, but {len(positions)} positions.")
    atoms = Atoms(numbers, positions)
    results: dict[str, Any] = {}
    if level:
        energy = point.energies[level]
        results = {"energy": energy, "free_energy": energy, **({asked: energy} if asked else {})}
        atoms.info["level_of_theory"] = f"{level}/{point.basis}" if point.basis else level
    if point.gradient is not None and level == point.gradient_level:
        forces = np.asarray(point.gradient, dtype=float) * program.gradient * Hartree / Bohr
        if forces.shape != positions.shape:
            return DataError(f"{where} has {len(positions)} atoms, but {len(forces)} forces.")
        if _turned(positions, forces):
            return DataError(
                f"{where}: its forces turn the molecule. They are in another orientation than the "
                "geometry that is printed, or a field acts. Print the input orientation, or drop "
                "it."
            )
        results["forces"] = forces
    for key, value in ((keys.charge, point.charge), (keys.spin, point.spin)):
        if key and value is not None:
            atoms.info[key] = int(value)
    atoms.calc = SinglePointCalculator(atoms)
    atoms.calc.results = results
    return atoms


def _turned(positions: NDArray[np.float64], forces: NDArray[np.float64]) -> bool:
    """Say whether forces (eV/Å) have a torque, which those of a free molecule do not."""
    arms = positions - positions.mean(axis=0)
    torque = np.linalg.norm(np.cross(arms, forces).sum(axis=0))
    largest = (np.linalg.norm(arms, axis=1) * np.linalg.norm(forces, axis=1)).sum()
    return bool(torque > 0.05 * largest + 0.05)


def _check_level(frames: list[Frame], points: list[Point], source: str) -> None:
    """Refuse structures of several levels of theory, of which none is chosen."""
    found: dict[str, list[int]] = {}
    for index, frame in frames:
        if isinstance(frame, Atoms):
            found.setdefault(frame.info["level_of_theory"], []).append(index)
    if len(found) < 2:
        return
    listed = ", ".join(
        f"{level} (structure{'s' if len(at) > 1 else ''} {_span(at)})"
        for level, at in found.items()
    )
    names = dict.fromkeys(level for point in points for level in point.energies)
    raise DataError(
        f"'{source}' has energies of several levels of theory: {listed}. Choose one with "
        f"data.keys.energy (command: --energy-key): {', '.join(names)}; or structures with "
        "FILE@INDEX."
    )


def _span(indices: list[int]) -> str:
    first, last = indices[0], indices[-1]
    return (
        f"{first} to {last}"
        if last - first + 1 == len(indices) > 1
        else ", ".join(map(str, indices))
    )
