"""Physical checks: walls, bonds, torsions, frequencies, forgetting."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols
from rich.table import Table
from rich.text import Text

from finetune.core import run_files
from finetune.core.devices import choose_device, choose_dtype
from finetune.core.errors import DataError, RecipeError, suggestion, system_errors
from finetune.core.files import finite, write_json
from finetune.data.structures import Structure, to_atoms
from finetune.evaluation import plots
from finetune.evaluation.counter import Counter
from finetune.evaluation.curves import FEWEST, VALUE, Curve, dimers, labelled_scans, scans
from finetune.evaluation.frequencies import change, elsewhere, frequencies
from finetune.evaluation.pair import (
    Pair,
    check_ours,
    chosen_structures,
    folder_for,
    open_pair,
    structures_for,
)
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
    "wall: height at the innermost point; hole: by how much the energy falls on the way in, where "
    "that is (at) and how high above the lowest energy outside the wall the way leads (behind)"
)
LEGENDS = {
    "dimer": f"minimum: where the energy is lowest; range: highest minus lowest; {_WALL}",
    "bond": f"minimum: length of lowest energy; range: highest minus lowest; {_WALL}",
    "torsion": "minimum: turn of lowest energy, 0° as given; range: highest minus lowest",
    "volume": f"minimum: scale of the cell's lengths of lowest energy; {_WALL}",
    "labelled": "range: highest minus lowest; MAE, max: against the labels, the mean difference "
    "taken away",
}
FREQUENCIES = (
    "imaginary: how many, shown negative; moved: RMSD of the minimum from the structure given; "
    "shift: mean absolute difference of the two potentials' frequencies"
)
FORGETTING = (
    "MAE: mean absolute change; RMS change: relative to the RMS force of the other, large where "
    "that has its minima; cosine: mean, between the forces of the two"
)
"""What the columns mean, in a line under each table."""


@dataclass(frozen=True)
class Scans:
    """The checks of potentials side by side.

    Attributes:
        names: The potentials, the foundation first.
        curves: Of every kind.
        frequencies: From `frequencies.frequencies`, for each structure.
        forgetting: From `forgetting.change`, by set of structures; empty without a foundation.
        note: What a reader should know.
    """

    names: tuple[str, ...]
    curves: Sequence[Curve]
    frequencies: Sequence[dict[str, Any]]
    forgetting: dict[str, dict[str, Any]]
    note: str = ""

    def checks(self) -> list[dict[str, Any]]:
        """Return what every curve says of every potential, see `curves.checked`."""
        return [check for curve in self.curves for check in curve.check()]

    @property
    def holes(self) -> list[dict[str, Any]]:
        """The checks that found a wall which does not rise, or energies that are not finite."""
        return [check for check in self.checks() if check.get("hole_at") is not None]

    def tables(self) -> list[Table]:
        """Return the tables for the terminal."""
        found = [
            _curve_table(kind, [curve for curve in self.curves if curve.kind == kind])
            for kind in TITLES
            if any(curve.kind == kind for curve in self.curves)
        ]
        if self.frequencies:
            found.append(self._frequency_table())
        if self.forgetting:
            found.append(self._forgetting_table())
        return found

    def verdict(self) -> str:
        """Return in a line whether walls have holes."""
        if not any(curve.wall is not None for curve in self.curves):
            return ""
        found = {name: 0 for name in self.names}
        for check in self.holes:
            found[check["potential"]] += 1
        if not any(found.values()):
            return "no wall has a hole"
        counted = ", ".join(f"{name} {count}" for name, count in found.items())
        return f"warning: walls with holes, into which atoms may fall: {counted}"

    def as_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        found: dict[str, Any] = {
            "names": list(self.names),
            "checks": finite(self.checks()),
            "frequencies": finite(self.frequencies),
            "forgetting": finite(self.forgetting),
            "curves": [curve.as_dict() for curve in self.curves],
            "note": self.note,
        }
        return found

    @system_errors()
    def write(self, folder: Path) -> None:
        """Write ``scans.json`` and a figure for each kind of curve, in the place of earlier ones.

        Raises:
            FinetuneError: If it cannot be written to.
        """
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / RESULT, self.as_dict())
        for kind in TITLES:
            chosen = [curve for curve in self.curves if curve.kind == kind]
            if chosen:
                plots.write_png(figure(chosen), folder / f"{kind}.png")
            else:
                (folder / f"{kind}.png").unlink(missing_ok=True)

    def _frequency_table(self) -> Table:
        table = _table("harmonic frequencies at the minimum", FREQUENCIES)
        for name in ("structure", "potential"):
            table.add_column(name)
        for name in ("lowest\ncm⁻¹", "highest\ncm⁻¹", "imaginary", "moved\nÅ", "shift\ncm⁻¹"):
            table.add_column(name, justify="right")
        for item in self.frequencies:
            for place, (name, found) in enumerate(item["potentials"].items()):
                title = Text(item["structure"] if place == 0 else "")
                if not found["relaxed"]:
                    table.add_row(title, Text(name), "not relaxed", "", "", "", "")
                    continue
                values = found["frequencies"]
                lowest, highest = (f"{values[end]:.0f}" if values else "–" for end in (0, -1))
                shift = item["shift"] if place == 1 else None
                table.add_row(
                    *(title, Text(name), lowest, highest),
                    *(str(found["imaginary"]), f"{found['moved']:.3f}"),
                    "" if shift is None else f"{shift:.1f}",
                )
        return table

    def _forgetting_table(self) -> Table:
        title = f"{self.names[-1]} against {self.names[0]}: what has changed"
        table = _table(title, FORGETTING)
        table.add_column("structures")
        for name in ("number", "E MAE\nmeV/atom", "F MAE\nmeV/Å", "F RMS change\n%", "cosine"):
            table.add_column(name, justify="right")
        for name, item in self.forgetting.items():
            cosine = item["force_cosine"]
            table.add_row(
                Text(name),
                str(item["structures"]),
                f"{1000 * item['energy_per_atom']['mae']:.1f}",
                f"{1000 * item['forces']['mae']:.1f}",
                f"{100 * item['relative']:.1f}",
                "–" if cosine is None else f"{cosine:.3f}",
            )
        return table


def figure(curves: Sequence[Curve]) -> Any:
    """Plot curves of one kind, a panel for each, potentials in their colours, labels as dots."""
    panels = []
    for curve in curves:
        origin = 0.0 if curve.kind == "dimer" or curve.labels is None else curve.labels.min()
        shown = {}
        for name, energies in curve.energies.items():
            shift = 0.0
            if curve.labels is not None:
                shift = float((energies - curve.labels).mean())
            shown[name] = energies - origin - shift
        labels = None if curve.labels is None else curve.labels - origin
        panels.append((curve.name, curve.unit, curve.values, shown, labels, curve.wall))
    return plots.curves(panels, zoomed=curves[0].kind == "dimer")


def _curve_table(kind: str, curves: Sequence[Curve]) -> Table:
    table = _table(TITLES[kind], LEGENDS[kind])
    table.add_column("scan")
    table.add_column("potential")
    unit = curves[0].unit
    columns = {"minimum": f"minimum\n{unit}", "range": "range\neV"}
    if kind == "labelled":
        columns = {"label_range": "label range\neV", "range": "range\neV"}
        columns |= {"mae": "MAE\nmeV", "max": "max\nmeV"}
    if any(curve.wall is not None for curve in curves):
        columns |= {"wall_height": "wall\neV", "hole": "hole\neV", "hole_at": f"at\n{unit}"}
        columns |= {"hole_behind": "behind\neV"}
    for title in columns.values():
        table.add_column(title, justify="right")
    for curve in curves:
        for place, check in enumerate(curve.check()):
            cells = [
                _cell(check[key], 1 if key in ("mae", "max") else 2, key in ("mae", "max"))
                for key in columns
            ]
            table.add_row(Text(curve.name if place == 0 else ""), Text(check["potential"]), *cells)
    return table


def _cell(value: float | None, digits: int, milli: bool) -> str:
    if value is None:
        return "–"
    return f"{(1000 if milli else 1) * value:.{digits}f}"


def _table(title: str, legend: str) -> Table:
    return Table(
        title=Text(title, style="table.title"),
        title_justify="left",
        caption=Text(legend),
        caption_justify="left",
    )


CHECKS = ("dimers", "coordinates", "labelled", "frequencies", "forgetting")
NO_SCAN = (
    f"note: no labelled scan: that takes {FEWEST} structures of the same atoms with an energy and "
    f"a number '{VALUE}' each, and the same 'config_type'."
)

FAR = "elsewhere"
"""What results call the structures away from the training set."""
NONE_AWAY = (
    "note: no molecule of the G2 set has other compositions of known elements: name structures "
    "away from the training set with --away."
)
NOTHING_BESIDE = "note: forgetting needs a potential to compare with: name one with --against."


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
    """Hold a potential, and its foundation beside it, against what physics asks for.

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
        against: The potential beside it; by default the foundation that ``path`` was tuned from.
        head: Name of the head of ``path`` that predicts.
        against_head: Name of the head of ``against`` that predicts.
        device: ``auto``, ``cpu`` or a CUDA device.
        dtype: ``float64`` or ``float32``; frequencies want the former.
        counter: Shows the progress.

    Raises:
        RecipeError: For an unknown check, element or number of structures.
        FoundationError: If there is no potential at ``path``, or an element is unknown to it.
        DataError: For files that cannot be used.
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
    check_ours(folder, FILES)
    opened_as = choose_dtype(dtype), choose_device(device)
    pair = open_pair(path, against, *opened_as, head, against_head)
    found = structures_for(pair, path, files)
    far = structures_for(pair, path, away) if away and "forgetting" in only else None
    potentials, counter = pair.potentials, counter or Counter()
    chosen = [_named(item) for item in chosen_structures(found, structures)]
    curves: list[Curve] = []
    harmonic = []
    forgotten, note = {}, pair.note
    with counter.start(len(CHECKS)):
        if "dimers" in only:
            counter.name("dimers")
            curves += dimers(potentials, _elements(pair, elements, found))
        counter.advance(1)
        if "coordinates" in only:
            counter.name("coordinates")
            curves += [item for where, atoms in chosen for item in scans(potentials, atoms, where)]
        counter.advance(1)
        if "labelled" in only:
            counter.name("labelled")
            labelled = labelled_scans(potentials, found)
            curves += labelled
            if not labelled and tuple(only) != CHECKS:
                note = f"{NO_SCAN} {note}".strip()
        counter.advance(1)
        if "frequencies" in only:
            counter.name("frequencies")
            calculators = {name: PotentialCalculator(item) for name, item in potentials.items()}
            harmonic = [frequencies(calculators, atoms, where) for where, atoms in chosen]
        counter.advance(1)
        if "forgetting" in only and pair.reference is not None:
            counter.name("forgetting")
            forgotten = _forgetting(pair, found, far)
            if FAR not in forgotten:
                note = f"{NONE_AWAY} {note}".strip()
        elif "forgetting" in only and not pair.note:
            note = f"{NOTHING_BESIDE} {note}".strip()
        counter.advance(1)
    outcome = Scans(tuple(potentials), curves, harmonic, forgotten, note)
    outcome.write(folder)
    return outcome


