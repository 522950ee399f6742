"""Fine-tune, and check what fine-tuning needs."""

from __future__ import annotations

import shlex
from typing import Annotated, Any, cast

from rich.console import Console
from rich.markup import escape
from typer import Option

from finetune.commands import shared
from finetune.commands.shared import tell, tell_json, user_errors
from finetune.core.process import process_rank

Resume = Annotated[
    str,
    Option(help="auto: continue from a checkpoint in the output folder; must: fail without one."),
]


def run(
    recipe: shared.RecipeName,
    overrides: shared.Overrides = None,
    overwrite: shared.Overwrite = False,
    resume: Resume = "no",
    quiet: shared.Quiet = False,
    plain: shared.Plain = False,
    committee: Annotated[
        int,
        Option(
            help="Train a committee of N members with different seeds, for uncertainties.",
            metavar="N",
            min=0,
            show_default=False,
        ),
    ] = 0,
    dry_run: Annotated[bool, Option("--dry-run", help="Validate only.")] = False,
) -> None:
    """Fine-tune by a recipe, test against the foundation, write the run folder."""
    if committee:
        overrides = [*(overrides or []), f"committee.members={committee}"]
    if dry_run:
        validate(recipe, overrides, overwrite, resume)
        return
    console = Console(quiet=process_rank() > 0)
    resumed = shlex.join(["piwsl-finetune", "run", recipe, *(overrides or []), "--resume", "auto"])
    with user_errors(resumed):
        from finetune.runs.workflow import run as run_recipe
        from finetune.training.records import reporter_for

        shown, asked = reporter_for(console, quiet, plain), cast(Any, resume)
        result = run_recipe(
            recipe, overrides or [], overwrite=overwrite, resume=asked, reporter=shown
        )
    for name, stage in result.stages.items():
        tell(console, f"stage {name}: {stage.summary}")
        console.print(stage.shown.table())
    for name, member in result.members.items():
        tell(console, f"member {name}: {member.summary}")
    if not result.stages:
        console.print(result.shown.table())
    if result.shown_calibrations:
        from finetune.evaluation.calibration import table

        console.print(table(result.shown_calibrations, result.shown.source))
    console.print(escape(result.summary))
    if not quiet:
        folder = str(result.folder)
        console.print(f"run folder  {escape(folder)}", soft_wrap=True)
        use = f"finetune.load_calculator({escape(repr(folder))})"
        console.print(f"use it      {use}", soft_wrap=True)


def validate(
    recipe: shared.RecipeName,
    overrides: shared.Overrides = None,
    overwrite: shared.Overwrite = False,
    resume: Resume = "no",
    as_json: Annotated[bool, Option("--json", help="Print JSON in eV, Å, s, bytes.")] = False,
) -> None:
    """Check a recipe, its files, labels and foundation, and measure a step; write nothing."""
    console = Console()
    with user_errors():
        from finetune.runs.validation import measured
        from finetune.runs.workflow import validate_stages

        asked = cast(Any, resume)
        stages = validate_stages(recipe, overrides or [], overwrite=overwrite, resume=asked)
        found = {name: measured(prepared) for name, prepared in stages.items()}
    if as_json:
        content = {name: item.as_dict() for name, item in found.items()}
        tell_json(content.get("", {"stages": content}))
        return
    for name, item in found.items():
        for line in ([f"stage {name}"] if name else []) + item.lines():
            tell(console, line)
    console.print("valid")
