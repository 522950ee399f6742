"""One folder for several runs: the stages of a ladder, the members of a committee."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from finetune import run_folder
from finetune.environment import environment
from finetune.preparation import Preparation
from finetune.recipe import Recipe
from finetune.training.processes import Processes
from finetune.training.progress import Reporter


@contextmanager
def joint_folder(
    recipe: Recipe,
    prepared: Mapping[str, Preparation],
    overwrite: bool,
    resume: run_folder.Resume,
    reporter: Reporter,
) -> Iterator[tuple[Path, dict[str, Any], Processes]]:
    """Open the folder of a recipe whose runs have folders of their own within.

    Args:
        recipe: The recipe.
        prepared: What was read and checked for its runs; not kept.
        overwrite: Whether an earlier run there may be replaced.
        resume: Whether an earlier run there is taken up.
        reporter: Told what has changed since the earlier run.

    Yields:
        The folder, the facts of the environment, and the processes, that of rank 0 being the one
        that writes.

    Raises:
        RunFolderError: If the folder holds another run, or cannot be written.
    """
    folder = run_folder.place(recipe.output)
    resuming = run_folder.check_output(folder, overwrite, resume)
    first = next(iter(prepared.values()))
    facts = environment(
        str(first.foundation.potential.device),
        recipe.train.seed,
        first.foundation.name,
        first.foundation.fingerprint,
        {
            "fingerprint": " ".join(run.data_fingerprint for run in prepared.values()),
            "folders": first.folders,
        },
        first.lineage,
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
