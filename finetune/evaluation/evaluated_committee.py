"""An evaluation of a committee: errors of the mean, and what its standard deviations are worth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

from finetune.errors import system_errors
from finetune.evaluation import calibration, plots
from finetune.evaluation.calibration import Calibration, Quantity
from finetune.evaluation.evaluated import Evaluated
from finetune.evaluation.evaluation_folder import CALIBRATION
from finetune.files import finite


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
