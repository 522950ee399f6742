"""Compare variants of a recipe: tune all alike on validation, then run and test what was chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from finetune.core import output_folder
from finetune.core.environment import process_count, versions
from finetune.core.errors import (
    FinetuneError,
    RecipeError,
    RunFolderError,
    RunStoppedError,
    system_errors,
)
from finetune.core.files import read_json, write_json
from finetune.core.interruption import StopSignals
from finetune.core.options import flattened
from finetune.core.text import counted
from finetune.data.reading import Reader
from finetune.data.structures import fingerprint
from finetune.evaluation.plots import write_png
from finetune.recipe.recipe import INCONSEQUENTIAL, Recipe
from finetune.runs.workflow import read_recipe
from finetune.studies.absolute_paths import moved
from finetune.studies.arm_checks import check_arms, notes_of
from finetune.studies.arm_work import CHOICE, outcome_at, run_arm, tune_arm
from finetune.studies.arms import Arm, Draws, arms_of, varied
from finetune.studies.budget import parse_budget
from finetune.studies.comparison_result import (
    CURVE,
    RESULT,
    RUNS,
    TABLE,
    ComparisonResult,
    evaluated,
    learning_curves,
    resolved_labels,
    varies_labels,
)
from finetune.studies.executors import Job, work_through
from finetune.studies.scoring import Measure
from finetune.studies.space import with_values
from finetune.studies.tuning_folder import Kind, claim, place
from finetune.training.records import Reporter, Silent

ARMS, LABELS, CHOICES = "arms", "labels", "choices.json"
COMPARISON = Kind(
    "comparison",
    "comparison.json",
    frozenset({ARMS, LABELS, CHOICES, RESULT, TABLE, RUNS, CURVE}),
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
    what is random in a run and which labels are drawn. The same call goes on with a comparison that
    was stopped or killed, or is to have more seeds.

    Args:
        recipe: A `Recipe`, the path of a recipe file, or a mapping.
        overrides: Dotted overrides such as ``train.epochs=10``.
        vary: Values by key: ``labels`` (numbers of labelled training structures, or ``all``),
            ``losses`` (weak losses joined by ``+``, ``none``, ``all``), or any dotted key of the
            recipe; or texts such as ``losses=none,pitc``.
        budget: Of each tuning: trials, or time; 0 tunes nothing.
        seeds: How many seeds, counted from the recipe's ``train.seed``.
        jobs: How many processes work at a time.
        to: Folder; ``OUTPUT-comparison`` by default.
        overwrite: Whether a comparison that is there may be replaced.
        reporter: Told of each tuning and run; silent by default.

    Raises:
        RunStoppedError: On a signal; the same call goes on.
        FinetuneError: For anything that the user can mend.
    """
    parse_budget(budget, least=0)
    if seeds < 1 or jobs < 1:
        raise FinetuneError(f"seeds={seeds} and jobs={jobs}: both are numbers from 1 on.")
    parsed, beside = read_recipe(recipe, overrides)
    _check(parsed)
    folder = place(parsed, to, "comparison")
    parsed = Recipe.parse(moved(parsed, beside))
    arms = [
        replace(arm, recipe=Recipe.parse(moved(arm.recipe, beside)))
        for arm in arms_of(parsed, vary if isinstance(vary, Mapping) else varied(vary))
    ]
    work = _Comparison(parsed, arms, folder, str(budget), seeds, reporter or Silent())
    with output_folder.alone(folder), StopSignals() as signals:
        try:
            return work.run(jobs, overwrite, signals)
        except RunStoppedError as error:
            why = f"{signals.received.name}." if signals.received else str(error)
            raise RunStoppedError(
                f"{why} The comparison in '{folder}' goes on with the same command.",
                error.exit_code,
            ) from error


