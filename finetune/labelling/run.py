"""Label structures: read, compute what is missing, write."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from finetune.core.counter import Counter
from finetune.core.errors import DataError, RecipeError, RunStoppedError, system_errors
from finetune.core.interruption import StopSignals
from finetune.core.output_folder import alone
from finetune.core.resources import expanded
from finetune.core.text import counted
from finetune.data.structures import check_sizes
from finetune.labelling.journal import Journal, holds_labels
from finetune.labelling.plan import Item, check_sources, plan
from finetune.labelling.programs import check_installed
from finetune.labelling.recipe import LabelRecipe, identity
from finetune.labelling.result import LabelResult, Places, conclude, labelled
from finetune.labelling.task import Label
from finetune.labelling.workers import compute_all
from finetune.recipe.sections import LabelKeys


@system_errors()
def label(
    recipe: str | Path | Mapping[str, Any] | LabelRecipe,
    overrides: Sequence[str] = (),
    *,
    overwrite: bool = False,
    retry_failed: bool = False,
    collect: bool = False,
    beside: Path | None = None,
    counter: Counter | None = None,
) -> LabelResult:
    """Compute energies and forces of structures at a level of theory, and write them.

    Every label is on disk, in ``OUTPUT.journal``, as soon as it is there. Another call with the
    same recipe goes on from it, also where structures were added; what failed is not tried again
    unless that is asked for. The output appears, or is replaced, when nothing is left to compute.

    Args:
        recipe: YAML file, mapping or `LabelRecipe`.
        overrides: Dotted ones, ``level.basis=cc-pvtz``; not for a `LabelRecipe`.
        overwrite: Whether to begin anew where the output has been begun. Former labels come back
            if there is no new one, and go as the new output is written.
        retry_failed: Whether to compute what has failed once more.
        collect: Whether to write what is there and compute nothing.
        beside: Folder where relative paths are looked up too; by default that of a recipe file.
        counter: Shows the progress.

    Raises:
        RecipeError: For recipes, programs, functionals and basis sets that are no such.
        DataError: For files that cannot be read or are in the way, if nothing has a label, and
            for a second overwriting before the output of the first is written.
        RunStoppedError: If a signal came; all that was computed is saved.
    """
    if isinstance(recipe, (str, Path)):
        beside = beside or Path(recipe).parent
        recipe = LabelRecipe.load(recipe, overrides)
    elif not isinstance(recipe, LabelRecipe):
        recipe = LabelRecipe.parse(recipe, overrides)
    check_installed(recipe.level)
    if recipe.forces is True and recipe.level.without_forces:
        raise RecipeError(
            f"forces cannot be had: {recipe.level.without_forces}. Set forces=false "
            "(--energies-only) or another level."
        )
    places = Places.of(expanded(recipe.output))
    check_sources(recipe, beside, (places.output, places.atoms))
    places.check(overwrite, recipe.isolated_atoms is not False)
    items, free, notes = plan(recipe, beside)
    notes = [*notes, *_demands(recipe)]
    counter = counter or Counter()
    with alone(places.output), _aside(places, overwrite, notes, counter):
        journal = Journal.open(places.journal, identity(recipe.level))
        if journal.damaged:
            notes.append(
                f"warning: {counted(journal.damaged, 'line')} of '{places.journal}' damaged and "
                "passed over; their structures are computed again."
            )
        forces = recipe.forces is not False
        todo: dict[str, Item] = {}
        for item in (*free, *items):
            if not collect and journal.lacks(item.task.key, forces, retry_failed):
                todo.setdefault(item.task.key, item)
        _compute(recipe, list(todo.values()), journal, places, counter)
        return conclude(recipe, items, free, journal, places, len(todo), notes)


@contextmanager
def _aside(places: Places, overwrite: bool, notes: list[str], counter: Counter) -> Iterator[None]:
    """Set labels that are to be replaced aside until the output is; they come back if no new do."""
    journal, before = places.journal, places.before
    if before.is_file() and not holds_labels(journal):
        before.replace(journal)
        if not overwrite:
            notes.append(
                f"note: an overwriting that was killed had found no label yet: '{journal}' has its "
                "former ones again."
            )
    if overwrite and journal.is_file():
        if holds_labels(before):
            raise DataError(
                f"'{before}' holds the labels from before an overwriting that did not end, and "
                f"'{journal}' those since. Go on without --overwrite, or remove the one of the two "
                "that you do not want."
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
    recipe: LabelRecipe, todo: Sequence[Item], journal: Journal, places: Places, counter: Counter
) -> None:
    if not todo:
        return
    setup = {
        "level": recipe.level.model_dump(mode="json"),
        "elements": sorted({number for item in todo for number in item.task.numbers}),
        "threads": recipe.threads,
        "memory": recipe.memory,
        "folder": str(places.files.absolute()),
    }
    forces = recipe.forces is not False
    by_key = {item.task.key: item for item in todo}
    every = max(len(todo) // 20, 1)
    done, told = 0, False
    with StopSignals() as signals, counter.start(len(todo)):

        def stopped() -> bool:
            nonlocal told
            if signals.received is not None and not told:
                told = True
                counter.say("stopping: waiting for what is begun; once more to leave it")
            return signals.received is not None

        counter.name("labels")
        tasks = [item.task for item in todo]
        for task, reply in compute_all(tasks, forces, setup, recipe.workers, stopped):
            done += 1
            said = _store(recipe, by_key[task.key], reply, journal)
            counter.advance(1)
            if "reason" in reply or said.startswith("failed") or done % every == 0:
                counter.say(f"{done}/{len(todo)}  {by_key[task.key].structure.where}: {said}")
        if done < len(todo):
            assert signals.received is not None
            raise RunStoppedError(
                f"{done} of {len(todo)} computed; all of them are in '{places.journal}'.",
                128 + signals.received,
            )


def _store(recipe: LabelRecipe, item: Item, reply: dict[str, Any], journal: Journal) -> str:
    """Write down what came of a structure, and return it in words."""
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
    """Warn where more is asked of the machine than it has."""
    found = []
    cores = os.cpu_count() or 1
    if recipe.workers * recipe.threads > cores:
        found.append(
            f"warning: {counted(recipe.workers, 'worker')} of {counted(recipe.threads, 'thread')} "
            f"share {counted(cores, 'core')}: calculations wait for each other."
        )
    try:
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e6
    except (ValueError, OSError, AttributeError):
        return found
    if recipe.level.program == "pyscf" and recipe.workers * recipe.memory > there:
        found.append(
            f"warning: {counted(recipe.workers, 'worker')} may take {recipe.memory} MB each, of "
            f"{there:.0f} MB that there are."
        )
    return found
