"""The study: which values were tried, what they gave, which to try next, and when to stop."""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.exceptions import OptunaError
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import URL
from sqlalchemy.exc import SQLAlchemyError

from finetune.core.errors import FinetuneError, RunFolderError, reason
from finetune.recipe.sections import Range
from finetune.studies.space import Dimension

_SECONDS = {"h": 3600.0, "min": 60.0, "s": 1.0}
_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(h|min|s)")
MOST_TRIALS = 100_000


@dataclass(frozen=True)
class Budget:
    """When a tuning ends: at a number of trials (the untouched recipe's included), or a time, s."""

    trials: int | None = None
    seconds: float | None = None

    def spent(self, trials: int, seconds: float) -> bool:
        """Return whether a number of trials, or their time, reaches the budget."""
        enough = self.trials is not None and trials >= self.trials
        return enough or (self.seconds is not None and seconds >= self.seconds)


def parse_budget(text: str | int, least: int = 1) -> Budget:
    """Read ``30`` (trials, ``least`` or more), ``2h``, ``45min``, ``90s`` or ``1h30min``."""
    given = str(text).strip()
    if re.fullmatch(r"[0-9]{1,6}", given) and least <= int(given) <= MOST_TRIALS:
        return Budget(trials=int(given))
    parts = _PART.findall(given)
    whole = re.sub(r"\s", "", given) == "".join(number + unit for number, unit in parts)
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    if whole and seconds > 0:
        return Budget(seconds=seconds)
    raise FinetuneError(
        f"the budget '{given}' is neither a number of trials from {least} on (30; at most "
        f"{MOST_TRIALS}) nor a time (2h, 45min, 90s, 1h30min)."
    )


GRID = 10
"""Points of a training at which trials are compared, and given up if they are worse."""
WARM_UP = 2
"""The first of these points at which trials are judged."""


@dataclass(frozen=True)
class Tried:
    """A trial that is over: ``done``, ``pruned`` (given up early) or ``failed`` by a ``fault``.

    Number 0 is the untouched recipe, without ``values``. ``value`` is the measure in eV and Å, the
    mean over folds; None unless done. ``kept`` says for each fold whether no epoch validated better
    than the foundation. ``seconds`` is wall time.
    """

    number: int
    state: str
    value: float | None
    values: Mapping[str, Any]
    seconds: float
    folds: tuple[float, ...] = ()
    kept: tuple[bool, ...] = ()
    fault: str = ""

    @property
    def done(self) -> bool:
        """Whether it was trained to the end."""
        return self.value is not None


@dataclass
class Trial:
    """A trial in progress; what it reports is stored at once, so that a kill loses nothing.

    See `Tried`; ``handle`` is Optuna's trial, ``folds`` has the measures of the folds that are
    done, ``shares`` these over the foundation's, ``reported`` the points with a validation.
    """

    number: int
    values: dict[str, Any]
    handle: optuna.trial.Trial
    folds: list[float] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    kept: list[bool] = field(default_factory=list)
    seconds: float = 0.0
    reported: set[int] = field(default_factory=set)

    def hopeless(self, share: float, value: float, first: float) -> bool:
        """Report a validation; return whether the trial should be given up.

        Trials are compared by the share of the foundation's error that is left (mean over the folds
        so far) at the same ``share`` of the epochs of the same fold. ``value`` is the measure of
        what would be kept now, ``first`` of the foundation.
        """
        left = np.mean([*self.shares, share_left(value, first)])
        begun = len(self.folds) * GRID
        hopeless = False
        for point in range(WARM_UP, math.floor(share * GRID + 1e-9) + 1):
            step = begun + point
            if step not in self.reported:
                self.reported.add(step)
                self.handle.report(float(left), step)
                hopeless = hopeless or bool(self.handle.should_prune())
        return hopeless

    def fold_is_done(self, value: float, first: float, kept: bool, seconds: float) -> None:
        """Store the measure of a fold and of the foundation, and whether its weights were kept."""
        self.folds.append(value)
        self.kept.append(kept)
        self.shares.append(share_left(value, first))
        for name in ("folds", "shares", "kept"):
            self.handle.set_user_attr(name, getattr(self, name))
        self.spend(seconds)

    def spend(self, seconds: float) -> None:
        """Add to the wall time."""
        self.seconds += seconds
        self.handle.set_user_attr("seconds", self.seconds)


def share_left(value: float, first: float) -> float:
    """Return the share of the foundation's error that is left."""
    return value / max(first, 1e-300)


STARTUP = 8
"""Trials, including the untouched recipe's, before the sampler learns from them."""
COMPLETE_FIRST = 4
"""Trials that are never pruned, as there is too little to compare with."""
QUANTILE = 0.25
"""Share of the trials that count as good when importances are measured."""


