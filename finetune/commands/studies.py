"""Tune the settings of a recipe, and compare variants of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rich.console import Console
from rich.markup import escape
from typer import Option

from finetune.commands.shared import (
    Overrides,
    Overwrite,
    Quiet,
    RecipeName,
    again,
    tell,
    tell_json,
    tell_written,
    user_errors,
)

if TYPE_CHECKING:
    from finetune.training.records import Reporter


AsJson = Annotated[bool, Option("--json", help="Print JSON in eV, Å and s.")]


def folder(default: str) -> Any:
    """Return the option that names the folder to work in."""
    return Option("--to", help="Folder to work in.", show_default=default)


def tune(
    recipe: RecipeName,
    overrides: Overrides = None,
    budget: Annotated[str, Option(help="Trials in all (30), or a time (2h, 45min).")] = "30",
    to: Annotated[Path | None, folder("OUTPUT-tuning")] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Search the settings that validate best, and write the tuned recipe. Resumes after a stop."""
    console = Console(stderr=as_json)
    with user_errors(again()):
        from finetune.studies.tuning import tune as tune_recipe

        reporter = _reporter(console, quiet)
        result = tune_recipe(
            recipe, overrides or [], budget=budget, to=to, overwrite=overwrite, reporter=reporter
        )
    if as_json:
        tell_json(result.as_dict())
        return
    console.print(result.table())
    console.print(escape(result.summary), soft_wrap=True, highlight=False)
    for note in result.notes():
        tell(console, note)
    tell_written(console, result.path)
    if not quiet:
        console.print(f"use it      piwsl-finetune run {escape(str(result.path))}", soft_wrap=True)


def compare(
    recipe: RecipeName,
    overrides: Overrides = None,
    vary: Annotated[
        list[str] | None,
        Option(
            help="losses=none,pitc,pitc+pisc, labels=10,25,100, adapter.kind=full,lora, or any key "
            "of the recipe with its values. Can be given several times."
        ),
    ] = None,
    seeds: Annotated[int, Option(help="Number of seeds, for runs and labels.", min=1)] = 3,
    budget: Annotated[
        str,
        Option(help="For tuning each arm: trials (10), or a time (1h); 0 to tune nothing."),
    ] = "10",
    jobs: Annotated[int, Option(help="Number of parallel processes.", min=1)] = 1,
    to: Annotated[Path | None, folder("OUTPUT-comparison")] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Tune variants of a recipe in the same way, run and test each. Resumes after a stop."""
    console = Console(stderr=as_json)
    with user_errors(again()):
        from finetune.studies.comparison import compare as compare_arms

        result = compare_arms(
            recipe,
            overrides or [],
            vary=vary or [],
            budget=budget,
            seeds=seeds,
            jobs=jobs,
            to=to,
            overwrite=overwrite,
            reporter=_reporter(console, quiet),
        )
    if as_json:
        tell_json(result.as_dict())
        return
    for table in result.tables():
        console.print(table)
    for note in result.notes():
        tell(console, note)
    tell_written(console, result.folder)


def _reporter(console: Console, quiet: bool) -> Reporter:
    from finetune.training.records import Plain, Silent

    return Silent() if quiet else Plain(console)
