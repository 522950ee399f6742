"""Label structures: read, compute what is missing, write."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from finetune.core.counter import Counter
from finetune.core.errors import (
    DataError,
    FinetuneError,
    RecipeError,
    RunStoppedError,
    system_errors,
)
from finetune.core.executors import Job, WorkerDiedError, WorkerProcesses, work_through
from finetune.core.files import alone
from finetune.core.process import StopSignals
from finetune.core.resources import expanded
from finetune.core.text import counted
from finetune.data.structures import check_sizes
from finetune.labelling.journal import Journal, holds_labels
from finetune.labelling.plan import Item, check_sources, labelled, plan
from finetune.labelling.programs import check_installed, compute, program_name
from finetune.labelling.recipe import LabelRecipe, identity
from finetune.labelling.result import LabelResult, Places, conclude
from finetune.labelling.task import Label
from finetune.recipe.sections import LabelKeys


@system_errors()
def label(
    recipe: str | Path | Mapping[str, Any] | LabelRecipe,
    overrides: Sequence[str] = (),
    *,
    overwrite: bool = False,
    retry_failed: bool = False,
    collect: bool = False,
    recipe_folder: Path | None = None,
    counter: Counter | None = None,
) -> LabelResult:
    """Compute energies and forces of structures at a level of theory, and write them.

    Every label is on disk, in ``OUTPUT.journal``, as soon as it is known. Another call with the
    same recipe continues from there, also where structures were added; failed structures are tried
    again on request only. The output is written, or replaced, when nothing is left to compute.

    Args:
        recipe: YAML file, mapping or `LabelRecipe`.
        overrides: Dotted ones, ``level.basis=cc-pvtz``; not for a `LabelRecipe`.
        overwrite: Whether to start from scratch where there is an output. The earlier labels come
            back if there is no new one, and are removed when the new output is written.
        retry_failed: Whether to compute failed structures again.
        collect: Whether to write what is there and compute nothing.
        recipe_folder: Where relative paths are looked up too; by default that of a recipe file.
        counter: Shows the progress.

    Raises:
        RecipeError: For faulty recipes, and unknown programs, functionals and basis sets.
        DataError: For files that cannot be read or are in the way, if nothing has a label, and
            for a second overwriting before the output of the first is written.
        RunStoppedError: On a signal; all that was computed is saved.
    """
    if isinstance(recipe, (str, Path)):
        recipe_folder = recipe_folder or Path(recipe).parent
        recipe = LabelRecipe.load(recipe, overrides)
    elif not isinstance(recipe, LabelRecipe):
        recipe = LabelRecipe.parse(recipe, overrides)
    check_installed(recipe.level)
    if recipe.forces is True and recipe.level.without_forces:
        raise RecipeError(
            f"forces are not available: {recipe.level.without_forces}. Set forces=false "
            "(--energies-only) or choose another level."
        )
    places = Places.of(expanded(recipe.output))
    check_sources(recipe, recipe_folder, (places.output, places.atoms))
    places.check(overwrite, recipe.isolated_atoms is not False)
    items, free, notes = plan(recipe, recipe_folder)
    notes = [*notes, *_demands(recipe)]
    counter = counter or Counter()
    with alone(places.output), _aside(places, overwrite, notes, counter):
        journal = Journal.open(places.journal, identity(recipe.level))
        if journal.damaged:
            notes.append(
                f"warning: skipped {counted(journal.damaged, 'damaged line')} of "
                f"'{places.journal}'; their structures are computed again."
            )
        forces = recipe.forces is not False
        todo: dict[str, Item] = {}
        for item in (*free, *items):
            if not collect and journal.lacks(item.task.key, forces, retry_failed):
                todo.setdefault(item.task.key, item)
        if todo:
            _compute(recipe, todo, journal, places, counter)
        return conclude(recipe, items, free, journal, places, len(todo), notes)


@contextmanager
def _aside(places: Places, overwrite: bool, notes: list[str], counter: Counter) -> Iterator[None]:
    """Set labels that are to be replaced aside; they come back if there are no new ones."""
    journal, before = places.journal, places.before
    if before.is_file() and not holds_labels(journal):
        before.replace(journal)
        if not overwrite:
            notes.append(
                "note: an earlier run with --overwrite was killed before it found a label: "
                f"'{journal}' has its former labels again."
            )
    if overwrite and journal.is_file():
        if holds_labels(before):
            raise DataError(
                f"an earlier run with --overwrite did not finish: '{before}' has the labels from "
                f"before it, '{journal}' those since. Continue without --overwrite, or remove the "
                "file that you do not want."
            )
        journal.replace(before)
    try:
        yield
    except BaseException:
        if before.is_file() and not holds_labels(journal):
            before.replace(journal)
            counter.say(f"no new label: '{journal}' is as it was")
        raise
    before.unlink(missing_ok=True)


def _compute(
    recipe: LabelRecipe, todo: dict[str, Item], journal: Journal, places: Places, counter: Counter
) -> None:
    """Compute labels, and store each in the journal as soon as it is there."""
    setup = {
        "level": recipe.level.model_dump(mode="json"),
        "elements": sorted({number for item in todo.values() for number in item.task.numbers}),
        "threads": recipe.threads,
        "memory": recipe.memory,
        "folder": str(places.files.absolute()),
    }
    given, forces = json.dumps(setup), recipe.forces is not False
    jobs = [Job(key, compute, (given, item.task, forces)) for key, item in todo.items()]
    every = max(len(todo) // 20, 1)
    done, announced = 0, False
    with StopSignals() as signals, counter.start(len(todo)):

        def stopped() -> bool:
            nonlocal announced
            if signals.received is not None and not announced:
                announced = True
                counter.say("stopping: waiting for calculations in progress; repeat to abort them")
            return signals.received is not None

        counter.name("labels")
        for name, reply in _replies(jobs, recipe, places.files, stopped):
            done += 1
            said = _store(recipe, todo[name], reply, journal)
            counter.advance(1)
            if said.startswith("failed") or done % every == 0:
                counter.say(f"{done}/{len(todo)}  {todo[name].structure.where}: {said}")
        if done < len(todo):
            assert signals.received is not None
            raise RunStoppedError(
                f"{done} of {len(todo)} computed; all of them are in '{places.journal}'.",
                128 + signals.received,
            )


def _replies(
    jobs: Sequence[Job], recipe: LabelRecipe, folder: Path, stopped: Callable[[], bool]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield what `compute` found, or why a process died, by the name of the job."""
    count = min(recipe.workers, len(jobs))
    try:
        with WorkerProcesses(count, recipe.threads, quiet=True) as executor:
            try:
                executor.submit(program_name, jobs[0].arguments[0]).result()  # or why not
            except WorkerDiedError as error:
                raise FinetuneError(f"labels cannot be computed: {error}.") from error
            for job, future in work_through(jobs, executor, count, stopped):
                try:
                    yield job.name, future.result()
                except WorkerDiedError as error:
                    yield job.name, {"reason": str(error)}
    finally:  # calculators make folders even where they leave nothing in them
        for place in (*folder.glob("worker-*"), folder):
            with suppress(OSError):
                place.rmdir()