class _Comparison:
    """A comparison at work.

    Args:
        recipe: The recipe, with names that do not depend on its folder.
        arms: Its variants.
        folder: Of the comparison.
        budget: Of each tuning.
        seeds: How many seeds.
        reporter: Told of each tuning and run.
    """

    def __init__(
        self,
        recipe: Recipe,
        arms: Sequence[Arm],
        folder: Path,
        budget: str,
        seeds: int,
        reporter: Reporter,
    ) -> None:
        self.recipe = recipe
        self.arms = arms
        self.folder = folder
        self.budget = budget
        self.tunes = parse_budget(budget, least=0).trials != 0
        self.seeds = [recipe.train.seed + number for number in range(seeds)]
        self.say = reporter.say

    def run(self, jobs: int, overwrite: bool, signals: StopSignals) -> ComparisonResult:
        """Tune, fix the choices, run and test."""
        asked = self._asked() | self._begun()
        claim(self.folder, COMPARISON, asked, overwrite, self.say)
        for arm in self.arms:
            self._place(arm).mkdir(parents=True, exist_ok=True)
        tunings = [job for arm in self.arms if (job := self._tuning(arm)) is not None]
        seeds = counted(len(self.seeds), "seed")
        self.say(f"{len(self.arms)} arms, {len(tunings)} to be tuned, {seeds}")
        work_through(tunings, jobs, signals, self.say)
        choices = {arm.name: self._choice(arm) for arm in self.arms}
        write_json(self.folder / CHOICES, choices)
        runs = [
            job
            for seed in self.seeds
            for arm in self.arms
            if (job := self._run(arm, seed, choices[arm.name])) is not None
        ]
        self.say(f"choices are fixed; {counted(len(runs), 'run')} to be done")
        work_through(runs, jobs, signals, self.say)
        return self._result(choices)

    def _begun(self) -> dict[str, Any]:
        """Read and check what every arm needs, and draw labels; return what they begin with."""
        data = self.arms[0].recipe.data
        structures = Reader.of(data, None).read(data.train)
        isolated = any(arm.recipe.reference_energies == "isolated" for arm in self.arms)
        self.draws = Draws(structures, Measure("loss", self.recipe.losses), isolated)
        self.draws.check(arm.labels for arm in self.arms)
        unused = self.folder / "checked"
        checked = check_arms(self.arms, unused, self.draws, self.seeds, self.tunes)
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
            arm.name: {seed: outcome_at(self._outcome(arm, seed)) or {} for seed in self.seeds}
            for arm in self.arms
        }
        cells, foundation = evaluated(self.arms, outcomes)
        result = ComparisonResult(
            self.folder, self.arms, self.seeds, choices, outcomes, cells, foundation
        )
        result.write()
        if varies_labels(self.arms) and cells:
            available = len(self.draws.labelled)
            labels = {arm.name: resolved_labels(arm, available) for arm in self.arms}
            figure = learning_curves(self.arms, cells, foundation, labels)
            write_png(figure, self.folder / CURVE)
        return result

    def _tuning(self, arm: Arm) -> Job | None:
        """Return the job of tuning an arm; None where it is done or there is nothing to tune."""
        searched = arm.recipe.tune.space
        if not self.tunes or not searched or (self._place(arm) / CHOICE).is_file():
            return None
        content = self._content(arm, self.seeds[0], {})
        content["data"]["test"] = None
        content["output"] = str(self._place(arm) / "tuned")
        arguments = (content, str(self._place(arm)), self.budget)
        return Job(f"tuning {arm.name}", tune_arm, arguments)

    def _choice(self, arm: Arm) -> dict[str, Any]:
        path = self._place(arm) / CHOICE
        if not path.is_file():
            return {"values": {}}
        try:
            found = read_json(path)
            if not isinstance(found.get("values"), dict):
                raise ValueError("the values that were chosen are missing")
            return found
        except (OSError, ValueError) as error:
            raise RunFolderError(
                f"'{path}' is damaged ({error}). Remove it, and its study is read again."
            ) from error

    def _run(self, arm: Arm, seed: int, choice: Mapping[str, Any]) -> Job | None:
        """Return the job of running an arm with a seed; None where it is done."""
        path = self._outcome(arm, seed)
        if outcome_at(path) is not None:
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
            content["data"]["train"] = str(path)
        return content

    def _place(self, arm: Arm) -> Path:
        return self.folder / ARMS / arm.folder

    def _outcome(self, arm: Arm, seed: int) -> Path:
        return self._place(arm) / f"seed-{seed}.json"

    def _asked(self) -> dict[str, Any]:
        """Return what two comparisons have alike that may be one."""
        settings = {
            key: value
            for key, value in flattened(self.recipe.complete()).items()
            if key not in INCONSEQUENTIAL
        }
        arms = {f"arm {place}": arm.name for place, arm in enumerate(self.arms, 1)}
        return {**settings, **arms, "budget": self.budget, "seeds": self.seeds}


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
