"""Climb levels of theory: the stages of a recipe, each a run that starts from the one before."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from finetune import run_files, run_folder, sanity
from finetune.evaluation.report import write_ladder
from finetune.files import write_folder, write_json
from finetune.joint_folder import joint_folder
from finetune.preparation import Preparation
from finetune.recipe import Recipe
from finetune.result import RunResult
from finetune.training.progress import Reporter

RunStage = Callable[[Recipe, Path | None, run_folder.Resume, Reporter], RunResult]
"""Runs one stage in its folder."""


def prepare_stages(
    recipe: Recipe,
    beside: Path | None,
    overwrite: bool,
    resume: run_folder.Resume = "no",
    whole: bool = True,
) -> dict[str, Preparation]:
    """Read and check every stage, with the first one's foundation in place of those to come.

    ``whole`` is that of `Preparation`.

    Raises:
        FinetuneError: For whatever would stop the run.
    """
    run_folder.check_output(run_folder.place(recipe.output), overwrite, resume)
    prepared = {
        name: Preparation(
            stage.model_copy(
                update={"foundation": recipe.foundation, "head": recipe.head, "output": unused}
            ),
            beside,
            overwrite=False,
            whole=whole,
        )
        for name, stage in recipe.climb().items()
        for unused in (f"{stage.output}.checked",)
    }
    for name, notes in _seen_before(prepared).items():
        prepared[name].notes += notes
    return prepared


def _seen_before(prepared: Mapping[str, Preparation]) -> dict[str, list[str]]:
    """Tell of structures that a stage validates or tests on and an earlier one was trained on."""
    found: dict[str, list[str]] = {}
    names = list(prepared)
    for place, name in enumerate(names):
        found[name] = [
            note
            for earlier in names[:place]
            for note in sanity.shared_frames(
                prepared[name].frames,
                prepared[earlier].frames["train"],
                f"in the training set of the stage '{earlier}'",
            )
        ]
    return found


def climb(
    recipe: Recipe,
    beside: Path | None,
    overwrite: bool,
    resume: run_folder.Resume,
    reporter: Reporter,
    run_stage: RunStage,
) -> RunResult:
    """Run the stages one after the other; those that are done are not trained again.

    Returns:
        The last stage's result, in the ladder's folder, with the results of all stages.
    """
    started = time.perf_counter()
    prepared = prepare_stages(recipe, beside, overwrite, resume)
    seen_before = _seen_before(prepared)
    with joint_folder(recipe, prepared, overwrite, resume, reporter) as (folder, _, processes):
        del prepared
        results: dict[str, RunResult] = {}
        below = "foundation"
        for name, stage in recipe.climb().items():
            for note in (f"stage {name}", *seen_before[name]):
                reporter.say(note)
            results[name] = run_stage(stage, beside, "auto", reporter).compared_with(below)
            below = f"stage {name}"
        *_, last = results.values()
        result = replace(
            last,
            folder=folder,
            epochs=sum(stage.epochs for stage in results.values()),
            seconds=time.perf_counter() - started,
            stages=results,
        )
        if processes.main:
            _finish(result, last.folder, recipe)
    return result


def _finish(result: RunResult, last: Path, recipe: Recipe) -> None:
    folder, bundle = result.folder, last / run_files.BUNDLE
    files = {path.name: path.read_bytes() for path in bundle.iterdir()}
    write_folder(folder / run_files.BUNDLE, files)
    write_ladder(result, recipe, folder / run_files.REPORT)
    write_json(folder / run_files.RESULT, result.as_dict())