def _store(recipe: LabelRecipe, item: Item, reply: dict[str, Any], journal: Journal) -> str:
    """Store the result of a structure, and return it in words."""
    reason = reply.get("reason")
    forces = recipe.forces is not False
    if reason is None:
        found = Label(**reply)
        if recipe.forces is True and found.without_forces:
            reason = f"no forces: {found.without_forces}."
        try:
            check_sizes(labelled(item, found, recipe), LabelKeys())
        except DataError as error:
            reason = str(error)
    if reason is not None:
        journal.add_failure(item.task.key, reason)
        return f"failed: {reason}"
    journal.add_label(item.task.key, reply, forces)
    return f"{reply['energy']:.6f} eV, {reply['seconds']:.3g} s"


def _demands(recipe: LabelRecipe) -> list[str]:
    """Warn where the workers need more than the machine has."""
    found = []
    workers, cores = counted(recipe.workers, "worker"), os.cpu_count() or 1
    if recipe.workers * recipe.threads > cores:
        found.append(
            f"warning: {workers} with {counted(recipe.threads, 'thread')} each share "
            f"{counted(cores, 'core')} and slow each other down."
        )
    try:
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e6
    except (ValueError, OSError, AttributeError):
        return found
    if recipe.level.program == "pyscf" and recipe.workers * recipe.memory > there:
        found.append(
            f"warning: {workers} may take {recipe.memory} MB each; the machine has {there:.0f} MB."
        )
    return found
