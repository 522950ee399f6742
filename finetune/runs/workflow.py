"""The entry points: run a recipe, or validate it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune.core import files, resources
from finetune.core.errors import EarlierRunError, system_errors
from finetune.recipe.recipe import Recipe
from finetune.runs import run_folder
from finetune.runs.committee import prepare_member, run_committee
from finetune.runs.fine_tuning import fine_tune
from finetune.runs.preparation import Preparation
from finetune.runs.result import RunResult
from finetune.runs.stages import prepare_stages, run_stages
from finetune.training.records import Reporter, Silent


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
    no trace.

    Args:
        recipe: A `Recipe`, the path of a recipe file, or a mapping with a recipe's keys.
        overrides: Dotted overrides such as ``train.epochs=10``; for a path or a mapping.
        overwrite: Whether an earlier run in the output folder may be replaced.
        resume: ``auto`` continues from the newest intact checkpoint in the output folder, if there
            is one; ``must`` raises if there is none. The recipe, files and foundation must be those
            that the run began with.
        reporter: Receives stages and epochs; silent by default.

    Raises:
        FinetuneError: For anything that the user can correct: see `finetune.core.errors`.
    """
    parsed, recipe_folder = read_recipe(recipe, overrides)
    reporter = reporter or Silent()
    if parsed.committee:
        return run_committee(parsed, recipe_folder, overwrite, resume, reporter)
    if parsed.stages:
        return run_stages(parsed, recipe_folder, overwrite, resume, reporter)
    return fine_tune(parsed, recipe_folder, overwrite, resume, reporter)


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
        The preparation (of the last stage, where there are stages): its ``notes``, the graphs,
        and the potential with refitted reference energies and the adapter attached.

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

    Of a committee the first member is prepared.
    """
    parsed, recipe_folder = read_recipe(recipe, overrides)
    earlier = ""
    try:
        run_folder.check_output(files.place(parsed.output), overwrite, resume)
    except EarlierRunError as error:
        earlier, overwrite, resume = f"note: `run` would stop: {error}", True, "no"
    if parsed.committee:
        found = prepare_member(parsed, recipe_folder, overwrite, resume)
    elif parsed.stages:
        found = prepare_stages(parsed, recipe_folder, overwrite, resume)
    else:
        found = {"": Preparation(parsed, recipe_folder, overwrite, resume)}
    if earlier:
        next(iter(found.values())).notes.append(earlier)
    return found


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
