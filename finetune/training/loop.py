"""The training loop: epochs of steps, validation after each, the best weights kept."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from finetune.adapters.adapter import AdaptedPotential
from finetune.core.devices import multiplication
from finetune.core.errors import TrainingError
from finetune.core.interruption import StopSignals
from finetune.core.run_files import CHECKPOINTS, METRICS
from finetune.core.text import counted
from finetune.data.graphs import GraphBatch
from finetune.losses.frozen_foundation import Teacher
from finetune.losses.total import LossValue, TotalLoss
from finetune.potentials.potential import Potential
from finetune.recipe.recipe import Recipe
from finetune.recipe.sections import TrainRecipe
from finetune.training.batches import (
    Feeder,
    Order,
    TrainingData,
    global_generator,
    structure_generators,
)
from finetune.training.checkpoints import Keeper, Progress, Weights
from finetune.training.guard import diverged
from finetune.training.optimisers.adamw import (
    Stepper,
    WeightAverage,
    build_optimiser,
    learning_rate,
    set_learning_rate,
)
from finetune.training.optimisers.gauss_newton import GaussNewton
from finetune.training.processes import Processes
from finetune.training.progress import Record, Reporter
from finetune.training.records import MetricsLog, Validator, finite, step_values


class Pace:
    """Places in a run, measured in epochs.

    Args:
        settings: The recipe's.
        steps: Steps in an epoch.

    Attributes:
        length: Epochs in all, fewer than the recipe's where its steps are limited.
    """

    def __init__(self, settings: TrainRecipe, steps: int) -> None:
        self.settings = settings
        self.steps = steps
        self.length = float(settings.epochs)
        if settings.max_steps is not None:
            self.length = min(self.length, settings.max_steps / steps)

    def done(self, state: Progress) -> float:
        """Return how many epochs are done, with the share of the one in progress."""
        return state.epoch - 1 + state.position / self.steps

    def share(self, state: Progress) -> float:
        """Return the share of the run that is done, 0 to 1."""
        return self.done(state) / self.length

    def rate(self, state: Progress, epoch: float) -> float:
        """Return the learning rate after ``epoch`` epochs, as the guard allows."""
        monitored = f"valid/{self.settings.monitor}"
        values = [record[monitored] for record in state.history]
        values = [math.inf if value is None else value for value in values]
        return state.guard.factor * learning_rate(self.settings, epoch, self.length, values)


def spent(state: Progress, settings: TrainRecipe, processes: Processes) -> str:
    """Return which budget is spent, ``max_steps`` or ``max_hours``; empty while none is."""
    if settings.max_steps is not None and state.step >= settings.max_steps:
        return "max_steps"
    if settings.max_hours is not None:
        late = state.seconds >= 3600 * settings.max_hours
        return "max_hours" if processes.any(late) else ""
    return ""


def ending(state: Progress, settings: TrainRecipe, processes: Processes) -> str:
    """Return why the run is over after an epoch; empty while it is not."""
    if settings.patience and state.epoch - state.best_epoch >= settings.patience:
        return "patience"
    finished = "finished" if state.epoch >= settings.epochs else ""
    return spent(state, settings, processes) or finished


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
        self.settings = settings = recipe.train
        self.folder = folder
        self.reporter = reporter
        self.processes = Processes(adapted.potential.device)
        self.total = TotalLoss(recipe.losses)
        parameters = adapted.trainable_parameters()
        optimiser = build_optimiser(adapted, settings)
        self.average = WeightAverage(list(parameters.values()), settings.ema)
        self.weights = Weights(parameters, optimiser, self.average)
        self.stepper: Stepper | GaussNewton
        if settings.optimiser == "gauss-newton":
            self.stepper = GaussNewton(
                adapted.potential, list(parameters.values()), self.total, optimiser
            )
            pieces = -(-len(data.train) // settings.batch_size)
        else:
            self.stepper = Stepper(
                list(parameters.values()),
                optimiser,
                self.average,
                self.total,
                clip=settings.gradient_clip,
                pull=settings.pull_to_foundation,
                processes=self.processes,
            )
            pieces = settings.accumulate * self.processes.count
        self.order = Order(
            settings.seed,
            len(data.train),
            len(data.unlabelled),
            settings.batch_size,
            settings.unlabelled_batch_size,
            pieces,
        )
        self.feeder = Feeder(data, self.order, self.processes, settings.workers)
        self.pace = Pace(settings, self.order.steps)
        self.validator = Validator(
            adapted.potential, self.average, data.valid, self.total, recipe.losses
        )
        self.keeper = Keeper(
            folder, folder / CHECKPOINTS, settings.checkpoint_seconds, self.processes.main
        )
        self.progress = Progress()

    def run(self, resume: bool = False) -> TrainingOutcome:
        """Train; afterwards the potential holds the best averaged weights, in evaluation mode.

        Args:
            resume: Whether to go on from the newest whole checkpoint, where there is one.

        Raises:
            TrainingError: If the run keeps diverging, naming loss and structures.
            RunStoppedError: On SIGTERM or SIGINT, or when the disk is full; it can be resumed.
        """
        with self.reporter, multiplication(self.settings.precision), StopSignals() as signals:
            try:
                self._begin(resume)
                while not self.progress.ending:
                    self._epoch(signals)
            except OSError as error:
                raise self.keeper.unwritable(error) from error
        self.weights.return_to_best()
        self.adapted.potential.eval()
        state = self.progress
        return TrainingOutcome(state.history, state.best_epoch, state.ending)

    def try_steps(self, count: int) -> list[float]:
        """Take steps to see what they cost, writing nothing; return the wall time of each, s."""
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
        stored = self.keeper.read() if resume else None
        if stored is not None:
            for fault in stored.faults:
                self.reporter.say(f"warning: {fault}; going on from the one before.")
            self.progress = state = Progress.from_dict(stored.state)
            self.weights.restore(stored.tensors)
            if state.ending == "max_hours":
                state.ending = spent(state, self.settings, self.processes)
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

    def _epoch(self, signals: StopSignals) -> None:
        """Do what is left of the epoch in progress."""
        state = self.progress
        self.adapted.potential.train()
        started = time.perf_counter()
        for pieces in self.feeder.steps(state.epoch, state.position):
            self._step(pieces)
            state.position += 1
            state.step += 1
            state.spend(time.perf_counter() - started, steps=True)
            started = time.perf_counter()
            self._stop_if_asked(signals)
            if spent(state, self.settings, self.processes):
                break
            if self.keeper.due:
                self._save()
        if "gradient_norm" not in state.sums and not state.guard.skipped:
            raise TrainingError(
                "no loss applies to any training structure: there are no labels of the kinds that "
                "the recipe's losses use."
            )
        self._validate(state.epoch)
        state.ending = ending(state, self.settings, self.processes)
        state.next_epoch()
        if state.ending:
            self._save(final=True)
            return
        self._stop_if_asked(signals)
        if self.keeper.due:
            self._save()

    def _step(self, pieces: list[GraphBatch]) -> None:
        state, guard = self.progress, self.progress.guard
        set_learning_rate(self.weights.optimiser, self.pace.rate(state, self.pace.done(state)))
        potential = self.adapted.potential
        pieces = [batch.to(potential.device, potential.dtype) for batch in pieces]
        with global_generator(self.settings.seed, state.step, self.processes.rank):
            outcome = self.stepper.take(pieces, self._evaluate, self.pace.share(state))
        if outcome is None:
            return
        if outcome.trouble:
            guard.step_was_skipped(outcome.trouble)
            if guard.diverging:
                self._roll_back()
            return
        guard.step_went_well()
        state.add("gradient_norm", outcome.gradient_norm)
        for name, value in outcome.noise.items():
            state.add(f"noise/{name}", value)
        for name, value in step_values(outcome.means, outcome.weights).items():
            state.add(name, value)

    def _evaluate(self, batch: GraphBatch, shares: Mapping[str, float]) -> LossValue | None:
        step, identities = self.progress.step, batch.identity.tolist()
        generators = structure_generators(self.settings.seed, step, identities)
        potential, done = self.adapted.potential, self.pace.share(self.progress)
        return self.total(batch, potential, generators, self.teacher, done, shares)

    def _roll_back(self) -> None:
        """Return to the best weights at a lower learning rate.

        Raises:
            TrainingError: If that has been done as often as the recipe allows.
        """
        state, guard = self.progress, self.progress.guard
        if guard.rollbacks >= self.settings.rollbacks:
            mend = "Lower train.learning_rate or the weight of that loss, or look at"
            if self.settings.optimiser == "gauss-newton":
                mend = "Train fewer weights (adapter lora or readout), or look at"
            raise TrainingError(
                f"training keeps diverging: {guard.trouble}. Went back to the best weights (epoch "
                f"{state.best_epoch}) {counted(guard.rollbacks, 'time')}, each time with a lower "
                f"learning rate. {mend} those structures. '{self.folder}' keeps metrics and "
                "checkpoint unless it replaced an earlier run; --overwrite starts again."
            )
        self.weights.return_to_best()
        guard.rolled_back()
        self.reporter.say(
            f"warning: {guard.trouble}; back to the weights of epoch {state.best_epoch}, learning "
            f"rate times {guard.ceiling:.2g}."
        )

    def _validate(self, epoch: int) -> None:
        """Record an epoch, and keep its weights where they are the best so far."""
        state, monitored = self.progress, f"valid/{self.settings.monitor}"
        record = self.processes.from_main(self._record(epoch))
        value = record[monitored]
        first = state.history[0][monitored] if state.history else value
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

    def _record(self, epoch: int) -> Record:
        """Validate in the main process; the others wait for its record."""
        if not self.processes.main:
            return {}
        return self.validator.record(self.progress, epoch, self.pace.rate(self.progress, epoch))

    def _save(self, final: bool = False) -> None:
        self.keeper.write(self.weights.tensors(), self.progress.as_dict(), final)

    def _stop_if_asked(self, signals: StopSignals) -> None:
        number = self.processes.first(signals.received)
        if number is not None:
            self._save()
            raise self.keeper.stopped(number, self.progress.epoch)
