"""Physical checks of a potential and its baseline: walls, bonds, frequencies, forgetting."""

from __future__ import annotations

import re
from collections import Counter as Tally
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols
from rich.table import Table
from rich.text import Text

from finetune.core import run_files
from finetune.core.counter import Counter
from finetune.core.errors import DataError, RecipeError, suggestion, system_errors
from finetune.core.files import finite, write_json
from finetune.data.structures import Structure, to_atoms
from finetune.evaluation import plots
from finetune.evaluation.baseline import Pair, evenly_spaced, open_pair, structures_for
from finetune.evaluation.curves import FEWEST, VALUE, Curve, dimers, labelled_scans, scans
from finetune.evaluation.folder import check_folder, folder_for
from finetune.evaluation.frequencies import change, elsewhere, frequencies
from finetune.evaluation.tables import cell, new_table
from finetune.export.calculator import PotentialCalculator

RESULT = "scans.json"
TITLES = {
    "dimer": "pairs of atoms",
    "bond": "bonds, rigid",
    "torsion": "torsions, rigid",
    "volume": "volume",
    "labelled": "labelled scans",
}
"""Kinds of curves, and what tables and figures call them."""
FILES = re.compile(rf"{re.escape(RESULT)}|({'|'.join(TITLES)})\.png")
"""Names of the files that scans write."""
_WALL = (
    "wall: height at the innermost point; hole: how far the energy falls on the way inwards; at: "
    "where it is lowest there; barrier: energy that atoms outside the wall need to get there"
)
LEGENDS = {
    "dimer": f"minimum: where the energy is lowest; range: highest minus lowest; {_WALL}",
    "bond": f"minimum: length of lowest energy; range: highest minus lowest; {_WALL}",
    "torsion": "minimum: rotation of lowest energy, 0° as given; range: highest minus lowest",
    "volume": f"minimum: scale of the cell's lengths of lowest energy; {_WALL}",
    "labelled": "range: highest minus lowest; MAE, max: against the labels, mean difference "
    "removed",
}
FREQUENCIES = (
    "imaginary: how many, shown negative; moved: RMSD of the minimum from the structure given; "
    "shift: mean absolute difference of the two potentials' frequencies"
)
OF_GRADIENT = (
    "; of −dE/dr, as forces of a head have no symmetric matrix of force constants and no minimum"
)
INCONSISTENCY = (
    "head off: largest difference of an atom's force from −dE/dr along the curve, outside the wall"
)
"""What legends say besides where a head predicts the forces."""
FORGETTING = (
    "MAE: mean absolute change; RMS change: relative to the RMS force of the baseline, large near "
    "its minima; cosine: mean, between the forces of the two"
)
"""What the columns mean, in a line under each table."""

CHECKS = ("dimers", "coordinates", "labelled", "frequencies", "forgetting")
FAR = "elsewhere"
"""What results call the structures away from the training set."""
NO_SCAN = (
    f"note: no labelled scan: that takes {FEWEST} structures of the same atoms with an energy, a "
    f"number '{VALUE}' and the same 'config_type'."
)
NONE_AWAY = (
    "note: no molecule of the G2 set has other compositions of known elements. Name structures "
    "away from the training set with --away."
)
NO_BASELINE = "note: forgetting needs a potential to compare with. Name one with --against."


