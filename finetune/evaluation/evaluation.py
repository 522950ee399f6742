"""Errors of a potential and its baseline on labelled structures: measured, shown and written."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from ase.data import chemical_symbols
from ase.symbols import Symbols
from rich.table import Table
from rich.text import Text

from finetune.core.errors import DataError, system_errors
from finetune.core.files import finite, remove_unfinished, write_atomically, write_json
from finetune.core.units import Units, parse_units
from finetune.data.graphs import GraphBatch, graph
from finetune.data.reading import Reader
from finetune.data.structures import Structure
from finetune.evaluation import calibration, plots, statistics, tables
from finetune.evaluation.asymmetry import jacobian_asymmetry
from finetune.evaluation.baseline import NAMES, check_known_elements, open_pair
from finetune.evaluation.calibration import Calibration, Quantity, calibrations
from finetune.evaluation.folder import check_folder
from finetune.evaluation.statistics import Measured, differences, energy_errors, force_errors
from finetune.inspection.agreement import agreement, findings
from finetune.inspection.data_warnings import unmatched_inputs
from finetune.inspection.labels import Read
from finetune.inspection.requirements import foreign_compositions
from finetune.potentials import loading as lineage
from finetune.potentials.committee import CommitteePotential
from finetune.potentials.errors import (
    GRADIENT_ROWS,
    ROWS,
    Errors,
    LabelledPredictions,
    errors,
    predict,
)
from finetune.potentials.potential import Potential
from finetune.recipe.sections import label_keys

SUBSETS = "config_type"
"""Tag that names the subset of a structure, unless another one is named."""
UNNAMED = "(unnamed)"
"""Subset of structures without that tag."""
OTHER_ORIGIN = (
    "note: the labels have a different zero of energy than the potential (another level of theory, "
    "other reference energies). Read the errors of energies with the mean error removed."
)
JSON, STATISTICS, STRUCTURES = "evaluation.json", "statistics.csv", "structures.csv"
PARITY, CALIBRATION = "parity.png", "calibration.png"
FILES = (JSON, STATISTICS, STRUCTURES, PARITY, CALIBRATION)


@system_errors()
def evaluate(
    path: str | Path,
    files: str | Path | Sequence[str | Path],
    keys: Mapping[str, str] | None = None,
    device: str = "auto",
    dtype: str = "float64",
    *,
    units: Units | Mapping[str, str] | None = None,
    against: str | Path | None = None,
    head: str | None = None,
    against_head: str | None = None,
    subset_key: str = SUBSETS,
    worst: int = 5,
) -> Evaluated:
    """Evaluate a potential and its baseline on labelled structures.

    A foundation as baseline gets the fine-tuned potential's reference energies, so that only the
    weights differ.

    Args:
        path: Run folder, stored potential, ``.model`` file, or name in the catalogue.
        files: One or several files of labelled structures.
        keys: Names of the labels (``energy``, ``forces``, ``stress``) where they differ from those
            in the run's recipe.
        device: ``auto``, ``cpu`` or a CUDA device.
        dtype: ``float64`` or ``float32``.
        units: What the labels are in, such as ``{"energy": "Hartree"}``, in place of all units in
            the run's recipe. A file that says its units is read in those.
        against: The baseline; by default the foundation that ``path`` was tuned from.
        head: Name of the head of ``path`` that predicts.
        against_head: Name of the head of ``against`` that predicts.
        subset_key: Tag in the files that names the subset of a structure.
        worst: How many of the worst structures are listed.

    Returns:
        An `EvaluatedCommittee` for a committee, else an `Evaluated`.

    Raises:
        FoundationError: If there is no potential at ``path``.
        DataError: For files that cannot be used, or an element that a potential does not know.
        RecipeError: For an unknown unit.
    """
    pair = open_pair(path, against, head, against_head, device, dtype)
    if units is not None and not isinstance(units, Units):
        units = parse_units([f"{quantity}={unit}" for quantity, unit in units.items()])
    reader = Reader(
        label_keys({**pair.keys, **(keys or {})}), pair.units if units is None else units
    )
    structures = reader.read(files)
    reader.check_named(keys or ())
    check_known_elements(pair, structures)
    _check_subsets(structures, subset_key)
    cutoff = max(potential.cutoff for potential in pair.potentials.values())
    graphs = [graph(item, cutoff) for item in structures]
    tested = pair.tested.potential
    known = pair.tested.metadata.get("compositions") or []
    foreign = foreign_compositions(structures, known) if known else []
    named = [files] if isinstance(files, (str, Path)) else files
    baseline = pair.baseline.potential if pair.baseline is not None else None
    found = compare(", ".join(map(str, named)), tested, baseline, graphs)
    read = Read.by(reader)
    factors = agreement(found.finetuned_predictions, list(structures), read)
    notes = [
        OTHER_ORIGIN if _other_origin(found.finetuned_predictions) else "",
        *(
            str(item)
            for item in findings(factors, "the potential", read)
            if item.level == "warning"
        ),
        *_units_read(reader, of_recipe=units is None),
        *unmatched_inputs(tested, structures),
        f"warning: trained on {', '.join(known)} only: total energies of {', '.join(foreign)} have "
        "no meaning; forces and energy differences may have one."
        if foreign
        else "",
        pair.note,
        *reader.notes(),
    ]
    shown: dict[str, Any] = vars(found) | {
        "note": " ".join(filter(None, notes)),
        "lineage": lineage.lineage_labels(lineage.lineage(pair.tested)),
    }
    shown |= {"structures": structures, "subset_key": subset_key, "listed": worst}
    shown |= {"names": pair.names}
    if isinstance(tested, CommitteePotential):
        members = [predict(member, graphs) for member in tested.predicting]
        return EvaluatedCommittee(**shown, calibrations=calibrations(members, tested.scale))
    return Evaluated(**shown)


def _units_read(reader: Reader, of_recipe: bool) -> list[str]:
    """Say in which units files were read, where these are not eV and Å."""
    usual, given = Units().filled().model_dump(), reader.units.model_dump(exclude_none=True)
    found = []
    for record in reader.records:
        other = [f"{name} {unit}" for name, unit in record.units.items() if unit != usual[name]]
        if other:
            recipe = of_recipe and given and given.items() <= record.units.items()
            whose = ", as the run's recipe says; --units says otherwise" if recipe else ""
            found.append(f"note: '{record.source}' is read in {', '.join(other)}{whose}.")
    return found


def _check_subsets(structures: Sequence[Structure], key: str) -> None:
    """Refuse a tag that is named and that no structure has."""
    if key == SUBSETS or any(key in item.tags for item in structures):
        return
    listed = ", ".join(sorted({name for item in structures for name in item.tags})) or "none"
    raise DataError(f"no structure has a '{key}' to name its subset. Tags present: {listed}.")


@np.errstate(invalid="ignore")
def _other_origin(predictions: LabelledPredictions) -> bool:
    """Return whether the errors per atom are nearly all the same, and large."""
    found = (predictions.energy[0] - predictions.energy[1]) / predictions.atoms
    if found.size < 2:
        return False
    mean = found.mean()
    return bool(abs(mean) > 1.0 and abs(mean) > 20 * np.abs(found - mean).mean())


def compare(
    source: str, tested: Potential, baseline: Potential | None, graphs: Sequence[GraphBatch]
) -> Comparison:
    """Evaluate a potential and its baseline, if there is one, on the same graphs.

    Where a head predicts the forces of one, −dE/dr is compared, too.
    """
    potentials = [tested, *([baseline] if baseline is not None else [])]
    found = [predict(item, graphs) for item in potentials]
    measured = [errors(item, len(graphs)) for item in found]
    if any(item.direct_forces for item in potentials):
        for place, potential in enumerate(potentials):
            if potential.direct_forces:
                asymmetry = jacobian_asymmetry(potential, graphs)
                measured[place] = replace(measured[place], jacobian_asymmetry=asymmetry)
            else:
                found[place] = replace(found[place], gradient_forces=found[place].forces)
                measured[place] = errors(found[place], len(graphs))
    return Comparison(
        source=source,
        finetuned=measured[0],
        foundation=measured[1] if baseline is not None else None,
        finetuned_predictions=found[0],
        foundation_predictions=found[1] if baseline is not None else None,
    )


@dataclass(frozen=True)
class Comparison:
    """Errors of the fine-tuned potential and of its baseline on the same structures.

    Attributes:
        source: What was evaluated.
        finetuned: Errors of the fine-tuned potential.
        foundation: Errors of the foundation with the same reference energies, or None where the
            foundation could not be opened.
        finetuned_predictions: What the fine-tuned errors were computed from.
        foundation_predictions: The same for the foundation.
        note: What a reader of the errors should know.
        lineage: The potentials that the fine-tuned one descends from, itself last, a line each.
        baseline: What the foundation is called: in a ladder, the stage before.
    """

    source: str
    finetuned: Errors
    foundation: Errors | None
    finetuned_predictions: LabelledPredictions
    foundation_predictions: LabelledPredictions | None
    note: str = ""
    lineage: tuple[str, ...] = ()
    baseline: str = "foundation"

    def rows(
        self, shown: Iterable[tuple[str, str, str]] = (*ROWS, *GRADIENT_ROWS)
    ) -> list[tuple[str, str, float | None, float]]:
        """Return (title, unit, foundation, fine-tuned) for every quantity with labels."""
        found = []
        for title, name, unit in shown:
            after = getattr(self.finetuned, name)
            before = getattr(self.foundation, name) if self.foundation is not None else None
            if after is not None:
                found.append((title, unit, None if before is None else 1000 * before, 1000 * after))
        return found

    def table(self) -> Table:
        """Return the rows as a table for the terminal."""
        columns, caption = ["potential"], ""
        if self.foundation is not None:
            columns = [f"{self.baseline}*", "fine-tuned", "change"]
            caption = "* with the fine-tuned potential's reference energies"
        caption = "\n".join(filter(None, [caption, self.asymmetry()]))
        table = tables.new_table(self._title(), ["error"], columns, caption)
        for title, unit, before, after in self.rows():
            cells = [f"{after:.2f}"]
            if self.foundation is not None:
                cells = [tables.cell(before), *cells, tables.percent(before or 0.0, after)]
            table.add_row(Text(f"{title} [{unit}]"), *cells)
        return table

    def asymmetry(self) -> str:
        """Return in a sentence how far the forces of heads are from a gradient, if there are any.

        See `jacobian_asymmetry`.
        """
        both = zip(self._called(), (self.finetuned, self.foundation), strict=True)
        found = {name: item.jacobian_asymmetry for name, item in both if item is not None}
        listed = [f"{value:.3g} ({name})" for name, value in found.items() if value is not None]
        if not listed:
            return ""
        return (
            f"asymmetry of the Jacobian of the head's forces (0: a gradient): {', '.join(listed)}"
        )

    def _called(self) -> tuple[str, str]:
        return "fine-tuned", self.baseline

    def _title(self) -> str:
        labels = self.finetuned
        return (
            f"{self.source}: {labels.structures} structures, {labels.labelled_energies} with "
            f"energies, {labels.labelled_forces} atoms with forces"
        )

    def as_dict(self) -> dict[str, Any]:
        """Return source and errors (eV, Å), ready for JSON."""
        return {
            "source": self.source,
            "lineage": list(self.lineage),
            "foundation": None if self.foundation is None else self.foundation.as_dict(),
            "finetuned": self.finetuned.as_dict(),
        }


@dataclass(frozen=True)
class Evaluated(Comparison):
    """A `Comparison` with every statistic, by element and by subset."""

    structures: Sequence[Structure] = ()  # in the order of the predictions' indices
    subset_key: str = SUBSETS
    listed: int = 5  # of the worst structures
    names: tuple[str, str] = NAMES  # of the potential and its baseline, in tables

    def potentials(self) -> dict[str, LabelledPredictions]:
        """Return the predictions by the potential's name, those of the baseline first."""
        found = {self.names[0]: self.finetuned_predictions}
        if self.foundation_predictions is not None:
            found = {self.names[1]: self.foundation_predictions, **found}
        return found

    def groups(self) -> dict[str, dict[str, dict[str, Measured]]]:
        """Return statistics: potential -> ``all``, ``element`` or ``subset`` -> name -> errors."""
        subsets = self._subsets()
        return {
            name: {
                "all": {"all": statistics.measure(found)},
                "element": {
                    chemical_symbols[number]: item
                    for number, item in statistics.by_element(found).items()
                },
                "subset": statistics.by_subset(found, subsets) if len(set(subsets)) > 1 else {},
            }
            for name, found in self.potentials().items()
        }

    def worst(self) -> dict[str, list[dict[str, Any]]]:
        """Return the structures with the largest errors of the fine-tuned potential, eV and Å.

        Those ``by_energy`` are ordered by the error per atom with the mean error per atom removed,
        those ``by_forces`` by the RMSE of the force components.
        """
        count, found = len(self.structures), {}
        atoms = np.array([len(item) for item in self.structures])
        predictions = self.finetuned_predictions
        energies = energy_errors(predictions, count) / atoms
        forces, largest = force_errors(predictions, count)
        known = energies[np.isfinite(energies)]
        centred = energies - (known.mean() if len(known) else 0.0)
        for name, sizes, labelled in (
            ("by_energy", np.abs(centred), np.unique(predictions.energy_of)),
            ("by_forces", forces, np.unique(predictions.forces_of)),
        ):
            size = np.nan_to_num(sizes[labelled], nan=np.inf)  # a diverged prediction is the worst
            found[name] = [
                {
                    "index": int(index),
                    "where": self.structures[index].where,
                    "energy_per_atom_error": _number(energies[index]),
                    "energy_per_atom_error_shifted": _number(centred[index]),
                    "forces_rmse": _number(forces[index]),
                    "forces_max": _number(largest[index]),
                }
                for index in labelled[np.argsort(-size, kind="stable")][: self.listed]
            ]
        return found

    def tables(self) -> list[Table]:
        """Return the tables for the terminal: all structures, elements, subsets, the worst."""
        groups, caption = self.groups(), ""
        if self.foundation is not None and self.names[1] == "foundation":
            caption = "The foundation has the fine-tuned potential's reference energies."
        caption = "\n".join(filter(None, [caption, self.asymmetry()]))
        measured = {name: item["all"]["all"] for name, item in groups.items()}
        found = [tables.overall(self._title(), measured, caption)]
        for kind, title in (("element", "forces by element"), ("subset", "by subset")):
            if groups[self.names[0]][kind]:
                shown = {name: item[kind] for name, item in groups.items()}
                found.append(tables.grouped(title, shown))
        worst, last = self.worst(), len(self.structures) - 1
        files = {tables.place_of(self.structures[index].where)[0] for index in (0, last)}
        for kind, title in (("by_energy", "energies"), ("by_forces", "forces")):
            if worst[kind]:
                title = f"worst {title}, {self.names[0]}"
                found.append(tables.worst(title, worst[kind], several=len(files) > 1))
        return found

    def as_dict(self) -> dict[str, Any]:
        """Return everything but the single predictions (eV, Å), ready for JSON."""
        found = super().as_dict()
        measured = self.groups()
        for key, name in (("foundation", self.names[1]), ("finetuned", self.names[0])):
            if found[key] is not None:
                groups = {
                    kind: {group: item.as_dict() for group, item in items.items()}
                    for kind, items in measured[name].items()
                }
                found[key] |= {
                    "statistics": groups["all"]["all"],
                    "by_element": groups["element"],
                    "by_subset": groups["subset"],
                }
        found |= {"note": self.note, "names": list(self.names), "worst": self.worst()}
        return cast("dict[str, Any]", finite(found))

    @system_errors()
    def write(self, folder: Path) -> None:
        """Write JSON, CSV and parity plot into a folder; refuse a folder of other files."""
        check_output(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / JSON, self.as_dict())
        for name in set(FILES) - {JSON}:
            (folder / name).unlink(missing_ok=True)
        remove_unfinished(folder, FILES)
        write_atomically(folder / STATISTICS, _csv(self._statistic_rows()))
        write_atomically(folder / STRUCTURES, _csv(self._structure_rows()))
        if self.finetuned.labelled_energies or self.finetuned.labelled_forces:
            both = (self.foundation_predictions, self.finetuned_predictions)
            plots.write_png(plots.parity(*both, self.names), folder / PARITY)

    def _called(self) -> tuple[str, str]:
        return self.names

    def _subsets(self) -> list[str]:
        return [str(item.tags.get(self.subset_key, UNNAMED)) for item in self.structures]

    def _statistic_rows(self) -> list[dict[str, Any]]:
        return [
            {"potential": name, "kind": kind, "group": group, "quantity": quantity}
            | asdict(item)
            | {"cosine": measured.force_cosine if quantity == "forces" else None}
            for name, kinds in self.groups().items()
            for kind, items in kinds.items()
            for group, measured in items.items()
            for quantity, item in measured.statistics.items()
        ]

    def _structure_rows(self) -> list[dict[str, Any]]:
        count = len(self.structures)
        rows: list[dict[str, Any]] = [
            {
                "index": index,
                "where": item.where,
                "subset": subset,
                "formula": Symbols(item.numbers).get_chemical_formula(),
                "atoms": len(item),
                "energy": item.energy,
            }
            for index, item, subset in zip(
                range(count), self.structures, self._subsets(), strict=True
            )
        ]
        for name, predictions in self.potentials().items():
            energies = energy_errors(predictions, count)
            forces, largest = force_errors(predictions, count)
            for index, row in enumerate(rows):
                row[f"{name} energy error"] = _number(energies[index])
                row[f"{name} forces RMSE"] = _number(forces[index])
                row[f"{name} forces max"] = _number(largest[index])
            if predictions.consistency.size:
                pairs = {
                    "gradient forces": (predictions.gradient_forces, predictions.forces_of),
                    "head against gradient": (predictions.consistency, predictions.consistency_of),
                }
                for title, (values, owner) in pairs.items():
                    rms, _ = differences(values, owner, count)
                    for index, row in enumerate(rows):
                        row[f"{name} {title} RMSE"] = _number(rms[index])
        return rows


