"""Validate the averaged weights after an epoch, and record it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from finetune.data.graphs import GraphBatch
from finetune.devices import peak_memory
from finetune.evaluation.metrics import errors, predict
from finetune.foundation.potential import Potential
from finetune.losses.options import LossOptions
from finetune.losses.total import TotalLoss
from finetune.training.averaging import WeightAverage
from finetune.training.progress import Record
from finetune.training.records import training_record, validation_record
from finetune.training.state import Progress


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
