"""The main job, prepare -> train -> evaluate -> export: the only file that joins the rooms."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from finetune.core import output_folder, resources
from finetune.core.errors import EarlierRunError, RunStoppedError, system_errors
from finetune.evaluation.pair import compare
from finetune.potentials import loading as lineage
from finetune.potentials.adapter_folder import adapters_needed, structure_of
from finetune.potentials.mace import acceleration
from finetune.potentials.mace.potential import MacePotential
from finetune.recipe.recipe import Recipe
from finetune.runs import outputs, run_folder
from finetune.runs.committee import convene, prepare_member
from finetune.runs.outputs import described
from finetune.runs.preparation import Preparation
from finetune.runs.result import RunResult
from finetune.runs.stages import climb, prepare_stages
from finetune.training.loop import Trainer, TrainingOutcome
from finetune.training.processes import Processes
from finetune.training.progress import Reporter, Silent
from finetune.training.tracking import Several, trackers

NOT_BETTER = (
    "warning: no epoch validated better than the foundation, whose weights were kept. Try another "
    "train.learning_rate or more epochs."
)
SOLVED_NOT_BETTER = (
    "warning: no step validated better than the foundation, whose weights were kept. More labels, "
    "or more validation structures, may tell another tale."
)
NOT_PLAIN = (
    "note: the adapter {} cannot be merged into a plain MACE. The run folder opens as any other "
    "(load_calculator, evaluate, a next run); export as a .model file will be refused."
)


@system_errors()
def run(
    recipe: Recipe | str | Path | Mapping[str, Any],
    overrides: Sequence[str] = (),
    *,
    overwrite: bool = False,
    resume: run_folder.Resume = "no",
    reporter: Reporter | None = None,
) -> RunResult:
    """Fine-tune a foundation potential by a recipe and write the run folder.

    Everything is read and checked before the run folder is made, so a faulty recipe or file leaves
    nothing behind.

    Args:
        recipe: A `Recipe`, the path of a recipe file, or a mapping with a recipe's keys.
        overrides: Dotted overrides such as ``train.epochs=10``; for a path or a mapping.
        overwrite: Whether an earlier run in the output folder may be replaced.
        resume: ``auto`` goes on from the newest whole checkpoint in the output folder, if there is
            one; ``must`` raises if there is none. The recipe, files and foundation must be those
            that the run began with.
        reporter: Told of stages and epochs; silent by default.

    Raises:
        FinetuneError: For anything that the user can mend: see its kinds in `finetune.core.errors`.
    """
    reporter = reporter or Silent()
    parsed, beside = read_recipe(recipe, overrides)
    if parsed.committee:
        return convene(parsed, beside, overwrite, resume, reporter, _run_stages)
    return _run_stages(parsed, beside, resume, reporter, overwrite)


def _run_stages(
    recipe: Recipe,
    beside: Path | None,
    resume: run_folder.Resume,
    reporter: Reporter,
    overwrite: bool = False,
) -> RunResult:
    if recipe.stages:
        return climb(recipe, beside, overwrite, resume, reporter, _run_one)
    return _run_one(recipe, beside, resume, reporter, overwrite)


def _run_one(
    recipe: Recipe,
    beside: Path | None,
    resume: run_folder.Resume,
    reporter: Reporter,
    overwrite: bool = False,
) -> RunResult:
    started = time.perf_counter()
    prepared = Preparation(recipe, beside, overwrite, resume)
    processes = Processes(prepared.foundation.potential.device)
    if not processes.main:
        reporter = Silent()
    for line in (*described(prepared), *prepared.notes):
        reporter.say(line)
    processes.wait()  # until all have seen the folder as it was
    facts, resuming = prepared.environment, prepared.resuming
    recipe = prepared.recipe
    with run_folder.opened(prepared.folder, recipe.dump(), facts, resuming, processes.main):
        processes.wait()
        outcome = Trainer(
            *(prepared.adapted, prepared.reference, prepared.data, recipe, prepared.folder),
            reporter=_with_trackers(reporter, prepared) if processes.main else reporter,
        ).run(resuming)
        if outcome.best_epoch == 0:
            solved = recipe.train.optimiser == "gauss-newton"
            prepared.notes.append(SOLVED_NOT_BETTER if solved else NOT_BETTER)
            reporter.say(prepared.notes[-1])
        reporter.say("evaluating …")
        try:
            result = _finish(prepared, outcome, started, reporter, write=processes.main)
        except OSError as error:
            raise RunStoppedError(
                f"'{prepared.folder}' cannot be written: {error}. The training is done and kept: "
                "mend the cause and go on with resume='auto' (command: --resume auto)."
            ) from error
        processes.wait()
        return result


@system_errors()
def validate(
    recipe: Recipe | str | Path | Mapping[str, Any],
    overrides: Sequence[str] = (),
    *,
    overwrite: bool = False,
    resume: run_folder.Resume = "no",
) -> Preparation:
    """Do everything that `run` does before training, and write nothing.

    An earlier run in the output folder, which `run` would refuse, gets a note.

    Returns:
        The preparation (of the last stage, where there are stages): its ``summary`` and ``notes``,
        the graphs, and the potential with refitted reference energies and the adapter attached.

    Raises:
        FinetuneError: For whatever would stop the run.
    """
    return list(validate_stages(recipe, overrides, overwrite=overwrite, resume=resume).values())[-1]


@system_errors()
def validate_stages(
    recipe: Recipe | str | Path | Mapping[str, Any],
    overrides: Sequence[str] = (),
    *,
    overwrite: bool = False,
    resume: run_folder.Resume = "no",
) -> dict[str, Preparation]:
    """Do what `validate` does for every stage by name; a run without stages has the name ``""``.

    Of a committee that is the first member's.
    """
    parsed, beside = read_recipe(recipe, overrides)
    try:
        run_folder.check_output(output_folder.place(parsed.output), overwrite, resume)
    except EarlierRunError as error:
        found = _prepared(parsed, beside, overwrite=True, resume="no")
        next(iter(found.values())).notes.append(f"note: `run` would stop: {error}")
        return found
    return _prepared(parsed, beside, overwrite, resume)


def _prepared(
    recipe: Recipe, beside: Path | None, overwrite: bool, resume: run_folder.Resume
) -> dict[str, Preparation]:
    if recipe.committee:
        return prepare_member(recipe, beside, overwrite, resume)
    if recipe.stages:
        return prepare_stages(recipe, beside, overwrite, resume)
    return {"": Preparation(recipe, beside, overwrite, resume)}


def _with_trackers(reporter: Reporter, prepared: Preparation) -> Reporter:
    recipe, folder = prepared.recipe, prepared.folder
    identity = hashlib.sha256(f"{folder.resolve()} {recipe.dump()}".encode()).hexdigest()[:16]
    asked = trackers(recipe.track, folder, recipe.model_dump(mode="json"), identity)
    return Several([reporter, *asked]) if asked else reporter


def _finish(
    prepared: Preparation,
    outcome: TrainingOutcome,
    started: float,
    reporter: Reporter,
    write: bool = True,
) -> RunResult:
    folder = prepared.folder
    tuned = prepared.adapted.merge()
    if isinstance(tuned, MacePotential):
        tuned = acceleration.plain(tuned)
    needed = adapters_needed(
        structure_of(prepared.reference),
        tuned,
        prepared.foundation.adapters,
        prepared.recipe.adapter,
    )
    if needed:
        note = NOT_PLAIN.format(" and ".join(f"'{item['kind']}'" for item in needed))
        prepared.notes.append(note)
        reporter.say(note)
    valid = compare("validation", tuned, prepared.reference, prepared.data.valid)
    test = compare("test", tuned, prepared.reference, prepared.test) if prepared.test else None
    itself = {"name": str(folder), "level_of_theory": ", ".join(prepared.levels)}
    steps = lineage.told([*prepared.lineage, itself])
    valid = replace(valid, lineage=steps)
    test = replace(test, lineage=steps) if test else None
    result = RunResult(
        folder=folder,
        history=outcome.history,
        best_epoch=outcome.best_epoch,
        epochs=len(outcome.history) - 1,
        ending=outcome.ending,
        valid=valid,
        test=test,
        seconds=time.perf_counter() - started,
        notes=tuple(prepared.notes),
    )
    if not write:
        return result
    outputs.write(prepared, tuned, result, needed)
    return result


def read_recipe(
    recipe: Recipe | str | Path | Mapping[str, Any], overrides: Sequence[str]
) -> tuple[Recipe, Path | None]:
    """Return a recipe with its overrides, and the folder that it lies in if it is a file."""
    if isinstance(recipe, (str, Path)):
        path = resources.recipe(str(recipe))
        return Recipe.load(path, overrides), path.parent
    if isinstance(recipe, Recipe):
        recipe = recipe.written()
    return Recipe.parse(recipe, overrides), None
