"""One training of a trial: watched at each validation, nothing left behind but its measure."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.core.devices import choose_device, training_dtype
from finetune.core.errors import RunFolderError, RunStoppedError, TrainingError
from finetune.core.interruption import StopSignals
from finetune.potentials.loading import Foundation, load_foundation
from finetune.recipe.recipe import Recipe
from finetune.runs import run_folder
from finetune.runs.preparation import Preparation
from finetune.studies.scoring import Measure
from finetune.training.loop import Trainer
from finetune.training.records import Record, Silent

Observe = Callable[[float, float, float], None]
"""Told after each validation: share of the epochs done, measure of what would be kept now, and that
of the foundation. It may raise to end the training."""


@dataclass(frozen=True)
class Trained:
    """What a training found.

    Attributes:
        value: Measure of the weights that the run would keep.
        first: That of the foundation.
        best_epoch: Their epoch.
        seconds: Wall time.
    """

    value: float
    first: float
    best_epoch: int
    seconds: float


class Watch(Silent):
    """Passes on what a trainer's validations find.

    Args:
        measure: What is looked at.
        observe: Told of it.
    """

    def __init__(self, measure: Measure, observe: Observe) -> None:
        self.measure = measure
        self.observe = observe
        self.trainer: Trainer | None = None

    def epoch(self, record: Record) -> None:
        """See `Reporter.epoch`."""
        assert self.trainer is not None
        share = record["epoch"] / self.trainer.settings.epochs
        if record["epoch"] > 0:
            self.observe(share, *kept_and_first(self.trainer, self.measure))


def kept_and_first(trainer: Trainer, measure: Measure) -> tuple[float, float]:
    """Return the measure of the weights that a trainer would keep now, and of the foundation."""
    state = trainer.progress
    return measure.value(state.history[state.best_epoch]), measure.value(state.history[0])


class Foundations:
    """Opens each foundation once; building a model takes longer than training a small one.

    Args:
        beside: Folder of the recipe.
    """

    def __init__(self, beside: Path | None) -> None:
        self.beside = beside
        self._opened: dict[tuple[Any, ...], Foundation] = {}

    def of(self, recipe: Recipe) -> Foundation:
        """Return the foundation of a recipe, which must not be changed.

        Raises:
            FoundationError: If it cannot be opened.
        """
        device = choose_device(recipe.train.device)
        dtype = training_dtype(recipe.train.precision, device)
        named = (recipe.foundation, dtype, device, self.beside, recipe.head, recipe.trust)
        if named not in self._opened:
            self._opened[named] = load_foundation(*named)
        return self._opened[named]


def train(
    recipe: Recipe,
    foundations: Foundations,
    measure: Measure,
    observe: Observe,
    signals: StopSignals,
    data: str | None = None,
) -> Trained:
    """Train by a recipe in its output folder, going on from a checkpoint there, and validate.

    Args:
        recipe: The recipe.
        foundations: What opens its foundation.
        measure: What is returned.
        observe: Told after each validation.
        signals: What stops it.
        data: Fingerprint that the data must have; None for any.

    Raises:
        RunFolderError: If the data are others.
        RunStoppedError: On a signal; the same call goes on.
        FinetuneError: If the recipe cannot be trained, or diverges.
    """
    started = time.perf_counter()
    opened = foundations.of(recipe)
    prepared = Preparation(recipe, foundations.beside, False, "auto", opened, find_names=False)
    if data not in (None, prepared.data_fingerprint):
        raise RunFolderError(
            "the data have changed since the tuning began. Put the former files back and go on "
            "with the same command, or begin anew with --overwrite."
        )
    watch = Watch(measure, observe)
    trainer = Trainer(
        *(prepared.adapted, prepared.reference, prepared.data),
        *(prepared.recipe, prepared.folder, watch),
    )
    watch.trainer = trainer
    check_signals(signals)
    facts, resuming = prepared.environment, prepared.resuming
    with run_folder.opened(prepared.folder, prepared.recipe.dump(), facts, resuming):
        outcome = trainer.run(resuming)
    value, first = kept_and_first(trainer, measure)
    if not math.isfinite(value):
        raise TrainingError(f"the {measure.title} on the validation structures is not finite.")
    spent = time.perf_counter() - started
    return Trained(value, first, outcome.best_epoch, spent)


def check_signals(signals: StopSignals) -> None:
    """Stop where a signal came in between trainings.

    Raises:
        RunStoppedError: If one did.
    """
    if signals.received is not None:
        raise RunStoppedError(f"{signals.received.name} came.", 128 + signals.received)
