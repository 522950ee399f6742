"""One run from its recipe to its folder: prepare, train, evaluate, write."""

from __future__ import annotations

import hashlib
import time
from dataclasses import replace
from pathlib import Path

from finetune.core.errors import RunStoppedError
from finetune.evaluation.evaluation import compare
from finetune.potentials import loading
from finetune.potentials.adapter_folder import adapters_needed, structure_of
from finetune.potentials.family import family
from finetune.potentials.potential import FamilyPotential, Potential
from finetune.recipe.recipe import Recipe
from finetune.runs import outputs, run_folder
from finetune.runs.preparation import Preparation, described
from finetune.runs.result import RunResult
from finetune.training.batches import Processes
from finetune.training.checkpoints import GO_ON
from finetune.training.loop import TrainingOutcome
from finetune.training.records import Reporter, Several, Silent, trackers


def fine_tune(
    recipe: Recipe,
    recipe_folder: Path | None,
    overwrite: bool,
    resume: run_folder.Resume,
    reporter: Reporter,
) -> RunResult:
    """Do one run and write its folder.

    Args:
        recipe: Without stages or committee.
        recipe_folder: The folder that the recipe lies in, where relative paths are looked up too.
        overwrite: Whether an earlier run in the output folder may be replaced.
        resume: Whether to continue from a checkpoint there.
        reporter: Receives lines and epochs.

    Raises:
        FinetuneError: For anything that the user can correct. An error before training leaves
            no trace.
    """
    started = time.perf_counter()
    prepared = Preparation(recipe, recipe_folder, overwrite, resume)
    processes = Processes(prepared.foundation.potential.device)
    reporter = reporter if processes.main else Silent()
    for line in (*described(prepared), *prepared.notes):
        reporter.say(line)
    processes.wait()  # until all have seen the folder as it was
    with run_folder.opened(
        prepared.folder,
        prepared.recipe.dump(),
        prepared.environment,
        prepared.resuming,
        processes.main,
    ):
        processes.wait()
        tracked = _with_trackers(reporter, prepared) if processes.main else reporter
        outcome = prepared.trainer(tracked).run(prepared.resuming)
        if outcome.best_epoch == 0:
            _note(
                prepared,
                reporter,
                "warning: no epoch validated better than the foundation, whose weights were kept. "
                f"{recipe.optimiser.kept_foundation}",
            )
        reporter.say("evaluating …")
        tuned, needed = _merged(prepared, reporter)
        result = _evaluated(prepared, tuned, outcome, started)
        if processes.main:
            try:
                outputs.write(prepared, tuned, result, needed)
            except OSError as error:
                raise RunStoppedError(
                    f"'{prepared.folder}' cannot be written: {error}. The training is done "
                    f"and kept: correct the cause and resume with {GO_ON}."
                ) from error
        processes.wait()
        return result


def _note(prepared: Preparation, reporter: Reporter, note: str) -> None:
    prepared.notes.append(note)
    reporter.say(note)


def _with_trackers(reporter: Reporter, prepared: Preparation) -> Reporter:
    recipe, folder = prepared.recipe, prepared.folder
    identity = hashlib.sha256(f"{folder.resolve()} {recipe.dump()}".encode()).hexdigest()[:16]
    asked = trackers(recipe.track, folder, recipe.model_dump(mode="json"), identity)
    return Several([reporter, *asked]) if asked else reporter


def _merged(prepared: Preparation, reporter: Reporter) -> tuple[Potential, list[dict[str, object]]]:
    """Return the tuned potential, and the adapters that it needs beyond a plain one."""
    tuned = prepared.adapted.merge()
    if isinstance(tuned, FamilyPotential):
        tuned = family(tuned.family).plain(tuned)
    needed = adapters_needed(
        structure_of(prepared.reference),
        tuned,
        prepared.foundation.adapters,
        prepared.recipe.adapter,
    )
    if needed:
        kinds = " and ".join(f"'{item['kind']}'" for item in needed)
        _note(
            prepared,
            reporter,
            f"note: the adapter {kinds} cannot be merged into the potential's own layers. The run "
            "folder opens as usual (load_calculator, evaluate, a next run); export for other "
            "programs will be refused.",
        )
    return tuned, needed


def _evaluated(
    prepared: Preparation, tuned: Potential, outcome: TrainingOutcome, started: float
) -> RunResult:
    """Compare the tuned potential with its foundation on validation and test structures."""
    itself = {"name": str(prepared.folder), "level_of_theory": ", ".join(prepared.levels)}
    steps = loading.lineage_labels([*prepared.lineage, itself])
    valid, test = (
        replace(compare(name, tuned, prepared.reference, graphs), lineage=steps) if graphs else None
        for name, graphs in (("validation", prepared.data.valid), ("test", prepared.test))
    )
    assert valid is not None  # checked in the preparation
    return RunResult(
        folder=prepared.folder,
        history=outcome.history,
        best_epoch=outcome.best_epoch,
        epochs=len(outcome.history) - 1,
        ending=outcome.ending,
        valid=valid,
        test=test,
        seconds=time.perf_counter() - started,
        notes=tuple(prepared.notes),
    )