@system_errors()
def scan(
    path: str | Path,
    files: str | Path | Sequence[str | Path] = (),
    *,
    only: Sequence[str] = CHECKS,
    structures: int = 1,
    elements: Sequence[str] = (),
    away: str | Path | Sequence[str | Path] = (),
    to: str | Path | None = None,
    against: str | Path | None = None,
    head: str | None = None,
    against_head: str | None = None,
    device: str = "auto",
    dtype: str = "float64",
    counter: Counter | None = None,
) -> Scans:
    """Check whether a potential and its baseline behave as physics requires.

    Args:
        path: Run folder, stored potential, ``.model`` file, or name in the catalogue.
        files: Structures, and labelled scans; by default those that the run was tested on.
        only: Which checks: ``dimers`` (every pair of elements), ``coordinates`` (bonds, torsions,
            volumes), ``labelled`` (scans in ``files``), ``frequencies``, ``forgetting``.
        structures: How many structures are scanned and relaxed, evenly spaced in the files.
        elements: Symbols for ``dimers``; by default those of the structures.
        away: Structures away from the training set for ``forgetting``; by default molecules of the
            G2 set with other compositions than ``files`` and, as far as known, the training set.
        to: Folder for JSON and figures; by default ``scans/`` in the run folder.
        against: The baseline; by default the foundation that ``path`` was tuned from.
        head: Name of the head of ``path`` that predicts.
        against_head: Name of the head of ``against`` that predicts.
        device: ``auto``, ``cpu`` or a CUDA device.
        dtype: ``float64`` or ``float32``; frequencies need the former.
        counter: Shows the progress.

    Raises:
        RecipeError: For an unknown check, element or number of structures.
        FoundationError: If there is no potential at ``path``.
        DataError: For files that cannot be used, or an element that a potential does not know.
        RunFolderError: If there is no folder to write to.
    """
    for name in only:
        if name not in CHECKS:
            raise RecipeError(
                f"no check '{name}'.{suggestion(name, CHECKS)} Choose from {', '.join(CHECKS)}."
            )
    if structures < 1:
        raise RecipeError(f"structures is {structures}; it must be above zero.")
    folder = folder_for(path, to, run_files.SCANS)
    check_folder(folder, FILES)
    pair = open_pair(path, against, head, against_head, device, dtype)
    found = structures_for(pair, path, files)
    far = structures_for(pair, path, away) if away and "forgetting" in only else None
    potentials, counter = pair.potentials, counter or Counter()
    chosen = [_named(item) for item in evenly_spaced(found, structures)]
    curves: list[Curve] = []
    harmonic, forgotten, notes = [], {}, [pair.note]
    with counter.start(len(set(only))):
        for check in filter(only.__contains__, CHECKS):
            counter.name(check)
            if check == "dimers":
                curves += dimers(potentials, _elements(pair, elements, found))
            elif check == "coordinates":
                curves += [curve for where, a in chosen for curve in scans(potentials, a, where)]
            elif check == "labelled":
                labelled = labelled_scans(potentials, found)
                curves += labelled
                if not labelled and tuple(only) != CHECKS:
                    notes.insert(0, NO_SCAN)
            elif check == "frequencies":
                calculators = {
                    name: PotentialCalculator(item, forces="gradient")
                    for name, item in potentials.items()
                }
                harmonic = [frequencies(calculators, atoms, where) for where, atoms in chosen]
            elif pair.baseline is not None:
                forgotten = _forgetting(pair, found, far)
                if FAR not in forgotten:
                    notes.insert(0, NONE_AWAY)
            elif not pair.note:
                notes.insert(0, NO_BASELINE)
            counter.advance(1)
    note = " ".join(filter(None, notes))
    direct = tuple(name for name, item in potentials.items() if item.direct_forces)
    outcome = Scans(tuple(potentials), curves, harmonic, forgotten, note, direct)
    outcome.write(folder)
    return outcome


def _named(structure: Structure) -> tuple[str, Atoms]:
    atoms, index = to_atoms(structure), structure.where.rpartition(", structure ")[2]
    return f"{atoms.get_chemical_formula()} {index}", atoms


def _elements(pair: Pair, symbols: Sequence[str], structures: Sequence[Structure]) -> list[int]:
    """Return the elements of dimers, ascending."""
    if not symbols:
        return sorted({number for item in structures for number in item.numbers.tolist()})
    for symbol in symbols:
        if symbol not in atomic_numbers or symbol == "X":
            raise RecipeError(f"'{symbol}' is not a chemical symbol.")
    numbers = sorted({atomic_numbers[symbol] for symbol in symbols})
    for number in numbers:
        if number not in _known(pair):
            raise DataError(f"{chemical_symbols[number]} is not known to both potentials.")
    return numbers


def _known(pair: Pair) -> set[int]:
    return set.intersection(*(set(item.elements) for item in pair.potentials.values()))


def _forgetting(
    pair: Pair, structures: Sequence[Structure], away: Sequence[Structure] | None
) -> dict[str, dict[str, Any]]:
    """Return the change against the baseline, on the structures given and away from them."""
    assert pair.baseline is not None
    if away is not None:
        far = [to_atoms(item) for item in away]
    else:
        trained = pair.tested.metadata.get("compositions") or []
        far = elsewhere(sorted(_known(pair)), [*(item.formula for item in structures), *trained])
    near = [to_atoms(item) for item in evenly_spaced(structures, 40)]
    return {
        name: change(pair.tested.potential, pair.baseline.potential, frames)
        for name, frames in (("as given", near), (FAR, far))
        if frames
    }


