"""The training loop: epochs of steps, validation after each, the best weights kept."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from finetune.adapters.base import AdaptedPotential
from finetune.data.graphs import GraphBatch, concatenate
from finetune.errors import TrainingError
from finetune.evaluation.metrics import Errors, errors, predict
from finetune.files import write_atomically
from finetune.foundation.potential import Potential
from finetune.losses.options import LossOptions
from finetune.losses.total import LossValue, TotalLoss
from finetune.recipe import Recipe
from finetune.run_folder import CHECKPOINTS, METRICS
from finetune.teacher import Teacher
from finetune.training.averaging import WeightAverage
from finetune.training.optimiser import build_optimiser, learning_rate
from finetune.training.progress import Record, Reporter


@dataclass(frozen=True)
class TrainingData:
    """Graphs on the CPU: labelled for training and validation, unlabelled for weak losses."""

    train: list[GraphBatch]
    valid: list[GraphBatch]
    unlabelled: list[GraphBatch]


@dataclass(frozen=True)
class TrainingOutcome:
    """How the training went; the adapted potential holds the best weights.

    Attributes:
        history: One record for each epoch, the first (epoch 0) before any step.
        best_epoch: Epoch whose averaged weights validated best.
        ending: Why it stopped: ``finished``, ``patience`` or ``interrupted``.
    """

    history: list[Record]
    best_epoch: int
    ending: str


class Trainer:
    """Trains the free parameters of an adapted potential by a recipe.

    Args:
        adapted: What is trained, on its device and in its dtype.
        foundation: The frozen foundation, with the same reference energies.
        data: What it is trained on.
        recipe: Losses and training settings.
        folder: Run folder; receives ``metrics.jsonl`` and ``checkpoints/best``.
        reporter: Told of every epoch.
    """

    def __init__(
        self,
        adapted: AdaptedPotential,
        foundation: Potential,
        data: TrainingData,
        recipe: Recipe,
        folder: Path,
        reporter: Reporter,
    ) -> None:
        self.adapted = adapted
        self.teacher = Teacher(foundation)
        self.data = data
        self.recipe = recipe
        self.folder = folder
        self.reporter = reporter
        self.total = TotalLoss(recipe.losses)
        self.parameters = list(adapted.trainable_parameters().values())
        self.optimiser = build_optimiser(self.parameters, recipe.train)
        self.average = WeightAverage(self.parameters, recipe.train.ema)
        self.order = torch.Generator().manual_seed(recipe.train.seed)
        self.displacements = torch.Generator().manual_seed(recipe.train.seed + 1)
        self.history: list[Record] = []
        self.best: tuple[float, int] = (math.inf, 0)

    def run(self) -> TrainingOutcome:
        """Train; afterwards the potential holds the best averaged weights, in evaluation mode.

        Raises:
            TrainingError: If a loss or gradient is not finite, naming loss and structures, or if
                the run is interrupted before anything was learnt.
        """
        settings = self.recipe.train
        ending = "finished"
        with self.reporter:
            self.reporter.start(settings.epochs)
            self._validate(self._record(0, {}, 0.0, time.perf_counter()))
            try:
                for epoch in range(1, settings.epochs + 1):
                    started = time.perf_counter()
                    means, gradient_norm = self._train_epoch(epoch)
                    self._validate(self._record(epoch, means, gradient_norm, started))
                    if settings.patience and epoch - self.best[1] >= settings.patience:
                        ending = "patience"
                        break
            except KeyboardInterrupt:
                if len(self.history) < 2:
                    raise TrainingError("interrupted before the first epoch was done.") from None
                ending = "interrupted"
        self.adapted.load(self.folder / CHECKPOINTS / "best")
        self.adapted.potential.eval()
        return TrainingOutcome(self.history, self.best[1], ending)

    def _train_epoch(self, epoch: int) -> tuple[dict[str, float], float]:
        self.adapted.potential.train()
        sums: dict[str, list[float]] = {}
        norms = []
        batches = list(self._batches())
        for step, batch in enumerate(batches):
            done = epoch - 1 + step / len(batches)
            rate = learning_rate(self.recipe.train, done)
            for group in self.optimiser.param_groups:
                group["lr"] = rate
            value = self.total(
                *(batch, self.adapted.potential, self.displacements, self.teacher),
                progress=done / self.recipe.train.epochs,
            )
            if value is None:
                continue
            norms.append(self._step(value, batch))
            for name, part in value.parts.items():
                sums.setdefault(name, []).append(float(part.detach()))
        if not norms:
            raise TrainingError(
                "no loss applies to any training structure: there are no labels of the kinds that "
                "the recipe's losses use."
            )
        means = {name: sum(values) / len(values) for name, values in sums.items()}
        return means, sum(norms) / len(norms)

    def _step(self, value: LossValue, batch: GraphBatch) -> float:
        for name, part in value.parts.items():
            if not bool(torch.isfinite(part)):
                raise TrainingError(_diagnosis(f"the loss '{name}' is {part.item()}", batch))
        self.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(value.total, inputs=self.parameters)
        limit = self.recipe.train.gradient_clip
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, math.inf if limit is None else limit)
        if not bool(torch.isfinite(norm)):
            raise TrainingError(_diagnosis(f"the gradient norm is {float(norm)}", batch))
        self.optimiser.step()
        self.average.update()
        return float(norm)

    def _batches(self) -> Iterator[GraphBatch]:
        """Yield the shuffled training set, each batch with unlabelled structures added."""
        settings = self.recipe.train
        potential = self.adapted.potential
        for chosen in self._shuffled(self.data.train, settings.batch_size):
            extra = next(self._shuffled(self.data.unlabelled, settings.unlabelled_batch_size), [])
            yield concatenate([*chosen, *extra]).to(potential.device, potential.dtype)

    def _shuffled(self, graphs: Sequence[GraphBatch], size: int) -> Iterator[list[GraphBatch]]:
        if not graphs:
            return
        order = torch.randperm(len(graphs), generator=self.order).tolist()
        for start in range(0, len(order), size):
            yield [graphs[index] for index in order[start : start + size]]

    def _record(
        self, epoch: int, means: dict[str, float], gradient_norm: float, started: float
    ) -> Record:
        rate = learning_rate(self.recipe.train, epoch)
        with self.average.applied():
            measured = errors(
                predict(self.adapted.potential, self.data.valid), len(self.data.valid)
            )
        return {
            "epoch": epoch,
            **{f"loss/{name}": value for name, value in means.items()},
            "valid/loss": validation_loss(measured, self.recipe.losses),
            **{f"valid/{name}": value for name, value in measured.as_dict().items()},
            "learning_rate": rate,
            "gradient_norm": gradient_norm,
            "seconds": time.perf_counter() - started,
        }

    def _validate(self, record: Record) -> None:
        """Log an epoch, and keep its weights where they are the best so far."""
        value = record[f"valid/{self.recipe.train.monitor}"]
        if not math.isfinite(value):
            raise TrainingError(
                f"the validation measure is {value} after epoch {record['epoch']}. "
                "Lower train.learning_rate."
            )
        self.history.append(record)
        with (self.folder / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        if value < self.best[0]:
            self.best = (value, record["epoch"])
            folder = self.folder / CHECKPOINTS / "best"
            with self.average.applied():
                self.adapted.save(folder)
            state = {"epoch": record["epoch"], self.recipe.train.monitor: value}
            write_atomically(folder / "state.json", (json.dumps(state) + "\n").encode())
        self.reporter.epoch(record)


def validation_loss(measured: Errors, losses: dict[str, LossOptions]) -> float:
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


def _diagnosis(what: str, batch: GraphBatch) -> str:
    names = "; ".join(batch.where[:5])
    return (
        f"training stopped: {what} on {names}{' …' if len(batch.where) > 5 else ''}. "
        "Lower train.learning_rate or the weight of that loss, or look at those structures."
    )
