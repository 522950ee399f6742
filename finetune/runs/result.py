"""What a run found, as the object that the command prints."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.core.text import counted
from finetune.evaluation.calibration import Calibration, Quantity
from finetune.evaluation.evaluation import Comparison
from finetune.training.records import Record


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
        notes: Warnings and remarks.
        stages: The results of a recipe's stages by name; empty for a run without stages.
        members: The results of a committee's members by name; empty for a single run. ``valid`` and
            ``test`` then are of their mean.
        calibrations: Errors of a committee and its standard deviations, on ``valid`` and
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
        """The comparison that represents the run: on the test set where there is one."""
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
