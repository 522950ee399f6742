"""Errors on labelled structures."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from ase.data import chemical_symbols
from ase.symbols import Symbols
from rich.table import Table

from finetune.core.devices import choose_device, choose_dtype
from finetune.core.errors import DataError, RunFolderError, system_errors
from finetune.core.files import (
    check_writable,
    finite,
    is_unfinished,
    remove_unfinished,
    write_atomically,
    write_json,
)
from finetune.data.graphs import graph
from finetune.data.reading import Reader
from finetune.data.structures import Structure
from finetune.evaluation import calibration, plots, tables
from finetune.evaluation.calibration import Calibration, Quantity, calibrations
from finetune.evaluation.comparison import Comparison
from finetune.evaluation.pair import check_pair, compare, open_pair, trained_keys, trained_units
from finetune.evaluation.statistics import (
    Measured,
    by_element,
    by_subset,
    energy_errors,
    force_errors,
    measure,
)
from finetune.inspection.data_warnings import ignored_inputs, unusual_spread
from finetune.inspection.requirements import foreign_compositions
from finetune.potentials import loading as lineage
from finetune.potentials.committee import CommitteePotential
from finetune.potentials.errors import LabelledPredictions, predict
from finetune.recipe.sections import label_keys

JSON, STATISTICS, STRUCTURES, PARITY, CALIBRATION = (
    "evaluation.json",
    "statistics.csv",
    "structures.csv",
    "parity.png",
    "calibration.png",
)
FILES = (JSON, STATISTICS, STRUCTURES, PARITY, CALIBRATION)


@system_errors()
def check_folder(folder: Path) -> None:
    """Refuse a folder that holds anything but an earlier evaluation, which may be replaced.

    Raises:
        RunFolderError: Naming what is in the way.
    """
    if folder.exists() and not folder.is_dir():
        raise RunFolderError(f"'{folder}' is a file; name a folder.")
    names = sorted(item.name for item in folder.iterdir()) if folder.exists() else []
    known = set(FILES) if JSON in names else set()
    strange = [name for name in names if name not in known and not is_unfinished(name, FILES)]
    if strange:
        raise RunFolderError(
            f"'{folder}' holds other files ('{strange[0]}') than an evaluation; choose another "
            "--to."
        )
    check_writable(folder)


def clear_folder(folder: Path) -> None:
    """Remove what an earlier evaluation, whole or killed, left beside its JSON."""
    for name in FILES:
        if name != JSON:
            (folder / name).unlink(missing_ok=True)
    remove_unfinished(folder, FILES)


UNNAMED = "(unnamed)"
"""Subset of structures that the file puts into none."""


@dataclass(frozen=True)
class Evaluated(Comparison):
    """A `Comparison` with every statistic, by element and by subset.

    Attributes:
        structures: What was evaluated, in the order of the predictions' indices.
        subset_key: Tag that names the subset of a structure.
        listed: How many of the worst structures are listed.
        names: What the tables call the potential and the one beside it.
    """

    structures: Sequence[Structure] = ()
    subset_key: str = "config_type"
    listed: int = 5
    names: tuple[str, str] = ("fine-tuned", "foundation")

    def potentials(self) -> dict[str, LabelledPredictions]:
        """Return the predictions by the potential's name, the foundation's first."""
        found = {self.names[0]: self.finetuned_predictions}
        if self.foundation_predictions is not None:
            found = {self.names[1]: self.foundation_predictions, **found}
        return found

    def groups(self) -> dict[str, dict[str, dict[str, Measured]]]:
        """Return statistics: potential -> ``all``, ``element`` or ``subset`` -> name -> errors."""
        subsets = self._subsets()
        return {
            name: {
                "all": {"all": measure(found)},
                "element": {
                    chemical_symbols[number]: item for number, item in by_element(found).items()
                },
                "subset": by_subset(found, subsets) if len(set(subsets)) > 1 else {},
            }
            for name, found in self.potentials().items()
        }

    def worst(self) -> dict[str, list[dict[str, Any]]]:
        """Return the structures that the fine-tuned potential is worst at.

        Those ``by_energy`` are ordered by the error per atom with the mean error per atom removed,
        those ``by_forces`` by the RMSE of the force components. Units are eV and Å.
        """
        count, found = len(self.structures), {}
        atoms = np.array([len(item) for item in self.structures])
        predictions = self.finetuned_predictions
        energies = energy_errors(predictions, count) / atoms
        forces, largest = force_errors(predictions, count)
        known = energies[np.isfinite(energies)]
        centred = energies - (known.mean() if len(known) else 0.0)
        for name, errors, labelled in (
            ("by_energy", np.abs(centred), np.unique(predictions.energy_of)),
            ("by_forces", forces, np.unique(predictions.forces_of)),
        ):
            size = np.nan_to_num(errors[labelled], nan=np.inf)  # a diverged prediction is the worst
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
        groups = self.groups()
        found = [
            tables.overall(
                self._title(),
                {name: item["all"]["all"] for name, item in groups.items()},
                self.caption,
            )
        ]
        for kind, title in (("element", "forces by element"), ("subset", "by subset")):
            if len(groups[self.names[0]][kind]) > (0 if kind == "element" else 1):
                found.append(
                    tables.grouped(title, {name: item[kind] for name, item in groups.items()})
                )
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
        """Write JSON, CSV and parity plot into a folder, which is made if need be.

        Raises:
            FinetuneError: If it cannot be written to, or holds anything but an evaluation.
        """
        check_folder(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / JSON, self.as_dict())
        clear_folder(folder)
        write_atomically(folder / STATISTICS, _csv(self._statistic_rows()))
        write_atomically(folder / STRUCTURES, _csv(self._structure_rows()))
        if self.finetuned.labelled_energies or self.finetuned.labelled_forces:
            figure = plots.parity(
                self.foundation_predictions, self.finetuned_predictions, self.names
            )
            plots.write_png(figure, folder / PARITY)

    def _subsets(self) -> list[str]:
        return [str(item.tags.get(self.subset_key, UNNAMED)) for item in self.structures]

    @property
    def caption(self) -> str:
        """What is to be known of the foundation's reference energies."""
        if self.foundation is None or self.names[1] != "foundation":
            return ""
        return "The foundation has the fine-tuned potential's reference energies."

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
            for index, (item, subset) in enumerate(
                zip(self.structures, self._subsets(), strict=True)
            )
        ]
        for name, predictions in self.potentials().items():
            energies = energy_errors(predictions, count)
            forces, largest = force_errors(predictions, count)
            for index, row in enumerate(rows):
                row[f"{name} energy error"] = _number(energies[index])
                row[f"{name} forces RMSE"] = _number(forces[index])
                row[f"{name} forces max"] = _number(largest[index])
        return rows


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _csv(rows: list[dict[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [])
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


@dataclass(frozen=True)
class EvaluatedCommittee(Evaluated):
    """An `Evaluated` with errors beside standard deviations, by quantity.

    Attributes:
        calibrations: Of energies per atom and force components, where they have labels.
    """

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


SUBSETS = "config_type"
"""Tag that names the subset of a structure, unless another one is named."""
OTHER_ORIGIN = (
    "note: the labels have another zero of energy than the potential (another level of theory, "
    "other reference energies): of the energies, read those with the mean error removed."
)


@system_errors()
def evaluate(
    path: str | Path,
    files: str | Path | Sequence[str | Path],
    keys: Mapping[str, str] | None = None,
    device: str = "auto",
    dtype: str = "float64",
    *,
    against: str | Path | None = None,
    head: str | None = None,
    against_head: str | None = None,
    subset_key: str = SUBSETS,
    worst: int = 5,
) -> Evaluated:
    """Evaluate a potential, and its foundation or another one beside it, on labelled structures.

    The foundation gets the fine-tuned potential's reference energies, so that only what was learnt
    by the weights differs.

    Args:
        path: Run folder, stored potential, ``.model`` file, or name in the catalogue.
        files: One or several files of labelled structures.
        keys: Names of the labels (``energy``, ``forces``, ``stress``) where they differ from those
            in the run's recipe.
        device: ``auto``, ``cpu`` or a CUDA device.
        dtype: ``float64`` or ``float32``.
        against: The potential beside it; by default the foundation that ``path`` was tuned from.
        head: Name of the head of ``path`` that predicts.
        against_head: Name of the head of ``against`` that predicts.
        subset_key: What names the subset of a structure in the files.
        worst: How many of the worst structures are listed.

    Returns:
        The errors; for a committee an `EvaluatedCommittee`, with the calibration of its standard
        deviations.

    Raises:
        FoundationError: If there is no potential at ``path``, or an element is unknown to it.
        DataError: For files that cannot be used.
    """
    opened_as = choose_dtype(dtype), choose_device(device)
    pair = open_pair(path, against, *opened_as, head, against_head)
    label_names = label_keys({**trained_keys(pair), **(keys or {})})
    reader = Reader(label_names, trained_units(pair))
    structures = reader.read(files)
    reader.check_named(keys or ())
    check_pair(pair, structures)
    _check_subsets(structures, subset_key)
    cutoff = max(potential.cutoff for potential in pair.potentials.values())
    graphs = [graph(item, cutoff) for item in structures]
    note = pair.note
    known = pair.tuned.metadata.get("compositions") or []
    foreign = foreign_compositions(structures, known) if known else []
    if foreign:
        note = (
            f"warning: trained on {', '.join(known)} alone, so total energies of "
            f"{', '.join(foreign)} mean nothing; forces and energy differences may. {note}"
        )
    ignored = ignored_inputs(pair.tuned.potential, structures)
    strange = unusual_spread(pair.tuned.potential, graphs, "the potential")
    note = " ".join(filter(None, [*strange, *ignored, note, *reader.notes()]))
    named = [files] if isinstance(files, (str, Path)) else files
    found = compare(
        ", ".join(map(str, named)),
        pair.tuned.potential,
        pair.reference.potential if pair.reference is not None else None,
        graphs,
        note,
    )
    found = replace(found, lineage=lineage.lineage_labels(lineage.lineage(pair.tuned)))
    if _other_origin(found):
        found = replace(found, note=" ".join(filter(None, (OTHER_ORIGIN, note))))
    shown: dict[str, Any] = {
        **vars(found),
        "structures": structures,
        "subset_key": subset_key,
        "listed": worst,
        "names": pair.names,
    }
    committee = pair.tuned.potential
    if isinstance(committee, CommitteePotential):
        members = [predict(member, graphs) for member in committee.predicting]
        spread = calibrations(members, committee.scale)
        return EvaluatedCommittee(**shown, calibrations=spread)
    return Evaluated(**shown)


def _check_subsets(structures: Sequence[Structure], key: str) -> None:
    """Refuse a tag that was named and that no structure has."""
    if key == SUBSETS or any(key in item.tags for item in structures):
        return
    listed = ", ".join(sorted({name for item in structures for name in item.tags})) or "none at all"
    raise DataError(f"no structure has a '{key}' to name its subset. Tags present: {listed}.")


@np.errstate(invalid="ignore")
def _other_origin(found: Comparison) -> bool:
    predictions = found.finetuned_predictions
    errors = (predictions.energy[0] - predictions.energy[1]) / predictions.atoms
    if errors.size < 2:
        return False
    mean = errors.mean()
    return bool(abs(mean) > 1.0 and abs(mean) > 20 * np.abs(errors - mean).mean())