@dataclass(frozen=True)
class EvaluatedCommittee(Evaluated):
    """An `Evaluated` with errors and standard deviations, by quantity."""

    calibrations: Mapping[Quantity, Calibration] = field(default_factory=dict)

    def tables(self) -> list[Table]:
        """Return the tables for the terminal, that of the uncertainty last."""
        found = super().tables()
        if self.calibrations:
            found.append(calibration.table(self.calibrations, self.source))
        return found

    def as_dict(self) -> dict[str, Any]:
        """Return everything but the single predictions (eV, Å), ready for JSON."""
        numbers = {name: item.as_dict() for name, item in self.calibrations.items()}
        return {**super().as_dict(), "calibration": finite(numbers)}

    @system_errors()
    def write(self, folder: Path) -> None:
        """Write what `Evaluated.write` does, and the calibration plot."""
        super().write(folder)
        if self.calibrations:
            plots.write_png(plots.calibration(self.calibrations), folder / CALIBRATION)


def check_output(folder: Path) -> None:
    """Refuse a folder that holds anything but an earlier evaluation, which may be replaced."""
    names = "|".join(map(re.escape, FILES))
    finished = f"{names}|" if (folder / JSON).is_file() else ""  # without it they are not ours
    ours = re.compile(rf"{finished}\.({names})\.[^.]*")
    check_folder(folder, ours, "evaluation", only_ours=True)


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _csv(rows: list[dict[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [])
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
