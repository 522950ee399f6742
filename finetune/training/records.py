"""What is recorded of an epoch, and ``metrics.jsonl``."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from finetune.evaluation.metrics import Errors
from finetune.files import write_atomically
from finetune.losses.options import LossOptions
from finetune.training.progress import Record


class MetricsLog:
    """``metrics.jsonl``, a line for each epoch; what a resumed run will do again is cut off.

    Args:
        path: The file.
        history: The records that it begins with.
        active: Whether to write at all; one of several processes does.
    """

    def __init__(self, path: Path, history: Sequence[Record], active: bool = True) -> None:
        self.path = path
        self.active = active
        if active:
            write_atomically(path, "".join(map(_line, history)).encode())

    def append(self, record: Record) -> None:
        """Add the record of an epoch."""
        if self.active:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(_line(record))


def validation_record(measured: Errors, losses: Mapping[str, LossOptions]) -> Record:
    """Return what is recorded of a validation: ``valid/loss`` and ``valid/`` every error."""
    return {
        "valid/loss": validation_loss(measured, losses),
        **{f"valid/{name}": value for name, value in measured.as_dict().items()},
    }


def validation_loss(measured: Errors, losses: Mapping[str, LossOptions]) -> float:
    """Return Σ (largest weight) · RMSE² over the supervised losses that validation labels allow.

    Energies count in eV per atom, forces in eV/Å, stress in eV/Å³.
    """
    squares = {
        "energy": measured.energy_per_atom_rmse,
        "forces": measured.forces_rmse,
        "stress": measured.stress_rmse,
    }
    total = 0.0
    for options in losses.values():
        error = squares.get(options.kind)
        if error is not None:
            total += options.peak_weight * error**2
    return total


def finite(record: Record) -> Record:
    """Return the record with None in place of numbers that JSON has no words for."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in record.items()
    }


def _line(record: Record) -> str:
    return json.dumps(record) + "\n"
