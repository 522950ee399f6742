"""Compare variants of a recipe: tune all on validation, then run and test what was chosen."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from finetune.core.errors import (
    FinetuneError,
    RecipeError,
    RunFolderError,
    TrainingError,
    reason,
    system_errors,
)
from finetune.core.executors import Job, ThisProcess, WorkerProcesses, result_of, work_through
from finetune.core.files import read_json, write_json
from finetune.core.options import flattened
from finetune.core.process import StopSignals, process_count
from finetune.core.run_files import CHECKPOINTS
from finetune.core.text import counted
from finetune.data.reading import Reader
from finetune.data.structures import fingerprint
from finetune.potentials.family import versions
from finetune.recipe.recipe import INCONSEQUENTIAL, Recipe
from finetune.runs.workflow import read_recipe, run
from finetune.studies.arms import LABELS, Arm, Draws, arms_of, check_arms, notes_of, varied
from finetune.studies.comparison_result import FILES, ComparisonResult, evaluated
from finetune.studies.scoring import Measure
from finetune.studies.space import with_values
from finetune.studies.study import parse_budget
from finetune.studies.tuning import tune, with_absolute_paths
from finetune.studies.tuning_folder import Kind, at_work, claim, place
from finetune.training.records import Reporter, Silent

ARMS, CHOICES, CHOICE, TUNING = "arms", "choices.json", "choice.json", "tuning"
COMPARISON = Kind(
    "comparison",
    "comparison.json",
    frozenset({ARMS, LABELS, CHOICES, *FILES}),
    frozenset({"versions", "seeds"}),
)


@system_errors()
def compare(
    recipe: Recipe | str | Path | Mapping[str, Any],
    overrides: Sequence[str] = (),
    *,
    vary: Mapping[str, Sequence[Any]] | Sequence[str],
    budget: str | int = "10",
    seeds: int = 3,
    jobs: int = 1,
    to: str | Path | None = None,
    overwrite: bool = False,
    reporter: Reporter | None = None,
) -> ComparisonResult:
    """Compare variants of a recipe, each tuned with the same budget, over several seeds.

    Every arm (all combinations of the values) is tuned on validation with the first seed. When all
    are, what was chosen is fixed, and every arm is run with every seed and tested. A seed decides
    what is random in a run and which labels are drawn. The same call continues a comparison that
    was stopped or killed, or that gets more seeds.

    Args:
        recipe: A `Recipe`, the path of a recipe file, or a mapping.
        overrides: Dotted overrides such as ``train.epochs=10``.
        vary: Values by key: ``labels`` (numbers of labelled training structures, or ``all``),
            ``losses`` (weak losses joined by ``+``, ``none``, ``all``), or any dotted key of the
            recipe; or texts such as ``losses=none,pitc``.
        budget: Of each tuning: trials, or time; 0 tunes nothing.
        seeds: How many seeds, counted from the recipe's ``train.seed``.
        jobs: How many processes work at a time; each has its share of the cores.
        to: Folder; ``OUTPUT-comparison`` by default.
        overwrite: Whether an earlier comparison in the folder may be replaced.
        reporter: Receives a line for each tuning and run; silent by default.

    Raises:
        RunStoppedError: On a signal, and if a job runs out of memory; the same call continues.
        FinetuneError: For anything that the user can correct.
    """
    parse_budget(budget, least=0)
    if seeds < 1 or jobs < 1:
        raise FinetuneError(f"seeds={seeds} and jobs={jobs}: both must be at least 1.")
    parsed, recipe_folder = read_recipe(recipe, overrides)
    _check(parsed)
    folder = place(parsed, to, COMPARISON.what)
    parsed = Recipe.parse(with_absolute_paths(parsed, recipe_folder))
    arms = [
        replace(arm, recipe=Recipe.parse(with_absolute_paths(arm.recipe, recipe_folder)))
        for arm in arms_of(parsed, vary if isinstance(vary, Mapping) else varied(vary))
    ]
    several = [parsed.train.seed + number for number in range(seeds)]
    work = _Comparison(parsed, arms, folder, str(budget), several, (reporter or Silent()).say)
    with at_work(folder, COMPARISON) as signals:
        return work.run(jobs, overwrite, signals)


def _check(recipe: Recipe) -> None:
    if recipe.stages:
        raise RecipeError("compare takes recipes without stages: compare stage by stage.")
    if recipe.committee is not None:
        raise RecipeError("compare runs single potentials: take committee out of the recipe.")
    if recipe.data.test is None:
        raise RecipeError(
            "a comparison needs structures that no choice has seen: name them in data.test."
        )
    if process_count() > 1:
        raise FinetuneError("compare starts its own processes (--jobs): use no torchrun with it.")


def _executor(jobs: int) -> Executor:
    if jobs == 1:
        return ThisProcess()
    share = max(torch.get_num_threads() // jobs, 1)
    threads = None if "OMP_NUM_THREADS" in os.environ else share
    return WorkerProcesses(jobs, threads, polite=True)


@dataclass
class _Comparison:
    """A comparison at work; names in its recipes do not depend on a folder."""

    recipe: Recipe
    arms: Sequence[Arm]
    folder: Path
    budget: str
    seeds: list[int]
    say: Callable[[str], None]
    draws: Draws = field(init=False)

    def run(self, jobs: int, overwrite: bool, signals: StopSignals) -> ComparisonResult:
        """Tune, fix the choices, run and test."""
        asked = self._asked() | self._begun()
        claim(self.folder, COMPARISON, asked, overwrite, self.say)
        for arm in self.arms:
            self._place(arm).mkdir(parents=True, exist_ok=True)

        def work(todo: Sequence[Job], executor: Executor) -> None:
            finished = work_through(todo, executor, jobs, signals.check)
            for number, (job, future) in enumerate(finished, 1):
                self.say(f"{number}/{len(todo)} {job.name}: {result_of(job, future)}")

        with _executor(jobs) as executor:
            tunings = [job for arm in self.arms if (job := self._tuning(arm)) is not None]
            seeds = counted(len(self.seeds), "seed")
            self.say(f"{len(self.arms)} arms, {len(tunings)} to be tuned, {seeds}")
            work(tunings, executor)
            choices = {arm.name: self._choice(arm) for arm in self.arms}
            write_json(self.folder / CHOICES, choices)
            runs = [
                job
                for seed in self.seeds
                for arm in self.arms
                if (job := self._run(arm, seed, choices[arm.name])) is not None
            ]
            self.say(f"choices are fixed; {counted(len(runs), 'run')} to be done")
            work(runs, executor)
        return self._result(choices)

    @property
    def _tunes(self) -> bool:
        return parse_budget(self.budget, least=0).trials != 0

    def _begun(self) -> dict[str, Any]:
        """Read and check what every arm needs, and draw labels; return what they begin with."""
        data = self.arms[0].recipe.data
        structures = Reader.of(data, None).read(data.train)
        isolated = any(arm.recipe.reference_energies == "isolated" for arm in self.arms)
        self.draws = Draws(structures, Measure("loss", self.recipe.losses), isolated)
        self.draws.check(arm.labels for arm in self.arms)
        unused = self.folder / "checked"
        checked = check_arms(self.arms, unused, self.draws, self.seeds, self._tunes)
        for note in notes_of(checked):
            self.say(note)
        first = checked[self.arms[0].name]
        facts: dict[str, Any] = {
            "data": first.data,
            "training set": fingerprint({"train": structures}),
            "foundation": first.foundation,
            "versions": versions(),
        }
        for number, item in enumerate(checked.values(), 1):
            if item.data != first.data:
                facts[f"data of arm {number}"] = item.data
            if item.foundation != first.foundation:
                facts[f"foundation of arm {number}"] = item.foundation
        return facts

    def _result(self, choices: Mapping[str, Mapping[str, Any]]) -> ComparisonResult:
        outcomes = {
            arm.name: {seed: _outcome_at(self._outcome(arm, seed)) or {} for seed in self.seeds}
            for arm in self.arms
        }
        cells, foundation = evaluated(self.arms, outcomes)
        result = ComparisonResult(
            self.folder, self.arms, self.seeds, choices, outcomes, cells, foundation
        )
        result.write(available=len(self.draws.labelled))
        return result

    def _tuning(self, arm: Arm) -> Job | None:
        """Return the job of tuning an arm; None where it is done or there is nothing to tune."""
        searched = arm.recipe.tune.space
        if not self._tunes or not searched or (self._place(arm) / CHOICE).is_file():
            return None
        content = self._content(arm, self.seeds[0], {})
        content["data"]["test"] = None
        content["output"] = str(self._place(arm) / "tuned")
        arguments = (content, str(self._place(arm)), self.budget)
        return Job(f"tuning {arm.name}", tune_arm, arguments)

    def _choice(self, arm: Arm) -> dict[str, Any]:
        path, then = self._place(arm) / CHOICE, "its study is read again"
        found = _stored(path, lambda item: isinstance(item.get("values"), dict), "values", then)
        return found or {"values": {}}

    def _run(self, arm: Arm, seed: int, choice: Mapping[str, Any]) -> Job | None:
        """Return the job of running an arm with a seed; None where it is done."""
        path = self._outcome(arm, seed)
        if _outcome_at(path) is not None:
            return None
        content = self._content(arm, seed, choice["values"])
        content["output"] = str(path.with_suffix(""))
        return Job(f"{arm.name}, seed {seed}", run_arm, (content, str(path)))

    def _content(self, arm: Arm, seed: int, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the recipe of an arm with what was chosen, a seed, and its labels."""
        content = with_values(arm.recipe, values).written()
        content["train"]["seed"] = seed
        if arm.labels is not None:
            path = self.draws.path(self.folder / LABELS, seed, arm.labels)
            data = arm.recipe.data
            drawn = [data.train] if isinstance(data.train, str) else data.train
            rest = {name: at for name, at in data.energy_tables().items() if name not in drawn}
            content["data"] |= {"train": str(path), "energies": rest or None}
        return content

    def _place(self, arm: Arm) -> Path:
        return self.folder / ARMS / arm.folder

    def _outcome(self, arm: Arm, seed: int) -> Path:
        return self._place(arm) / f"seed-{seed}.json"

    def _asked(self) -> dict[str, Any]:
        """Return what two comparisons have in common that may be one."""
        settings = {
            key: value
            for key, value in flattened(self.recipe.complete()).items()
            if key not in INCONSEQUENTIAL
        }
        arms = {f"arm {place}": arm.name for place, arm in enumerate(self.arms, 1)}
        return {**settings, **arms, "budget": self.budget, "seeds": self.seeds}


