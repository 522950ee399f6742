"""Tune a recipe: trial after trial, judged on validation; the test set is never read."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from finetune.core.devices import choose_device, training_dtype
from finetune.core.errors import (
    DataError,
    FinetuneError,
    FoundationError,
    RecipeError,
    RunFolderError,
    RunStoppedError,
    TrainingError,
    reason,
    system_errors,
)
from finetune.core.executors import Job, ThisProcess, work_through
from finetune.core.options import flattened
from finetune.core.process import StopSignals, process_count
from finetune.core.resources import expanded, find, shipped
from finetune.data.reading import find_files
from finetune.potentials.catalogue import names
from finetune.potentials.family import versions
from finetune.potentials.loading import Foundation, load_foundation
from finetune.recipe.recipe import INCONSEQUENTIAL, Recipe
from finetune.recipe.sections import DataRecipe
from finetune.runs import run_folder
from finetune.runs.preparation import Preparation
from finetune.runs.workflow import read_recipe
from finetune.studies.scoring import Judging, Measure, judging
from finetune.studies.space import space_of, with_values
from finetune.studies.study import Budget, Study, Tried, parse_budget
from finetune.studies.tuning_folder import RESULT, STUDY, TRIALS, TUNING, at_work, claim, place
from finetune.studies.tuning_result import TuningResult, best_of, origin, shown
from finetune.training.loop import Trainer
from finetune.training.records import Record, Reporter, Silent

FAULTS = (DataError, FoundationError, RecipeError, TrainingError, RuntimeError, ArithmeticError)
"""What ends a trial, not the tuning."""
Observe = Callable[[float, float, float], None]
"""Called after each validation: share of the epochs done, measure of what would be kept now, and
that of the foundation. It may raise to end the training."""


class Hopeless(Exception):  # noqa: N818 (not a fault)
    """A trial that is given up, and why."""


@system_errors()
def tune(
    recipe: Recipe | str | Path | Mapping[str, Any],
    overrides: Sequence[str] = (),
    *,
    budget: str | int,
    to: str | Path | None = None,
    overwrite: bool = False,
    reporter: Reporter | None = None,
) -> TuningResult:
    """Search settings of a recipe that validate best, and write the tuned recipe.

    Trial 0 is the untouched recipe, so that the tuned one is never worse on validation. Trials that
    fall behind are given up early, those that fail are recorded. The same call continues a tuning
    that was stopped or killed, or that gets a larger budget.

    Args:
        recipe: A `Recipe`, the path of a recipe file, or a mapping; its ``tune`` section says what
            is searched and what judges.
        overrides: Dotted overrides such as ``train.epochs=10``.
        budget: Number of trials in all, or time (``2h``, ``45min``).
        to: Folder for the study; ``OUTPUT-tuning`` by default.
        overwrite: Whether an earlier tuning in the folder may be replaced.
        reporter: Receives a line for each trial; silent by default.

    Raises:
        RunStoppedError: On a signal; the same call continues.
        FinetuneError: For anything that the user can correct, and if the untouched recipe fails.
    """
    limit = parse_budget(budget)
    parsed, recipe_folder = read_recipe(recipe, overrides)
    if parsed.stages:
        raise RecipeError(
            "a recipe with stages is tuned stage by stage: write the stage as a recipe of its own, "
            "with the run folder of the stage before as its foundation."
        )
    if process_count() > 1:
        raise FinetuneError("tune runs in one process: start it without torchrun or accelerate.")
    work = _Tuning(parsed, recipe_folder, place(parsed, to, "tuning"), reporter or Silent())
    return work.run(limit, overwrite)


class _Tuning:
    """A tuning at work."""

    def __init__(
        self, recipe: Recipe, recipe_folder: Path | None, folder: Path, reporter: Reporter
    ) -> None:
        self.recipe = recipe
        self.recipe_folder = recipe_folder
        self.folder = folder
        self.say = reporter.say
        self.measure = Measure.of_recipe(recipe)
        self.space = space_of(recipe)
        if not self.space:
            raise RecipeError(
                f"there is nothing to tune: train.optimiser={recipe.train.optimiser} chooses its "
                "settings from the labels. Run the recipe as it is, or name settings: "
                "tune.space={adapter.kind: [full, lora]}."
            )
        self.foundations = Foundations(recipe_folder)

    def run(self, limit: Budget, overwrite: bool) -> TuningResult:
        """Make trials until the budget is spent."""
        with at_work(self.folder, TUNING) as signals:
            judged = judging(self.recipe, self.recipe_folder, self.measure)
            self.begun = self._begun(judged)
            continued = claim(self.folder, TUNING, self._asked(judged), overwrite, self.say)
            path, results = self.folder / STUDY, self.folder / RESULT
            lost = not path.is_file() or path.stat().st_size == 0
            if continued and lost and results.is_file():
                raise RunFolderError(
                    f"'{path}', which remembers the trials of '{results}', is missing or "
                    "empty. Put it back, choose another folder with --to, or --overwrite."
                )
            data = judged.data(self.recipe, self.folder)
            with Study(self.folder / STUDY, self.space, self.recipe.tune.seed) as study:
                so_far = f"{len(study.tried())} trials so far"
                self.say(
                    f"{so_far if continued else f'searching {len(self.space)} settings'}, judged "
                    f"by {self.measure.title} on {judged.described}"
                )
                trials = self._trials(study, data, limit, signals)
                for _, trial in work_through(trials, ThisProcess(), 1, signals.check):
                    ended = trial.result()
                    self.say(self._line(ended, best_of(study.tried())))
                    self._result(study, judged).write()
                result = self._result(study, judged)
                result.write()  # a kill may have come before the last trial was written
                return result

    def _begun(self, judged: Judging) -> dict[str, Any]:
        """Check everything that a run needs, but the test set; return what it begins with."""
        data = self.recipe.data.model_copy(update={"test": None})
        unused = str(self.folder / "checked")
        checked = self.recipe.model_copy(update={"data": data, "output": unused})
        opened = self.foundations.of(checked)
        prepared = Preparation(checked, self.recipe_folder, False, opened=opened, find_names=False)
        settled = {"monitor": prepared.recipe.train.monitor}
        train = self.recipe.train.model_copy(update=settled)
        self.recipe = self.recipe.model_copy(update={"train": train})
        self.measure = Measure.of_recipe(self.recipe)
        judged.check(checked, prepared.adapted)
        for note in prepared.notes:
            self.say(note)
        idle = tuple(f"losses.{name}." for name in prepared.idle)
        void = [path for path in self.space if path.startswith(idle)]
        for path in void:
            del self.space[path]
            self.say(f"note: '{path}' is not searched: the loss is idle.")
        if not self.space:
            raise RecipeError(f"there is nothing to tune: {', '.join(void)} change nothing.")
        return {
            "seed": self.recipe.tune.seed,
            "data": prepared.data_fingerprint,
            "foundation": prepared.foundation.fingerprint,
            "versions": {**versions(), "optuna": version("optuna")},
        }

    def _asked(self, judged: Judging) -> dict[str, Any]:
        """Return what two tunings have in common that may be one."""
        settings = {
            key: value
            for key, value in flattened(self.recipe.complete()).items()
            if key not in INCONSEQUENTIAL and not key.startswith(("tune.", "data.test"))
        }
        for path, item in self.space.items():
            own = item.searched
            settings[f"space of {path}"] = list(own) if isinstance(own, tuple) else own.model_dump()
        judges = {"measure": self.measure.name, "judged": judged.described}
        return settings | judges | self.begun

    def _trials(
        self, study: Study, data: Sequence[DataRecipe], limit: Budget, signals: StopSignals
    ) -> Iterator[Job]:
        """Yield trials until the budget is spent."""
        while True:
            tried = study.tried()
            seconds = sum(item.seconds for item in tried)
            if limit.spent(len(tried), seconds):
                return
            left = None if limit.seconds is None else limit.seconds - seconds
            yield Job(f"trial {len(tried)}", self._try, (study, data, left, signals))

    def _try(
        self, study: Study, data: Sequence[DataRecipe], left: float | None, signals: StopSignals
    ) -> Tried:
        """Train a trial on each fold; raise what the untouched recipe fails with."""
        trial = study.next()
        folder = self.folder / TRIALS / f"{trial.number:04d}"
        started, before = time.perf_counter(), trial.seconds

        def rest() -> float:
            return max(time.perf_counter() - started - (trial.seconds - before), 0.0)

        def observe(share: float, value: float, first: float) -> None:
            if trial.hopeless(share, value, first) and trial.number > 0:
                fold = f" of fold {len(trial.folds) + 1}" if len(data) > 1 else ""
                raise Hopeless(f"given up after {100 * share:.0f} % of the epochs{fold}")
            spent = before + time.perf_counter() - started
            if left is not None and trial.number > 0 and spent > left:
                raise Hopeless("given up when the time was spent")

        try:
            recipe = with_values(self.recipe, trial.values)
            whole = self.begun["data"] if len(data) == 1 else None  # folds are files of ours
            for number, part in enumerate(data[len(trial.folds) :], len(trial.folds) + 1):
                output = str(folder / f"fold-{number}")
                one = recipe.model_copy(update={"data": part, "output": output})
                found = train(one, self.foundations, self.measure, observe, signals, whole)
                trial.fold_is_done(*found)
        except RunStoppedError:
            trial.spend(rest())
            raise
        except Hopeless as given_up:
            trial.spend(rest())
            ended = study.end(trial, str(given_up))
        except FAULTS as error:
            if trial.number == 0:
                if isinstance(error, FinetuneError):
                    raise
                what = reason(error).rstrip(".")  # such as a lack of memory: it can be continued
                raise RunStoppedError(f"the untouched recipe: {what}.") from error
            trial.spend(rest())
            ended = study.end(trial, reason(error), failed=True)
        else:
            ended = study.end(trial)
        shutil.rmtree(folder, ignore_errors=True)
        return ended

    def _result(self, study: Study, judged: Judging) -> TuningResult:
        tried = study.tried()
        result = TuningResult(
            folder=self.folder,
            recipe=self.recipe,
            measure=self.measure,
            judged=judged.described,
            space=self.space,
            tried=tried,
            importances=study.importances(),
            begun=self.begun,
        )
        best = with_values(self.recipe, best_of(tried).values)
        tuned = with_absolute_paths(best, self.recipe_folder)
        tuned["tune"]["origin"] = origin(result)
        return replace(result, recipe=Recipe.parse(tuned))

    def _line(self, item: Tried, best: Tried) -> str:
        values = "  ".join(f"{path}={shown(value)}" for path, value in item.values.items())
        found = self.measure.shown(item.value) if item.done else f"{item.state}: {item.fault}"
        at_best = f"best {self.measure.shown(best.value)}, trial {best.number}"
        return f"trial {item.number}  {found}  ({at_best})  {values or 'untouched'}"


class Foundations:
    """Opens each foundation once; building a model takes longer than training a small one."""

    def __init__(self, recipe_folder: Path | None) -> None:
        self.recipe_folder = recipe_folder
        self._opened: dict[tuple[Any, ...], Foundation] = {}

    def of(self, recipe: Recipe) -> Foundation:
        """Return the foundation of a recipe, which must not be changed."""
        device = choose_device(recipe.train.device)
        dtype = training_dtype(recipe.train.precision, device)
        named = (recipe.foundation, dtype, device, self.recipe_folder, recipe.head, recipe.trust)
        if named not in self._opened:
            self._opened[named] = load_foundation(*named)
        return self._opened[named]


class _Watch(Silent):
    """Passes on what a trainer's validations find."""

    trainer: Trainer

    def __init__(self, measure: Measure, observe: Observe) -> None:
        self.measure = measure
        self.observe = observe

    def epoch(self, record: Record) -> None:
        """See `Reporter.epoch`."""
        share = record["epoch"] / self.trainer.settings.epochs
        if record["epoch"] > 0:
            self.observe(share, *self.kept_and_first())

    def kept_and_first(self) -> tuple[float, float]:
        """Return the measure of the weights that would be kept now, and of the foundation."""
        state = self.trainer.progress
        best, first = state.history[state.best_epoch], state.history[0]
        return self.measure.value(best), self.measure.value(first)