class Study:
    """A study in an SQLite file, new or continued; a context manager that closes the file.

    Each trial's values follow from the seed, its number and the trials before it, so that a study
    that was killed ends as if it had not been. Raises RunFolderError for a damaged file.
    """

    def __init__(self, path: Path, dimensions: Mapping[str, Dimension], seed: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.path = path
        self.dimensions = dimensions
        self.seed = seed
        url = URL.create("sqlite", database=str(path.resolve())).render_as_string(False)
        with self._readable():
            self._storage = optuna.storages.RDBStorage(url)
            self._study = optuna.create_study(
                storage=self._storage,
                study_name="tune",
                pruner=optuna.pruners.MedianPruner(COMPLETE_FIRST),
                load_if_exists=True,
            )
            self._frozen()

    def __enter__(self) -> Study:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        """Close the file; raise RunFolderError if it could not be read or written."""
        self._storage.remove_session()
        self._storage.engine.dispose()
        if isinstance(error, (SQLAlchemyError, OptunaError)):
            cause = error.__cause__ or error
            why = reason(getattr(cause, "orig", None) or cause)
            raise RunFolderError(
                f"the study '{self.path}' cannot be read or written ({why}). Correct the cause and "
                "run the same command again."
            ) from error

    def next(self) -> Trial:
        """Return the trial that a kill interrupted, or a new one."""
        before = self._frozen()
        if not before:
            first = {
                path: item.untouched
                if isinstance(item.searched, Range)
                else json.dumps(item.searched[item.searched.index(item.untouched)])
                for path, item in self.dimensions.items()
                if item.holds_untouched
            }
            self._study.enqueue_trial(first)
        running = next((item for item in before if item.state == TrialState.RUNNING), None)
        number = len(before) if running is None else running.number
        seed = int(np.random.SeedSequence([self.seed, number]).generate_state(1)[0])
        self._study.sampler = optuna.samplers.TPESampler(n_startup_trials=STARTUP, seed=seed)
        handle = (
            optuna.trial.Trial(self._study, running._trial_id) if running else self._study.ask()
        )
        attributes = handle.user_attrs
        return Trial(
            number=handle.number,
            values=self._drawn(handle),
            handle=handle,
            folds=list(attributes.get("folds", [])),
            shares=list(attributes.get("shares", [])),
            kept=list(attributes.get("kept", [])),
            seconds=attributes.get("seconds", 0.0),
            reported=set() if running is None else set(running.intermediate_values),
        )

    def end(self, trial: Trial, fault: str = "", failed: bool = False) -> Tried:
        """Store how a trial ended: done, or given up or failed for a reason."""
        handle = trial.handle
        handle.set_user_attr("fault", fault)
        handle.set_user_attr("failed", failed)
        if fault:
            self._study.tell(handle, state=TrialState.PRUNED)  # so that the sampler avoids it
        else:
            self._study.tell(handle, float(np.mean(trial.folds)))
        return self.tried()[trial.number]

    def tried(self) -> list[Tried]:
        """Return the trials that are over, in their order."""
        found = []
        for trial in self._frozen():
            if trial.state.is_finished():
                stored = trial.user_attrs
                fault = stored.get("fault", "")
                ended = Tried(
                    number=trial.number,
                    state=("failed" if stored.get("failed") else "pruned") if fault else "done",
                    value=None if fault else trial.value,
                    values=self._decoded(trial.params) if trial.number else {},
                    seconds=stored.get("seconds", 0.0),
                    folds=tuple(stored.get("folds", ())),
                    kept=tuple(stored.get("kept", ())),
                    fault=fault,
                )
                found.append(ended)
        return found

    def importances(self) -> dict[str, float]:
        """Return what share of the difference between good and other trials each setting explains.

        PED-ANOVA (Watanabe et al., IJCAI 2023) on the trials that are done, where the best quarter
        are the good ones; empty with fewer than four. The untouched recipe counts where the space
        contains all of its values.
        """
        done = [
            item
            for item in self._frozen()
            if item.state == TrialState.COMPLETE and item.params.keys() == self.dimensions.keys()
        ]
        if len({item.value for item in done}) < 4:
            return {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            judged = optuna.create_study()
            judged.add_trials(done)
            found = get_param_importances(
                judged, evaluator=PedAnovaImportanceEvaluator(target_quantile=QUANTILE)
            )
        return {path: float(share) for path, share in found.items()}

    def _frozen(self) -> list[FrozenTrial]:
        with self._readable():
            return self._study.get_trials(deepcopy=False)

    def _drawn(self, handle: optuna.trial.Trial) -> dict[str, Any]:
        """Draw the values of a trial; the untouched recipe's are recorded if the space has them."""
        untouched = handle.number == 0
        drawn: dict[str, Any] = {}
        for path, item in self.dimensions.items():
            if untouched and not item.holds_untouched:
                continue
            searched = item.searched
            if not isinstance(searched, Range):  # as JSON: choices may be any value of a recipe
                drawn[path] = handle.suggest_categorical(path, list(map(json.dumps, searched)))
            elif item.whole:
                low, high = int(searched.low), int(searched.high)
                drawn[path] = handle.suggest_int(path, low, high, log=searched.log)
            else:
                drawn[path] = handle.suggest_float(
                    path, searched.low, searched.high, log=searched.log
                )
        return {} if untouched else self._decoded(drawn)

    def _decoded(self, params: Mapping[str, Any]) -> dict[str, Any]:
        return {
            path: item.tidy(params[path])
            if isinstance(item.searched, Range)
            else json.loads(params[path])
            for path, item in self.dimensions.items()
            if path in params
        }

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except (SQLAlchemyError, OptunaError, RuntimeError, KeyError, ValueError) as error:
            why = reason(getattr(error, "orig", None) or error)
            raise RunFolderError(
                f"the study '{self.path}' is damaged or of another program ({why}). Put a copy of "
                "it back, or start from scratch with --overwrite."
            ) from error
