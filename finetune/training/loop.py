"""The training loop: epochs of steps, validation after each, the best weights kept."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from finetune.adapters.adapter import AdaptedPotential
from finetune.core.devices import multiplication
from finetune.core.errors import TrainingError
from finetune.core.files import finite
from finetune.core.process import StopSignals
from finetune.core.run_files import CHECKPOINTS, METRICS
from finetune.core.text import counted
from finetune.data.graphs import GraphBatch
from finetune.losses.frozen_foundation import FrozenFoundation
from finetune.losses.loss import TotalLoss
from finetune.potentials.potential import Potential
from finetune.recipe.recipe import Recipe
from finetune.training.batches import (
    Feeder,
    Order,
    Processes,
    TrainingData,
    global_generator,
    structure_generators,
)
from finetune.training.checkpoints import Keeper, Progress, WeightAverage, Weights, diverged
from finetune.training.optimisers.optimiser import Optimiser, Piece, learning_rate
from finetune.training.records import (
    MetricsLog,
    Record,
    Reporter,
    Validator,
    monitored,
    step_values,
)


@dataclass(frozen=True)
class TrainingOutcome:
    """How the training went; the adapted potential holds the best weights.

    Attributes:
        history: One record for each epoch, the first (epoch 0) before any step.
        best_epoch: Epoch whose averaged weights validated best.
        ending: Why it stopped: ``finished``, ``patience``, ``max_steps`` or ``max_hours``.
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
        folder: Run folder; receives ``metrics.jsonl`` and ``checkpoints``.
        reporter: Receives every epoch.
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
        self.recipe = recipe
        self.settings = settings = recipe.train
        self.folder = folder
        self.reporter = reporter
        self.processes = Processes(adapted.potential.device)
        self.total = TotalLoss(recipe.losses)
        self.optimiser: Optimiser = recipe.optimiser.load()(
            adapted, settings, self.total, FrozenFoundation(foundation), self.processes
        )
        parameters = adapted.trainable_parameters()
        self.average = WeightAverage(list(parameters.values()), settings.ema)
        self.weights = Weights(parameters, self.optimiser.torch, self.average)
        self.order = Order(
            seed=settings.seed,
            structures=len(data.train),
            pool=len(data.unlabelled),
            batch_size=settings.batch_size,
            pool_batch_size=settings.unlabelled_batch_size,
            pieces=self.optimiser.pieces(len(data.train)),
        )
        self.feeder = Feeder(data, self.order, self.processes, settings.workers)
        self.length = float(settings.epochs)
        if settings.max_steps is not None:
            self.length = min(self.length, settings.max_steps / self.order.steps)
        self.validator = Validator(
            adapted.potential, self.average, data.valid, self.total, recipe.losses
        )
        self.keeper = Keeper(
            folder, folder / CHECKPOINTS, settings.checkpoint_seconds, self.processes.main
        )
        self.progress = Progress()

    def run(self, resume: bool = False) -> TrainingOutcome:
        """Train; afterwards the potential holds the best averaged weights, in evaluation mode.

        Raises:
            TrainingError: If the run keeps diverging, naming loss and structures.
            RunStoppedError: On SIGTERM or SIGINT, or when the disk is full; it can be resumed.
            RunFolderError: If the folder cannot be written, or all checkpoints are damaged.
        """
        with self.reporter, multiplication(self.settings.precision), StopSignals() as signals:
            try:
                self._begin(resume)
                while not self.progress.ending:
                    self.adapted.potential.train()
                    started = time.perf_counter()
                    for pieces in self.feeder.steps(self.progress.epoch, self.progress.position):
                        self._step(pieces)
                        self.progress.next_step(time.perf_counter() - started)
                        started = time.perf_counter()
                        self._stop_if_asked(signals)
                        if self._budget_spent():
                            break
                        self._save_if_due()
                    self._end_epoch(signals)
            except OSError as error:
                raise self.keeper.unwritable(error) from error
        self.weights.return_to_best()
        self.adapted.potential.eval()
        state = self.progress
        return TrainingOutcome(state.history, state.best_epoch, state.ending)

    def try_steps(self, count: int) -> list[float]:
        """Take steps to measure their cost, writing nothing; return the wall time of each, s."""
        taken = []
        self.adapted.potential.train()
        started = time.perf_counter()
        with multiplication(self.settings.precision):
            for pieces in islice(self.feeder.steps(1, 0), count):
                self._step(pieces)
                taken.append(time.perf_counter() - started)
                started = time.perf_counter()
        return taken

    def _begin(self, resume: bool) -> None:
        """Start from the foundation, or where the newest checkpoint left off."""
        stored = self.keeper.read() if resume else None
        if stored is not None:
            for fault in stored.faults:
                self.reporter.say(f"warning: {fault}; the checkpoint before it is used.")
            self.progress = state = Progress.from_dict(stored.state)
            self.weights.restore(stored.tensors)
            if state.ending == "max_hours":
                state.ending = self._budget_spent()
            self.reporter.say(
                f"resumed after step {state.step}, epoch {state.epoch}"
                + (f" ({state.ending})" if state.ending else "")
            )
        self.log = MetricsLog(
            self.folder / METRICS, self.progress.history, active=self.processes.main
        )
        self.reporter.start(self.settings.epochs)
        for record in self.progress.history[-1:]:
            self.reporter.epoch(record)
        if stored is None:
            self._validate(0)
            self._save()

    def _step(self, batches: list[GraphBatch]) -> None:
        """Take one step, or skip it where a loss or gradient is not finite."""
        state, guard, potential = self.progress, self.progress.guard, self.adapted.potential
        seed, done = self.settings.seed, state.epoch - 1 + state.position / self.order.steps
        self.optimiser.set_rate(self._rate(done))
        pieces = []
        for batch in batches:
            generators = structure_generators(seed, state.step, batch.identity.tolist())
            pieces.append(Piece(batch.to(potential.device, potential.dtype), generators))
        with global_generator(seed, state.step, self.processes.rank):
            outcome = self.optimiser.step(pieces, done / self.length)
        if outcome is None:
            return
        if outcome.trouble:
            guard.step_was_skipped(outcome.trouble)
            if guard.diverging:
                self._roll_back()
            return
        self.average.update()
        guard.step_went_well()
        state.add("gradient_norm", outcome.gradient_norm)
        for name, value in outcome.noise.items():
            state.add(f"noise/{name}", value)
        for name, value in step_values(outcome.means, outcome.weights).items():
            state.add(name, value)

    def _rate(self, epoch: float) -> float:
        """Return the learning rate after ``epoch`` epochs, as the guard allows."""
        state = self.progress
        values = [monitored(record, self.settings.monitor) for record in state.history]
        return state.guard.factor * learning_rate(self.settings, epoch, self.length, values)

    def _end_epoch(self, signals: StopSignals) -> None:
        """Validate, decide whether the run is over, and save."""
        state, settings = self.progress, self.settings
        if "gradient_norm" not in state.sums and not state.guard.skipped:
            raise TrainingError(
                "no loss applies to any training structure: there are no labels of the kinds that "
                "the recipe's losses use."
            )
        self._validate(state.epoch)
        if settings.patience and state.epoch - state.best_epoch >= settings.patience:
            state.ending = "patience"
        else:
            finished = "finished" if state.epoch >= settings.epochs else ""
            state.ending = self._budget_spent() or finished
        state.next_epoch()
        if state.ending:
            self._save(final=True)
            return
        self._stop_if_asked(signals)
        self._save_if_due()

    def _budget_spent(self) -> str:
        """Return which budget is spent, ``max_steps`` or ``max_hours``; empty while none is."""
        state, settings = self.progress, self.settings
        if settings.max_steps is not None and state.step >= settings.max_steps:
            return "max_steps"
        if settings.max_hours is None:
            return ""
        late = state.seconds >= 3600 * settings.max_hours
        return "max_hours" if self.processes.any(late) else ""

    def _roll_back(self) -> None:
        """Return to the best weights, and take smaller steps."""
        state, guard = self.progress, self.progress.guard
        if guard.rollbacks >= self.settings.rollbacks:
            raise TrainingError(
                f"training keeps diverging: {guard.trouble}. It returned to the best weights "
                f"(epoch {state.best_epoch}) {counted(guard.rollbacks, 'time')}, each time to "
                f"take smaller steps. {self.recipe.optimiser.diverging} "
                f"'{self.folder}' keeps metrics and checkpoint unless it replaced an earlier run; "
                "--overwrite starts again."
            )
        self.weights.return_to_best()
        guard.rolled_back()
        self.reporter.say(
            f"warning: {guard.trouble}; back to the weights of epoch {state.best_epoch}, steps "
            f"times {guard.ceiling:.2g}."
        )

    def _validate(self, epoch: int) -> None:
        """Record an epoch, and keep its weights where they are the best so far."""
        state, monitor = self.progress, self.settings.monitor
        main = self.processes.main  # the other processes wait for its record
        record = self.validator.record(state, epoch, self._rate(epoch)) if main else {}
        record = self.processes.from_main(record)
        value = monitored(record, monitor)
        first = monitored(state.history[0], monitor) if state.history else value
        record = finite(record)
        state.history.append(record)
        self.log.append(record)
        if value < state.best:
            state.best, state.best_epoch = value, epoch
            self.weights.keep_as_best()
        self.reporter.epoch(record)
        if diverged(value, first):
            cause = f" ({state.guard.trouble})" if state.guard.trouble else ""
            trouble = f"the validation measure is {value:.3g} after epoch {epoch}{cause}"
            if not math.isfinite(state.best):
                raise TrainingError(f"{trouble}: the foundation cannot be used.")
            state.guard.trouble = trouble
            self._roll_back()

    def _save(self, final: bool = False) -> None:
        self.keeper.write(self.weights.tensors(), self.progress.as_dict(), final)

    def _save_if_due(self) -> None:
        if self.keeper.due:
            self._save()

    def _stop_if_asked(self, signals: StopSignals) -> None:
        """Save and stop where SIGTERM or SIGINT (Ctrl-C) has arrived."""
        number = self.processes.first(signals.received)
        if number is not None:
            self._save()
            raise self.keeper.stopped(number, self.progress.epoch)
