"""An evaluation on labelled structures: its statistics, and the files that hold them."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from ase.data import chemical_symbols
from ase.symbols import Symbols
from rich.table import Table

from finetune.data.labels import Structure
from finetune.errors import system_errors
from finetune.evaluation import plots, tables
from finetune.evaluation.evaluation_folder import (
    JSON,
    PARITY,
    STATISTICS,
    STRUCTURES,
    check_folder,
    clear_folder,
)
from finetune.evaluation.metrics import LabelledPredictions
from finetune.evaluation.statistics import (
    Measured,
    by_element,
    by_subset,
    energy_errors,
    force_errors,
    measure,
)
from finetune.files import finite, write_atomically, write_json
from finetune.result import Comparison

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
