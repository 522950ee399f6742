"""The stages of a recipe: runs through levels of theory, each starting from the one before."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from finetune.core import files, run_files
from finetune.core.files import write_atomically, write_folder, write_json
from finetune.evaluation.report_page import template
from finetune.inspection import data_warnings
from finetune.potentials.family import versions
from finetune.potentials.loading import Foundation
from finetune.recipe.recipe import Recipe
from finetune.runs import run_folder
from finetune.runs.fine_tuning import fine_tune
from finetune.runs.preparation import Preparation
from finetune.runs.result import RunResult
from finetune.runs.run_folder import run_environment
from finetune.training.batches import Processes
from finetune.training.records import Reporter


@contextmanager
def shared_folder(
    recipe: Recipe,
    prepared: Mapping[str, Preparation],
    overwrite: bool,
    resume: run_folder.Resume,
    reporter: Reporter,
) -> Iterator[tuple[Path, dict[str, Any], Processes]]:
    """Open the folder of a recipe whose runs have folders of their own within.

    Yields:
        The folder, the facts of the environment, and the processes, that of rank 0 being the one
        that writes.

    Raises:
        RunFolderError: If the folder holds another run, or cannot be written.
    """
    folder = files.place(recipe.output)
    resuming = run_folder.check_output(folder, overwrite, resume)
    first = next(iter(prepared.values()))
    facts = run_environment(
        str(first.foundation.potential.device),
        recipe.train.seed,
        first.foundation.name,
        first.foundation.fingerprint,
        {
            "fingerprint": " ".join(run.data_fingerprint for run in prepared.values()),
            "folders": first.folders,
        },
        first.lineage,
        versions(),
    )
    if resuming:
        for note in run_folder.check_origin(folder, recipe, facts):
            reporter.say(note)
    processes = Processes(first.foundation.potential.device)
    processes.wait()  # until all have seen the folder as it was
    del prepared, first
    with run_folder.opened(folder, recipe.dump(), facts, resuming, processes.main):
        processes.wait()
        yield folder, facts, processes
        processes.wait()


def prepare_stages(
    recipe: Recipe,
    recipe_folder: Path | None,
    overwrite: bool,
    resume: run_folder.Resume = "no",
    whole: bool = True,
) -> dict[str, Preparation]:
    """Read and check every stage, with the first one's foundation in place of those to come.

    ``whole`` is that of `Preparation`.
    """
    run_folder.check_output(files.place(recipe.output), overwrite, resume)
    prepared: dict[str, Preparation] = {}
    opened: Foundation | None = None
    for name, stage in recipe.stage_recipes().items():
        unused = {"head": recipe.head, "output": f"{stage.output}.checked"}
        prepared[name] = found = Preparation(
            stage.model_copy(update={"foundation": recipe.foundation, **unused}),
            recipe_folder,
            overwrite=False,
            opened=opened,
            whole=whole,
            after=list(prepared)[-1] if prepared else "",
        )
        if found.adapted.potential.direct_forces and not found.foundation.potential.direct_forces:
            opened = replace(found.foundation, potential=found.adapted.potential)
    for name, notes in _seen_before(prepared).items():
        prepared[name].notes += notes
    return prepared


def _seen_before(prepared: Mapping[str, Preparation]) -> dict[str, list[str]]:
    """Return notes on structures that validate or test a stage and trained an earlier one."""
    found: dict[str, list[str]] = {}
    names = list(prepared)
    for place, name in enumerate(names):
        found[name] = [
            note
            for earlier in names[:place]
            for note in data_warnings.shared_frames(
                prepared[name].frames,
                prepared[earlier].frames["train"],
                f"in the training set of the stage '{earlier}'",
            )
        ]
    return found


def run_stages(
    recipe: Recipe,
    recipe_folder: Path | None,
    overwrite: bool,
    resume: run_folder.Resume,
    reporter: Reporter,
) -> RunResult:
    """Run the stages one after the other; those that are done are not trained again.

    Returns:
        The last stage's result, in the ladder's folder, with the results of all stages.
    """
    started = time.perf_counter()
    prepared = prepare_stages(recipe, recipe_folder, overwrite, resume)
    seen_before = _seen_before(prepared)
    with shared_folder(recipe, prepared, overwrite, resume, reporter) as (folder, _, processes):
        del prepared
        results: dict[str, RunResult] = {}
        below = "foundation"
        for name, stage in recipe.stage_recipes().items():
            for note in (f"stage {name}", *seen_before[name]):
                reporter.say(note)
            result = fine_tune(stage, recipe_folder, False, "auto", reporter)
            results[name] = result.compared_with(below)
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
    _write_page(result, recipe, folder / run_files.REPORT)
    write_json(folder / run_files.RESULT, result.as_dict())


def _write_page(result: RunResult, recipe: Recipe, path: Path) -> None:
    """Write the ``report.html`` of a run in stages: a table for each, links to their reports."""
    page = template("ladder.html").render(
        result=result, recipe=recipe.dump(), foundation=recipe.foundation
    )
    write_atomically(path, page.encode())