def train(
    recipe: Recipe,
    foundations: Foundations,
    measure: Measure,
    observe: Observe,
    signals: StopSignals,
    data: str | None = None,
) -> tuple[float, float, bool, float]:
    """Train by a recipe in its output folder, continuing from a checkpoint there, and validate.

    ``data`` is the fingerprint that the data must have; None for any. Returns the measure of the
    weights that the run would keep, and of the foundation; whether the foundation's weights are
    kept; wall time, s. On a signal, RunStoppedError: the same call continues.
    """
    started = time.perf_counter()
    opened = foundations.of(recipe)
    prepared = Preparation(
        recipe, foundations.recipe_folder, False, "auto", opened, find_names=False
    )
    if data not in (None, prepared.data_fingerprint):
        raise RunFolderError(
            "the data have changed since the tuning began. Put the earlier files back and run the "
            "same command again, or start from scratch with --overwrite."
        )
    watch = _Watch(measure, observe)
    watch.trainer = trainer = prepared.trainer(watch)
    signals.check()
    facts, resuming = prepared.environment, prepared.resuming
    with run_folder.opened(prepared.folder, prepared.recipe.dump(), facts, resuming):
        outcome = trainer.run(resuming)
    value, first = watch.kept_and_first()
    if not math.isfinite(value):
        raise TrainingError(f"the {measure.title} on the validation structures is not finite.")
    return value, first, outcome.best_epoch == 0, time.perf_counter() - started