@dataclass(frozen=True)
class Scans:
    """The checks of a potential and its baseline."""

    names: tuple[str, ...]  # the baseline first
    curves: Sequence[Curve]
    frequencies: Sequence[dict[str, Any]]  # of `frequencies.frequencies`, by structure
    forgetting: dict[str, dict[str, Any]]  # of `frequencies.change`, by set of structures
    note: str = ""
    direct: tuple[str, ...] = ()  # names of those with a head for forces

    def checks(self) -> list[dict[str, Any]]:
        """Return what every curve shows of every potential, see `curves.checked`."""
        return [check for curve in self.curves for check in curve.check()]

    @property
    def holes(self) -> list[dict[str, Any]]:
        """The checks that found a wall that does not rise, or energies that are not finite."""
        return [check for check in self.checks() if check.get("hole_at") is not None]

    def tables(self) -> list[Table]:
        """Return the tables for the terminal."""
        found = [_curve_table(kind, curves) for kind, curves in self._by_kind().items() if curves]
        found += [self._frequency_table()] if self.frequencies else []
        return found + ([self._forgetting_table()] if self.forgetting else [])

    def verdict(self) -> str:
        """Return in a line whether walls have holes."""
        if not any(curve.wall is not None for curve in self.curves):
            return ""
        found = Tally(check["potential"] for check in self.holes)
        if not found:
            return "no wall has a hole"
        counted = ", ".join(f"{name} {found[name]}" for name in self.names)
        return f"warning: walls with holes, into which atoms may fall: {counted}"

    def as_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        return {
            "names": list(self.names),
            "checks": finite(self.checks()),
            "frequencies": finite(self.frequencies),
            "forgetting": finite(self.forgetting),
            "curves": [curve.as_dict() for curve in self.curves],
            "note": self.note,
            **({"frequencies_of": "gradient"} if self.direct else {}),
        }

    @system_errors()
    def write(self, folder: Path) -> None:
        """Write ``scans.json`` and a figure for each kind of curve, in place of earlier ones."""
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / RESULT, self.as_dict())
        for kind, curves in self._by_kind().items():
            if curves:
                plots.write_png(plots.curves(curves), folder / f"{kind}.png")
            else:
                (folder / f"{kind}.png").unlink(missing_ok=True)

    def _by_kind(self) -> dict[str, list[Curve]]:
        return {kind: [curve for curve in self.curves if curve.kind == kind] for kind in TITLES}

    def _frequency_table(self) -> Table:
        columns = ["lowest\ncm⁻¹", "highest\ncm⁻¹", "imaginary", "moved\nÅ", "shift\ncm⁻¹"]
        title = "harmonic frequencies at the minimum"
        legend = FREQUENCIES + (OF_GRADIENT if self.direct else "")
        table = new_table(title, ["structure", "potential"], columns, legend)
        for item in self.frequencies:
            for place, (name, found) in enumerate(item["potentials"].items()):
                cells, values = ["not relaxed", "", "", ""], found["frequencies"]
                if found["relaxed"]:
                    ends = [cell(values[end] if values else None, 0) for end in (0, -1)]
                    cells = [*ends, str(found["imaginary"]), cell(found["moved"], 3)]
                shift = cell(item["shift"], 1) if place == 1 and item["shift"] is not None else ""
                title = item["structure"] if place == 0 else ""
                table.add_row(Text(title), Text(name), *cells, shift)
        return table

    def _forgetting_table(self) -> Table:
        title = f"{self.names[-1]} against {self.names[0]}: what has changed"
        columns = ["number", "E MAE\nmeV/atom", "F MAE\nmeV/Å", "F RMS change\n%", "cosine"]
        table = new_table(title, ["structures"], columns, FORGETTING)
        for name, item in self.forgetting.items():
            table.add_row(
                Text(name),
                str(item["structures"]),
                cell(item["energy_per_atom"]["mae"], 1, 1000),
                cell(item["forces"]["mae"], 1, 1000),
                cell(item["relative"], 1, 100),
                cell(item["force_cosine"], 3),
            )
        return table


def _curve_table(kind: str, curves: Sequence[Curve]) -> Table:
    unit = curves[0].unit
    columns = {"minimum": f"minimum\n{unit}", "range": "range\neV"}
    if kind == "labelled":
        columns = {"label_range": "label range\neV", "range": "range\neV"}
        columns |= {"mae": "MAE\nmeV", "max": "max\nmeV"}
    if any(curve.wall is not None for curve in curves):
        columns |= {"wall_height": "wall\neV", "hole": "hole\neV", "hole_at": f"at\n{unit}"}
        columns |= {"hole_behind": "barrier\neV"}
    legend = LEGENDS[kind]
    if any(curve.inconsistency for curve in curves):
        columns |= {"inconsistency": "head off\nmeV/Å"}
        legend = f"{legend}; {INCONSISTENCY}"
    table = new_table(TITLES[kind], ["scan", "potential"], [*columns.values()], legend)
    for curve in curves:
        for place, check in enumerate(curve.check()):
            milli = {key: (1, 1000) for key in ("mae", "max", "inconsistency")}
            cells = [cell(check.get(key), *milli.get(key, ())) for key in columns]
            table.add_row(Text(curve.name if place == 0 else ""), Text(check["potential"]), *cells)
    return table