def tune_arm(content: Mapping[str, Any], folder: str, budget: str) -> str:
    """Tune an arm and write ``choice.json`` to its folder; return what was chosen, in words.

    An arm that cannot be trained untouched keeps its settings; its runs will say why.
    """
    try:
        found = tune(content, budget=budget, to=Path(folder) / TUNING)
    except TrainingError as error:
        fault = reason(error)
        write_json(Path(folder) / CHOICE, {"values": {}, "fault": fault})
        return f"not tuned: {fault}"
    outcome, best = found.as_dict(), found.best
    chosen = {
        "values": dict(best.values),
        "trial": best.number,
        "trials": len(found.tried),
        **{key: outcome[key] for key in ("measure", "judged", "untouched", "tuned", "importances")},
        "seconds": sum(item.seconds for item in found.tried),
    }
    write_json(Path(folder) / CHOICE, chosen)
    values = "  ".join(f"{path}={value}" for path, value in best.values.items())
    shown = found.measure.shown
    return (
        f"{found.measure.title} {shown(found.untouched.value)} untouched, "
        f"{shown(best.value)} tuned (trial {best.number})  {values or 'untouched'}"
    )


def run_arm(content: Mapping[str, Any], path: str) -> str:
    """Run an arm with a seed and write the outcome to a JSON file; return it in words.

    A divergence is an outcome. What else ends a run is raised, and the next call does it again.
    """
    recipe = Recipe.parse(content)
    try:
        result = run(recipe, resume="auto")
    except TrainingError as error:
        write_json(Path(path), {"fault": reason(error)})
        return f"failed: {error}"
    assert result.test is not None
    foundation = result.test.foundation
    outcome = {
        "test": result.test.finetuned.as_dict(),
        "foundation": None if foundation is None else foundation.as_dict(),
        "valid": result.valid.finetuned.as_dict(),
        "epochs": result.epochs,
        "best_epoch": result.best_epoch,
        "seconds": sum(record["seconds"] for record in result.history),
    }
    write_json(Path(path), outcome)
    shutil.rmtree(result.folder / CHECKPOINTS, ignore_errors=True)
    return f"done after {result.epochs} epochs, {outcome['seconds']:.0f} s"


def _outcome_at(path: Path) -> dict[str, Any] | None:
    """Return what a run found; None while it is not done."""
    return _stored(path, _complete, "errors", "its run is done again")


def _complete(found: Mapping[str, Any]) -> bool:
    """Return whether an outcome is what `run_arm` writes."""
    if "fault" in found:
        return isinstance(found["fault"], str)
    test, foundation = found.get("test"), found.get("foundation")
    numbers = [found.get("seconds"), found.get("best_epoch")]
    for side in (test, {} if foundation is None else foundation):
        if not isinstance(side, dict):
            return False
        numbers += [value for value in side.values() if value is not None]
    finite = all(isinstance(item, (int, float)) and math.isfinite(item) for item in numbers)
    return finite and bool(test)


def _stored(
    path: Path, whole: Callable[[Mapping[str, Any]], bool], what: str, then: str
) -> dict[str, Any] | None:
    """Return the content of a JSON file; None if there is none."""
    if not path.is_file():
        return None
    try:
        found = read_json(path)
        if not whole(found):
            raise ValueError(f"the {what} are missing")
        return found
    except (OSError, ValueError) as error:
        raise RunFolderError(f"'{path}' is damaged ({error}). Remove it, and {then}.") from error