def _named(structure: Structure) -> tuple[str, Atoms]:
    atoms, index = to_atoms(structure), structure.where.rpartition(", structure ")[2]
    return f"{atoms.get_chemical_formula()} {index}", atoms


def _elements(pair: Pair, symbols: Sequence[str], structures: Sequence[Structure]) -> list[int]:
    """Return the elements of dimers, ascending.

    Raises:
        RecipeError: For a symbol that is no element.
        DataError: For one that a potential does not know.
    """
    if not symbols:
        return sorted({number for item in structures for number in item.numbers.tolist()})
    for symbol in symbols:
        if symbol not in atomic_numbers or symbol == "X":
            raise RecipeError(f"'{symbol}' is no chemical symbol.")
    numbers = sorted({atomic_numbers[symbol] for symbol in symbols})
    for number in numbers:
        if number not in _known(pair):
            raise DataError(f"{chemical_symbols[number]} is not known to both potentials.")
    return numbers


def _known(pair: Pair) -> set[int]:
    return set.intersection(*(set(item.elements) for item in pair.potentials.values()))


def _forgetting(
    pair: Pair, structures: Sequence[Structure], away: Sequence[Structure] | None
) -> dict[str, dict[str, object]]:
    assert pair.reference is not None
    near = [to_atoms(item) for item in chosen_structures(structures, 40)]
    if away is not None:
        far = [to_atoms(item) for item in away]
    else:
        trained = pair.tuned.metadata.get("compositions") or []
        far = elsewhere(sorted(_known(pair)), [*(item.formula for item in structures), *trained])
    sets: dict[str, list[Atoms]] = {"as given": near, FAR: far}
    return {
        name: change(pair.tuned.potential, pair.reference.potential, frames)
        for name, frames in sets.items()
        if frames
    }
