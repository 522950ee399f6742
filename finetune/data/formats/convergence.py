"""Which steps of VASP and Quantum ESPRESSO are labels: converged, self-consistent, ab initio.

ASE reads geometries, forces and stress of their outputs right, but does not ask whether the
electrons converged, and takes the first of several total energies.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from ase.io.formats import open_with_compression
from ase.units import create_units

RYDBERG = create_units("2006")["Ry"]
"""eV, as ASE has it for Quantum ESPRESSO."""
CUT_OFF = "the output ends before its electrons converged"


@dataclass(frozen=True)
class Step:
    """One geometry in an output.

    Attributes:
        fault: Why it is no label, or "".
        energy: Its total energy where ASE takes another one, eV.
        read: Whether ASE's reader yields it.
        level: The functional, where the output names it.
    """

    fault: str = ""
    energy: float | None = None
    read: bool = True
    level: str = ""


def _vasp(nelm: int | None, icharg: int, count: int) -> str:
    """Return why a step of VASP after ``count`` electronic ones is no label, or ""."""
    if nelm is not None and count >= nelm:
        return f"its electrons did not converge in NELM = {nelm} steps"
    if icharg >= 10:
        return f"it is not self-consistent (ICHARG = {icharg})"
    return ""


_PARAMETER = re.compile(r"^\s*(NELM|ICHARG)\s*=\s*(\d+)")
_ITERATION = re.compile(r"Iteration\s+[\d*]+\(\s*(\d+)\)")


def outcar_steps(path: Path) -> Iterator[Step]:
    """Yield the ionic steps of an OUTCAR; those of a machine-learned force field are no labels."""
    given: dict[str, int] = {}
    count, unreached, begun = 0, False, False
    with open_with_compression(str(path), "rt") as file:
        for line in file:
            if found := _PARAMETER.match(line):
                given.setdefault(found[1], int(found[2]))
            elif found := _ITERATION.search(line):
                count, begun = int(found[1]), True
            elif "EDIFF was not reached" in line:
                unreached = True
            elif "FREE ENERGIE OF THE ION-ELECTRON SYSTEM" in line:
                fault = _vasp(given.get("NELM"), given.get("ICHARG", 0), count)
                if "ML FREE" in line:
                    fault = "a machine-learned force field predicted it"
                elif unreached:
                    fault = "its electrons did not converge (EDIFF was not reached)"
                yield Step(fault, read=begun)  # ASE's header reaches to the first iteration
                count, unreached = 0, False
    if count:
        yield Step(CUT_OFF, read=False)


def vasprun_steps(path: Path) -> Iterator[Step]:
    """Yield the ionic steps of a vasprun.xml."""
    given: dict[str, int] = {}
    count, open_step = 0, False
    with open_with_compression(str(path), "rb") as file:
        try:
            for event, item in ElementTree.iterparse(file, events=("start", "end")):
                name = item.get("name", "")
                if event == "start":
                    open_step = open_step or item.tag == "calculation"
                elif name in ("NELM", "ICHARG") and item.text:
                    given.setdefault(name, int(item.text))
                elif item.tag == "scstep":
                    count += 1
                elif item.tag == "calculation":
                    yield Step(_vasp(given.get("NELM"), given.get("ICHARG", 0), count))
                    count, open_step = 0, False
                    item.clear()
        except ElementTree.ParseError:
            if open_step:
                yield Step(CUT_OFF, read=False)


_ENERGY = re.compile(r"^!+\s+total energy\s+=\s*(\S+)\s+Ry")
_FUNCTIONAL = re.compile(r"^\s+Exchange-correlation\s*=\s*(.*?)\s*(?:\(|$)")
_GEOMETRY = ("Program PWSCF", "ATOMIC_POSITIONS")
_RESULTS = (
    *("!    total energy", "Forces acting on atoms", "total   stress"),
    *("Magnetic moment per site", "End of self-consistent calculation"),
    "End of band structure calculation",
)
"""What ASE counts as results of a geometry."""


def espresso_steps(path: Path) -> Iterator[Step]:
    """Yield the geometries of an output of pw.x that were computed.

    With exact exchange there is a total energy after each of the inner loops; the last one is that
    of the forces.
    """
    energy: float | None = None
    fault, level, begun, read, exchange = "", "", False, False, False

    def step() -> Iterator[Step]:
        if fault or begun or read:
            why = fault or (CUT_OFF if begun else "")
            if exchange and not why:
                why = "its exact exchange did not become self-consistent"
            yield Step(why, energy, read, level)

    with open_with_compression(str(path), "rt") as file:
        for line in file:
            if any(mark in line for mark in _GEOMETRY):
                yield from step()
                energy, fault, begun, read, exchange = None, "", False, False, False
                level = "" if _GEOMETRY[0] in line else level
            if found := _ENERGY.match(line):
                energy = float(found[1]) * RYDBERG
            if found := _FUNCTIONAL.match(line):
                level = "-".join(found[1].split())
            read = read or any(mark in line for mark in _RESULTS)
            if "Self-consistent Calculation" in line:
                begun = True
            elif "End of self-consistent calculation" in line:
                begun = False
            elif "EXX: now go back to refine exchange" in line:
                exchange = True
            elif "EXX self-consistency reached" in line:
                exchange = False
            elif "convergence NOT achieved" in line:
                fault = "its electrons did not converge"
    yield from step()


STEPS: dict[str, Callable[[Path], Iterator[Step]]] = {
    "vasp-out": outcar_steps,
    "vasp-xml": vasprun_steps,
    "espresso-out": espresso_steps,
}
"""By ASE's name of the format."""
