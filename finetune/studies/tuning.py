"""Tune a recipe: trial after trial, judged on validation; the test set is never read."""

from __future__ import annotations

import shutil
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from finetune.core.environment import process_count, versions
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
from finetune.core.interruption import StopSignals
from finetune.core.options import flattened
from finetune.core.output_folder import alone
from finetune.recipe.recipe import INCONSEQUENTIAL, Recipe
from finetune.recipe.sections import DataRecipe
from finetune.runs.preparation import Preparation
from finetune.runs.workflow import read_recipe
from finetune.studies.absolute_paths import moved
from finetune.studies.budget import Budget, parse_budget
from finetune.studies.scoring import Judging, Measure, judging
from finetune.studies.space import Dimension, space_of, with_values
from finetune.studies.study import Study, Tried
from finetune.studies.trial_training import Foundations, check_signals, train
from finetune.studies.tuning_folder import RESULT, STUDY, TRIALS, TUNING, claim, place
from finetune.studies.tuning_result import TuningResult, best_of, origin, shown
from finetune.training.records import Reporter, Silent

FAULTS = (DataError, FoundationError, RecipeError, TrainingError, RuntimeError, ArithmeticError)
"""What ends a trial, not the tuning."""


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
    fall behind are given up early, those that fail are recorded. The same call goes on with a
    tuning that was stopped or killed, or that is to have a larger budget.

    Args:
        recipe: A `Recipe`, the path of a recipe file, or a mapping; its ``tune`` section says what
            is searched and what judges.
        overrides: Dotted overrides such as ``train.epochs=10``.
        budget: Number of trials in all, or time (``2h``, ``45min``).
        to: Folder for the study; ``OUTPUT-tuning`` by default.
        overwrite: Whether a tuning that is there may be replaced.
        reporter: Told of each trial; silent by default.

    Raises:
        RunStoppedError: On a signal; the same call goes on.
        FinetuneError: For anything that the user can mend, and if the untouched recipe fails.
    """
    limit = parse_budget(budget)
    parsed, beside = read_recipe(recipe, overrides)
    _check(parsed)
    work = _Tuning(parsed, beside, place(parsed, to, "tuning"), reporter or Silent())
    return work.run(limit, overwrite)


class _Tuning:
    """A tuning at work.

    Args:
        recipe: The untouched recipe.
        beside: Its folder.
        folder: Of the tuning.
        reporter: Told of each trial.
    """

    def __init__(
        self, recipe: Recipe, beside: Path | None, folder: Path, reporter: Reporter
    ) -> None:
        self.recipe = recipe
        self.beside = beside
        self.folder = folder
        self.reporter = reporter
        self.measure = Measure.of_recipe(recipe)
        self.space = space_of(recipe)
        if not self.space:
            raise RecipeError(
                f"there is nothing to tune: train.optimiser={recipe.train.optimiser} chooses its "
                "settings from the labels. Run the recipe as it is, or name settings: "
                "tune.space={adapter.kind: [full, lora]}."
            )
        self.foundations = Foundations(beside)

    def run(self, limit: Budget, overwrite: bool) -> TuningResult:
        """Make trials until the budget is spent."""
        with alone(self.folder), StopSignals() as signals:
            judged = judging(self.recipe, self.beside, self.measure)
            self.begun = self._begun(judged)
            asked = _asked(self.recipe, self.measure, self.space, judged) | self.begun
            goes_on = claim(self.folder, TUNING, asked, overwrite, self.reporter.say)
            if goes_on:
                self._check_study()
            data = judged.data(self.recipe, self.folder)
            with Study(self.folder / STUDY, self.space, self.recipe.tune.seed) as study:
                tried = study.tried()
                told = f"{len(tried)} trials so far" if goes_on else f"searching {len(self.space)}"
                self.reporter.say(
                    f"{told if goes_on else told + ' settings'}, judged by {self.measure.title} on "
                    f"{judged.described}"
                )
                while not limit.spent(len(tried), sum(item.seconds for item in tried)):
                    left = None
                    if limit.seconds is not None:
                        left = limit.seconds - sum(item.seconds for item in tried)
                    try:
                        check_signals(signals)
                        ended = self._try(study, data, left, signals)
                    except RunStoppedError as error:
                        why = f"{signals.received.name}." if signals.received else str(error)
                        raise RunStoppedError(
                            f"{why} The tuning in '{self.folder}' goes on with the same command.",
                            error.exit_code,
                        ) from error
                    tried = study.tried()
                    self.reporter.say(self._line(ended, best_of(tried)))
                    self._result(study, judged).write()
                result = self._result(study, judged)
                result.write()  # a kill may have come before the last trial was written
                return result

    def _leave_out(self, idle: Collection[str]) -> None:
        """Take the settings of losses without labels out of what is searched.

        Raises:
            RecipeError: If nothing is left.
        """
        void = [path for path in self.space if any(path.startswith(f"losses.{n}.") for n in idle)]
        for path in void:
            del self.space[path]
            self.reporter.say(f"note: '{path}' is not searched: the loss is idle.")
        if not self.space:
            raise RecipeError(f"there is nothing to tune: {', '.join(void)} change nothing.")

    def _check_study(self) -> None:
        """Raise if there are results of trials, but not the study that remembers them."""
        path = self.folder / STUDY
        lost = not path.is_file() or path.stat().st_size == 0
        if lost and (self.folder / RESULT).is_file():
            raise RunFolderError(
                f"'{path}', which remembers the trials that '{self.folder / RESULT}' tells of, is "
                "gone or empty. Put it back, choose another folder with --to, or --overwrite."
            )

    def _try(
        self, study: Study, data: Sequence[DataRecipe], left: float | None, signals: StopSignals
    ) -> Tried:
        """Train a trial on each fold.

        Raises:
            FinetuneError: If the untouched recipe fails.
            RunStoppedError: On a signal, and if PyTorch fails on the untouched recipe, as where
                there is no memory: the trial can be gone on with.
        """
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
                trial.fold_is_done(found.value, found.first, found.best_epoch == 0, found.seconds)
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
                told = reason(error).rstrip(".")
                raise RunStoppedError(f"the untouched recipe: {told}.") from error
            trial.spend(rest())
            ended = study.end(trial, reason(error), failed=True)
        else:
            ended = study.end(trial)
        shutil.rmtree(folder, ignore_errors=True)
        return ended

    def _begun(self, judged: Judging) -> dict[str, Any]:
        """Check everything that a run needs, but the test set; return what it is begun with."""
        data = self.recipe.data.model_copy(update={"test": None})
        unused = str(self.folder / "checked")
        checked = self.recipe.model_copy(update={"data": data, "output": unused})
        opened = self.foundations.of(checked)
        prepared = Preparation(checked, self.beside, False, opened=opened, find_names=False)
        judged.check(checked, prepared.adapted)
        for note in prepared.notes:
            self.reporter.say(note)
        self._leave_out(prepared.idle)
        return {
            "seed": self.recipe.tune.seed,
            "data": prepared.data_fingerprint,
            "foundation": prepared.foundation.fingerprint,
            "versions": {**versions(), "optuna": _optuna()},
        }

    def _result(self, study: Study, judged: Judging) -> TuningResult:
        tried = study.tried()
        best = best_of(tried)
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
        tuned = moved(with_values(self.recipe, best.values), self.beside)
        tuned["tune"]["origin"] = origin(result)
        return replace(result, recipe=Recipe.parse(tuned))

    def _line(self, item: Tried, best: Tried) -> str:
        values = "  ".join(f"{path}={shown(value)}" for path, value in item.values.items())
        told = self.measure.shown(item.value) if item.done else f"{item.state}: {item.fault}"
        at_best = f"best {self.measure.shown(best.value)}, trial {best.number}"
        return f"trial {item.number}  {told}  ({at_best})  {values or 'untouched'}"


def _check(recipe: Recipe) -> None:
    if recipe.stages:
        raise RecipeError(
            "a recipe with stages is tuned stage by stage: write the stage as a recipe of its own, "
            "with the run folder of the stage before as its foundation."
        )
    if process_count() > 1:
        raise FinetuneError("tune runs in one process: start it without torchrun or accelerate.")


def _asked(
    recipe: Recipe, measure: Measure, space: Mapping[str, Dimension], judged: Judging
) -> dict[str, Any]:
    """Return what two tunings have alike that may be one."""
    settings = {
        key: value
        for key, value in flattened(recipe.complete()).items()
        if key not in INCONSEQUENTIAL and not key.startswith(("tune.", "data.test"))
    }
    searched = {f"space of {path}": _plain(item) for path, item in space.items()}
    return {**settings, **searched, "measure": measure.name, "judged": judged.described}


def _plain(item: Dimension) -> Any:
    searched = item.searched
    return list(searched) if isinstance(searched, tuple) else searched.model_dump()


def _optuna() -> str:
    from importlib.metadata import version

    return version("optuna")