def with_absolute_paths(recipe: Recipe, recipe_folder: Path | None) -> dict[str, Any]:
    """Return a recipe as a mapping that finds its files wherever it is written.

    Relative names of files in the working folder and in the recipe's become absolute; names of
    shipped files and of catalogued foundations stay as they are.
    """
    content = recipe.written()
    data = content["data"]
    for key in ("train", "valid", "test", "unlabelled"):
        if isinstance(data[key], str):
            data[key] = _absolute_source(data[key], recipe_folder)
        elif isinstance(data[key], list):
            data[key] = [_absolute_source(item, recipe_folder) for item in data[key]]
    pairs = recipe.data.energy_tables().items()
    data["energies"] = {
        _absolute_source(source, recipe_folder): _absolute_source(table, recipe_folder)
        for source, table in pairs
    } or None
    name = content["foundation"]
    found = None if name in names() or expanded(name).is_absolute() else find(name, recipe_folder)
    if found is not None and found.resolve() != _as_shipped(name):
        content["foundation"] = str(found.absolute())
    return content


def _absolute_source(source: str, recipe_folder: Path | None) -> str:
    if expanded(source).is_absolute():
        return source
    here = recipe_folder.resolve() if recipe_folder else Path.cwd()
    for path in (Path.cwd() / source, here / source):
        if _has_files(str(path)):
            return source if path.resolve() == _as_shipped(source) else str(path)
    return source if _has_files(source) else str(here / source)


def _has_files(source: str) -> bool:
    try:
        find_files(source)
    except DataError:
        return False
    return True


def _as_shipped(name: str) -> Path | None:
    """Return where a name leads that is looked for among the shipped files, too."""
    parts = Path(name).parts
    return (shipped() / name).resolve() if parts and parts[0] in {"data", "recipes"} else None
