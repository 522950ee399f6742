"""What the commands share: arguments and options, output, and errors without a traceback."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from typer import Argument, Option

from finetune.core.errors import FinetuneError, RunStoppedError, TrainingError
from finetune.core.process import process_count, process_rank

RecipeName = Annotated[str, Argument(help="Recipe file, or the name of a shipped recipe.")]
Overrides = Annotated[
    list[str] | None,
    Argument(help="Overrides: train.learning_rate=1e-4 output=runs/mine", show_default=False),
]
PotentialName = Annotated[
    str, Argument(metavar="RUN", help="Run folder, file of any family, or foundation by name.")
]
Head = Annotated[str | None, Option(help="Head of RUN that predicts, where there are several.")]
Device = Annotated[str, Option(help="auto, cpu, cuda, cuda:0 …")]
Precision = Annotated[str, Option(help="float64 or float32.")]
Quiet = Annotated[bool, Option("--quiet", "-q", help="Print only results.")]
Plain = Annotated[bool, Option("--plain", help="Print lines instead of a progress bar.")]
UnitsOption = Annotated[
    list[str] | None,
    Option("--units", help="energy=Hartree, length=Bohr, forces=-eV/Å, stress=GPa …"),
]
AsJson = Annotated[bool, Option("--json", help="Print JSON.")]
Overwrite = Annotated[bool, Option("--overwrite", help="Replace an earlier result.")]


@contextmanager
def user_errors(go_on: str = "") -> Iterator[None]:
    """Print an error that the user can correct without a traceback, and exit with its code.

    Of several processes that stop together only the first prints. ``go_on`` resumes a stopped run.
    """
    try:
        yield
    except (FinetuneError, OSError) as error:
        rank, together = process_rank(), isinstance(error, (RunStoppedError, TrainingError))
        console = Console(file=sys.stderr, stderr=True, quiet=rank > 0 and together)
        stopped = isinstance(error, RunStoppedError)
        title = "[bold yellow]stopped:[/]" if stopped else "[bold red]error:[/]"
        where = f"(process {rank}) " if rank else ""
        console.print(f"{title} {where}{escape(str(error))}", soft_wrap=True, highlight=False)
        if stopped:
            several = "  (launched as before)" if process_count() > 1 else ""
            console.print(f"resume with  {escape(go_on)}{several}", soft_wrap=True, highlight=False)
        raise typer.Exit(getattr(error, "exit_code", FinetuneError.exit_code)) from None


def again(*without: str) -> str:
    """Return the command that resumes this one, without options that erase its results."""
    left_out = {"--overwrite", *without}
    return shlex.join(["piwsl-finetune", *(item for item in sys.argv[1:] if item not in left_out)])


def tell(console: Console, text: str) -> None:
    """Print a line of any length without wrapping or markup."""
    console.print(text, soft_wrap=True, markup=False, highlight=False)


def tell_json(content: Mapping[str, Any]) -> None:
    """Print a result as JSON to the standard output."""
    print(json.dumps(content, indent=2))


def tell_written(console: Console, path: str | Path) -> None:
    """Print where something was written."""
    console.print(f"wrote {escape(str(path))}", soft_wrap=True)
