"""Train a committee: several runs of one recipe that differ in what is random."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from finetune.core import files, run_files
from finetune.core.errors import DataError
from finetune.core.files import write_json
from finetune.data.reading import Reader
from finetune.evaluation import calibration
from finetune.evaluation.evaluation import Comparison
from finetune.evaluation.report_page import Page, write_report
from finetune.potentials.committee import CommitteeRecord, write_committee
from finetune.potentials.errors import LabelledPredictions, errors
from finetune.recipe.recipe import Recipe
from finetune.runs import run_folder
from finetune.runs.fine_tuning import fine_tune
from finetune.runs.preparation import Preparation, check_draw
from finetune.runs.result import RunResult
from finetune.runs.stages import prepare_stages, run_stages, shared_folder
from finetune.training.records import Record, Reporter


def prepare_member(
    recipe: Recipe, recipe_folder: Path | None, overwrite: bool, resume: run_folder.Resume = "no"
) -> dict[str, Preparation]:
    """Read and check what the first member needs, by stage, and what each member draws.

    The others differ in seeds alone.
    """
    run_folder.check_output(files.place(recipe.output), overwrite, resume)
    first = next(iter(recipe.member_recipes().values()))
    drawing = recipe.committee is not None and recipe.committee.labels == "bootstrap"
    unused = first.model_copy(update={"output": f"{first.output}.checked"})
    if first.stages:
        prepared = prepare_stages(unused, recipe_folder, overwrite=False, whole=not drawing)
    else:
        prepared = {"": Preparation(unused, recipe_folder, overwrite=False, whole=not drawing)}
    if drawing:
        _check_draws(recipe, recipe_folder, prepared)
    next(iter(prepared.values())).notes += nearly_the_same(recipe)
    return prepared


def _check_draws(
    recipe: Recipe, recipe_folder: Path | None, prepared: Mapping[str, Preparation]
) -> None:
    """Refuse members that draw too few labels to learn from."""
    members = {
        name: member.stage_recipes() or {"": member}
        for name, member in recipe.member_recipes().items()
    }
    for stage, first in prepared.items():
        data = first.recipe.data
        structures = Reader.of(data, recipe_folder).read(data.train)
        for name, member in members.items():
            try:
                check_draw(member[stage], structures, first.adapted)
            except DataError as error:
                where = f"member {name} of {len(members)}" + (f" (stage {stage})" if stage else "")
                seed = "train.seed" if recipe.data.bootstrap is None else "data.bootstrap"
                raise DataError(
                    f"{where} draws too few labels: {error} Or let it draw others with "
                    f"another {seed}, or ask for fewer members (committee.members)."
                ) from error


def nearly_the_same(recipe: Recipe) -> list[str]:
    """Return a note where members start from the same weights and see the same labels."""
    first, second, *_ = recipe.member_recipes().values()
    if any(not name.endswith("train.seed") for name in first.differences(second)):
        return []
    return [
        "note: the members start from the same weights and see all labels: they differ only in "
        "the order of structures and in displacements, which their deviations reflect. "
        "committee.labels=bootstrap lets each draw its own training structures."
    ]


def run_committee(
    recipe: Recipe,
    recipe_folder: Path | None,
    overwrite: bool,
    resume: run_folder.Resume,
    reporter: Reporter,
) -> RunResult:
    """Run the members one after the other; those that are done are not trained again.

    Returns:
        The errors of the members' mean and the calibration of their standard deviations, in the
        committee's folder, with the results of all members.
    """
    started = time.perf_counter()
    prepared = prepare_member(recipe, recipe_folder, overwrite, resume)
    members = recipe.member_recipes()
    with shared_folder(recipe, prepared, overwrite, resume, reporter) as (folder, facts, processes):
        del prepared
        for note in (alike := nearly_the_same(recipe)):
            reporter.say(note)
        results = {}
        once = _Once(reporter)
        for name, member in members.items():
            once.next_member(f"member {name} of {len(members)}")
            run = run_stages if member.stages else fine_tune
            results[name] = run(member, recipe_folder, False, "auto", once)
        for note in (unchanged := _learnt_nothing(results, recipe.last_optimiser.kept_foundation)):
            reporter.say(note)
        notes = [*alike, *unchanged]
        result, record = joined(folder, results, time.perf_counter() - started, notes)
        if processes.main:
            _finish(result, record, recipe, facts)
    return result


class _Once(Reporter):
    """Passes on what members say, each note before training only once."""

    def __init__(self, reporter: Reporter) -> None:
        self.reporter = reporter
        self.before: Counter[str] = Counter()
        self.now: Counter[str] = Counter()
        self.training = False

    def next_member(self, title: str) -> None:
        """Begin a member."""
        self.before |= self.now
        self.now = Counter()
        self.training = False
        self.reporter.say(title)

    def say(self, message: str) -> None:
        """See `Reporter.say`."""
        if message.startswith("stage "):
            self.training = False
        if not self.training and message.startswith(("note: ", "warning: ")):
            self.now[message] += 1
            if self.now[message] <= self.before[message]:
                return
        self.reporter.say(message)

    def start(self, epochs: int) -> None:
        """See `Reporter.start`."""
        self.training = True
        self.reporter.start(epochs)

    def epoch(self, record: Record) -> None:
        """See `Reporter.epoch`."""
        self.reporter.epoch(record)

    def stop(self) -> None:
        """See `Reporter.stop`."""
        self.reporter.stop()


def _learnt_nothing(members: dict[str, RunResult], advice: str) -> list[str]:
    """Warn of members that are still the foundation, and so say nothing by how they differ."""
    kept = [
        name
        for name, member in members.items()
        if all(run.best_epoch == 0 for run in (member.stages or {"": member}).values())
    ]
    if not kept:
        return []
    return [
        f"warning: {len(kept)} of {len(members)} members kept the foundation's weights "
        f"({', '.join(kept)}): their deviations say little. {advice}"
    ]


def joined(
    folder: Path, members: dict[str, RunResult], seconds: float, notes: Sequence[str] = ()
) -> tuple[RunResult, CommitteeRecord]:
    """Return the result of the members' mean, its scales fitted on the validation set."""
    found = list(members.values())
    valid = _mean([item.valid for item in found])
    tests = [item.test for item in found if item.test is not None]
    predictions = {"valid": [item.valid.finetuned_predictions for item in found]}
    if tests:
        predictions["test"] = [item.finetuned_predictions for item in tests]
    scales = calibration.fitted_scales(predictions["valid"])
    endings = {item.ending for item in found}
    result = RunResult(
        folder=folder,
        history=[],
        best_epoch=0,
        epochs=sum(item.epochs for item in found),
        ending=endings.pop() if len(endings) == 1 else "finished",
        valid=valid,
        test=_mean(tests) if tests else None,
        seconds=seconds,
        notes=(
            *dict.fromkeys(note for item in found for note in item.notes),
            *notes,
        ),
        members=members,
        calibrations={
            name: calibration.calibrations(items, scales) for name, items in predictions.items()
        },
    )
    paths = tuple(f"{run_files.MEMBERS}/{name}/{run_files.BUNDLE}" for name in members)
    return result, CommitteeRecord(members=paths, scale=scales)


def _mean(parts: Sequence[Comparison]) -> Comparison:
    """Return the comparison of the mean of the members with the foundation."""
    first, count = parts[0], parts[0].finetuned.structures
    after = calibration.mean([item.finetuned_predictions for item in parts])
    before: list[LabelledPredictions] = [
        item.foundation_predictions for item in parts if item.foundation_predictions is not None
    ]
    foundation = calibration.mean(before) if before else None
    return replace(
        first,
        finetuned=errors(after, count),
        finetuned_predictions=after,
        foundation=errors(foundation, count) if foundation is not None else None,
        foundation_predictions=foundation,
    )


def _finish(
    result: RunResult, record: CommitteeRecord, recipe: Recipe, facts: dict[str, object]
) -> None:
    folder = result.folder
    page = Page(
        name=folder.name,
        story=result.as_dict(),
        notes=result.notes,
        history=[],
        shown=result.shown,
        recipe=recipe,
        environment=facts,
        calibrations=result.shown_calibrations,
        members=list(result.members),
    )
    write_report(page, folder / run_files.REPORT)
    write_committee(folder, record)
    write_json(folder / run_files.RESULT, result.as_dict())
