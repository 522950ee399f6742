"""What is recorded of an epoch, and ``metrics.jsonl``."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from finetune.core.devices import peak_memory
from finetune.core.files import write_atomically
from finetune.data.graphs import GraphBatch
from finetune.losses.total import TotalLoss
from finetune.potentials.errors import Errors, errors, predict
from finetune.potentials.potential import Potential
from finetune.recipe.loss_options import LossOptions
from finetune.training.checkpoints import Progress, WeightAverage
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


def step_values(means: Mapping[str, float], weights: Mapping[str, float]) -> dict[str, float]:
    """Return what of a step's losses is averaged over the epoch.

    Args:
        means: Each loss by name, before its weight.
        weights: What each is multiplied by in the total.
    """
    weighted = {f"loss/{name}": weights[name] * mean for name, mean in means.items()}
    measures = {f"measure/{name}": mean for name, mean in means.items()}
    return {"train/loss": sum(weighted.values()), **weighted, **measures}


def training_record(means: Mapping[str, float], total: TotalLoss) -> Record:
    """Return what is recorded of an epoch's steps.

    ``train/loss`` is the total that was optimised, ``loss/NAME`` what each loss added to it (its
    weight included), ``residual/NAME`` the size of its residuals in the unit that ``units`` names.

    Args:
        means: Means over the epoch of what `step_values` returns.
        total: The losses.
    """
    record: Record = {}
    units: dict[str, str] = {}
    for name, mean in means.items():
        kind, _, loss = name.partition("/")
        if kind != "measure":
            record[name] = mean
        elif loss in total.losses and total.losses[loss].unit:
            record[f"residual/{loss}"] = total.losses[loss].typical_residual(max(mean, 0.0))
            units[loss] = total.losses[loss].unit
    return {**record, "units": units} if units else record


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
    return json.dumps(record, ensure_ascii=False) + "\n"


class Validator:
    """Measures a potential in training and makes the records of its epochs.

    Args:
        potential: The potential in training.
        average: Of its weights; what is measured.
        graphs: The validation structures.
        total: The losses, to record each in the unit of its residual.
        losses: The recipe's losses, for the validation measure ``loss``.
    """

    def __init__(
        self,
        potential: Potential,
        average: WeightAverage,
        graphs: Sequence[GraphBatch],
        total: TotalLoss,
        losses: Mapping[str, LossOptions],
    ) -> None:
        self.potential = potential
        self.average = average
        self.graphs = graphs
        self.total = total
        self.losses = losses

    def record(self, state: Progress, epoch: int, rate: float) -> Record:
        """Validate, and return what is recorded of an epoch.

        Args:
            state: Where the run stands; the time that the validation takes is added.
            epoch: The epoch.
            rate: Its learning rate.
        """
        started = time.perf_counter()
        with self.average.applied():
            measured = errors(predict(self.potential, self.graphs), len(self.graphs))
        state.spend(time.perf_counter() - started)
        means = state.means()
        gradient_norm = means.pop("gradient_norm", 0.0)
        return {
            "epoch": epoch,
            **training_record(means, self.total),
            **validation_record(measured, self.losses),
            "learning_rate": rate,
            "gradient_norm": gradient_norm,
            "skipped_steps": state.guard.skipped,
            "steps_per_second": state.position / max(state.step_seconds, 1e-9),
            "memory_mib": round(peak_memory(self.potential.device) / 2**20, 1),
            "seconds": state.epoch_seconds,
        }
