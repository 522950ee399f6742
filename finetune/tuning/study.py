"""The study: which values were tried, what they gave, and which to try next. Wraps Optuna."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.errors import RunFolderError, reason
from finetune.tuning.options import Range
from finetune.tuning.space import Dimension
from finetune.tuning.trials import Trial, Tried

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

STARTUP = 8
"""Trials, the untouched recipe's first, before the sampler learns from them."""
COMPLETE_FIRST = 4
"""Trials that are never pruned: there is too little to compare with."""
QUANTILE = 0.25
"""Share of the trials that count as good ones when importances are measured."""


class Study:
    """A study in an SQLite file, made or opened; a context manager that closes the file.

    Each trial's draw follows from the seed, its number and the trials before it, so that a study
    that was killed goes on as if it had not been.

    Args:
        path: The file.
        dimensions: What is searched.
        seed: Of the sampler.

    Raises:
        RunFolderError: If the file is damaged.
    """

    def __init__(self, path: Path, dimensions: Mapping[str, Dimension], seed: int) -> None:
        import optuna
        from sqlalchemy import URL

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
        """Close the file.

        Raises:
            RunFolderError: If it could not be read or written meanwhile.
        """
        from optuna.exceptions import OptunaError
        from sqlalchemy.exc import SQLAlchemyError

        self._storage.remove_session()
        self._storage.engine.dispose()
        if isinstance(error, (SQLAlchemyError, OptunaError)):
            cause = error.__cause__ or error
            told = reason(getattr(cause, "orig", None) or cause)
            raise RunFolderError(
                f"the study '{self.path}' cannot be read or written ({told}). Mend the cause and "
                "go on with the same command."
            ) from error

    def next(self) -> Trial:
        """Return the trial that a kill left in progress, or else a new one."""
        import optuna
        from optuna.trial import TrialState

        before = self._frozen()
        if not before:
            held = {path: item for path, item in self.dimensions.items() if item.holds_untouched}
            self._study.enqueue_trial({path: item.untouched_param for path, item in held.items()})
        running = next((item for item in before if item.state == TrialState.RUNNING), None)
        number = len(before) if running is None else running.number
        seed = int(np.random.SeedSequence([self.seed, number]).generate_state(1)[0])
        self._study.sampler = optuna.samplers.TPESampler(n_startup_trials=STARTUP, seed=seed)
        if running is None:
            handle = self._study.ask()
        else:
            handle = optuna.trial.Trial(self._study, running._trial_id)
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
        """Store how a trial ended: done, or given up or failed for the reason that is given."""
        from optuna.trial import TrialState

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
        return [self._tried(trial) for trial in self._frozen() if trial.state.is_finished()]

    def importances(self) -> dict[str, float]:
        """Return what share of the difference between good and other trials each setting explains.

        PED-ANOVA (Watanabe et al., IJCAI 2023) on the trials that are done, the best quarter being
        the good ones; empty with fewer than four of them. The untouched recipe counts where the
        space holds all of its values.
        """
        import optuna
        from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
        from optuna.trial import TrialState

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

    def _tried(self, trial: FrozenTrial) -> Tried:
        attributes = trial.user_attrs
        fault = attributes.get("fault", "")
        state = ("failed" if attributes.get("failed") else "pruned") if fault else "done"
        values = {} if trial.number == 0 else self._decoded(trial.params)
        return Tried(
            number=trial.number,
            state=state,
            value=None if fault else trial.value,
            values=values,
            seconds=attributes.get("seconds", 0.0),
            folds=tuple(attributes.get("folds", ())),
            kept=tuple(attributes.get("kept", ())),
            fault=fault,
        )

    def _drawn(self, handle: optuna.trial.Trial) -> dict[str, Any]:
        """Draw the values of a trial; the untouched recipe's are recorded where the space has them.

        Choices are stored as JSON, which holds whatever a recipe may.
        """
        untouched = handle.number == 0
        drawn: dict[str, Any] = {}
        for path, item in self.dimensions.items():
            if untouched and not item.holds_untouched:
                continue
            searched = item.searched
            if not isinstance(searched, Range):
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
        from optuna.exceptions import OptunaError
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except (SQLAlchemyError, OptunaError, RuntimeError, KeyError, ValueError) as error:
            told = reason(getattr(error, "orig", None) or error)
            raise RunFolderError(
                f"the study '{self.path}' is damaged or of another program ({told}). Put a copy of "
                "it back, or start again with --overwrite."
            ) from error
