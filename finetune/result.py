"""What a run or an evaluation found, as the object that the command prints."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from finetune.evaluation.calibration import Calibration, Quantity
from finetune.evaluation.metrics import Errors, LabelledPredictions
from finetune.training.progress import Record
from finetune.wording import counted

ROWS = (
    ("energy MAE per structure", "energy_mae", "meV"),
    ("energy RMSE per structure", "energy_rmse", "meV"),
    ("energy MAE, mean error removed", "energy_shifted_mae", "meV"),
    ("energy MAE per atom", "energy_per_atom_mae", "meV/atom"),
    ("energy RMSE per atom", "energy_per_atom_rmse", "meV/atom"),
    ("force MAE (components)", "forces_mae", "meV/Å"),
    ("force RMSE (components)", "forces_rmse", "meV/Å"),
    ("stress MAE (components)", "stress_mae", "meV/Å³"),
    ("stress RMSE (components)", "stress_rmse", "meV/Å³"),
)
"""What a table shows: title, field of `Errors`, unit (a thousandth of the field's)."""


@dataclass(frozen=True)
class Comparison:
    """Foundation and fine-tuned potential on the same structures, side by side.

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

    def rows(self) -> list[tuple[str, str, float | None, float]]:
        """Return (title, unit, foundation, fine-tuned) for every quantity with labels."""
        found = []
        for title, field, unit in ROWS:
            after = getattr(self.finetuned, field)
            before = getattr(self.foundation, field) if self.foundation is not None else None
            if after is not None:
                found.append((title, unit, None if before is None else 1000 * before, 1000 * after))
        return found

    def table(self) -> Table:
        """Return the rows as a table for the terminal."""
        table = Table(title=self._title(), title_justify="left")
        table.add_column("error")
        if self.foundation is None:
            table.add_column("potential", justify="right")
            for title, unit, _, after in self.rows():
                table.add_row(Text(f"{title} [{unit}]"), f"{after:.2f}")
            return table
        for name in (f"{self.baseline}*", "fine-tuned", "change"):
            table.add_column(name, justify="right")
        for title, unit, before, after in self.rows():
            change = f"{100 * (after / before - 1):+.0f} %" if before else ""
            table.add_row(Text(f"{title} [{unit}]"), f"{before:.2f}", f"{after:.2f}", change)
        table.caption = "* with the fine-tuned potential's reference energies"
        table.caption_justify = "left"
        return table

    def _title(self) -> Text:
        labels = self.finetuned
        title = (
            f"{self.source}: {labels.structures} structures, {labels.labelled_energies} with "
            f"energies, {labels.labelled_forces} atoms with forces"
        )
        return Text(title, style="table.title")

    def as_dict(self) -> dict[str, Any]:
        """Return source and errors (eV, Å), ready for JSON."""
        return {
            "source": self.source,
            "lineage": list(self.lineage),
            "foundation": None if self.foundation is None else self.foundation.as_dict(),
            "finetuned": self.finetuned.as_dict(),
        }


@dataclass(frozen=True)
class RunResult:
    """A finished run.

    Attributes:
        folder: The run folder.
        history: One record for each epoch.
        best_epoch: Epoch whose weights were kept; of a run in stages the last one's, 0 for a
            committee.
        epochs: Epochs done, of all stages together.
        ending: ``finished``, ``patience``, ``max_steps`` or ``max_hours``.
        valid: Errors on the validation set.
        test: Errors on the test set; None where the recipe names none.
        seconds: Wall time of the run.
        notes: Warnings and facts worth telling.
        stages: The results of a recipe's stages by name; empty for a run without stages.
        members: The results of a committee's members by name; empty for a single run. ``valid`` and
            ``test`` then are of their mean.
        calibrations: Errors of a committee beside its standard deviations, on ``valid`` and
            ``test``, by quantity.
    """

    folder: Path
    history: list[Record]
    best_epoch: int
    epochs: int
    ending: str
    valid: Comparison
    test: Comparison | None
    seconds: float
    notes: tuple[str, ...] = ()
    stages: dict[str, RunResult] = dataclasses.field(default_factory=dict)
    members: dict[str, RunResult] = dataclasses.field(default_factory=dict)
    calibrations: dict[str, dict[Quantity, Calibration]] = dataclasses.field(default_factory=dict)

    @property
    def summary(self) -> str:
        """How the run ended, in one line."""
        done = f"{counted(self.epochs, 'epoch')} and {self.seconds:.0f} s"
        if self.members:
            return f"committee of {len(self.members)}, {self.ending} after {done} in all"
        if self.stages:
            return f"{counted(len(self.stages), 'stage')} {self.ending} after {done} in all"
        kept = f"kept epoch {self.best_epoch}, best on validation by train.monitor"
        return f"{self.ending} after {done}; {kept}"

    @property
    def shown_calibrations(self) -> dict[Quantity, Calibration]:
        """The calibration that goes with `shown`; empty for a single run."""
        return self.calibrations.get("valid" if self.test is None else "test", {})

    def compared_with(self, baseline: str) -> RunResult:
        """Return the result with another name for what it is compared with."""
        test = self.test and dataclasses.replace(self.test, baseline=baseline)
        valid = dataclasses.replace(self.valid, baseline=baseline)
        return dataclasses.replace(self, valid=valid, test=test)

    @property
    def shown(self) -> Comparison:
        """The comparison that speaks for the run: on the test set where there is one."""
        return self.test if self.test is not None else self.valid

    def as_dict(self) -> dict[str, Any]:
        """Return the result without predictions and history, ready for JSON."""
        stages = {name: stage.as_dict() for name, stage in self.stages.items()}
        members = {name: member.as_dict() for name, member in self.members.items()}
        calibration = {
            name: {quantity: item.as_dict() for quantity, item in found.items()}
            for name, found in self.calibrations.items()
        }
        return {
            "folder": str(self.folder),
            **({"stages": stages} if stages else {}),
            **({"members": members, "calibration": calibration} if members else {}),
            "best_epoch": self.best_epoch,
            "epochs": self.epochs,
            "ending": self.ending,
            "seconds": round(self.seconds, 1),
            "notes": list(self.notes),
            "valid": self.valid.as_dict(),
            "test": None if self.test is None else self.test.as_dict(),
        }
