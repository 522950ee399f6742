"""The ``piwsl-finetune`` command. Each command parses, calls one function and prints."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Optional, cast

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from finetune import __version__
from finetune.errors import FinetuneError, RunFolderError, RunStoppedError

app = typer.Typer(
    help="Fine-tune pretrained interatomic potentials on sparse ab initio labels.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

RecipeName = Annotated[str, typer.Argument(help="Recipe file, or the name of a shipped recipe.")]
Overrides = Annotated[
    Optional[list[str]],  # noqa: UP045 (typer evaluates this at run time on Python 3.10)
    typer.Argument(help="Overrides: train.learning_rate=1e-4 output=runs/mine", show_default=False),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:0 …")]
Precision = Annotated[str, typer.Option(help="float64 or float32.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"piwsl-finetune {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print it."),
    ] = False,
) -> None:
    """Fine-tune pretrained interatomic potentials on sparse ab initio labels."""


@app.command()
def run(
    recipe: RecipeName,
    overrides: Overrides = None,
    overwrite: Overwrite = False,
    resume: Annotated[
        str,
        typer.Option(
            help="auto: go on from the checkpoint in the output folder, if any; must: or fail."
        ),
    ] = "no",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the table alone.")] = False,
    plain: Annotated[
        bool, typer.Option("--plain", help="Lines instead of a bar, as where there is no terminal.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Do what `validate` does, and stop.")
    ] = False,
) -> None:
    """Fine-tune by a recipe, test against the foundation, write the run folder."""
    if dry_run:
        validate(recipe, overrides, overwrite)
        return
    console = Console()
    again = shlex.join(["piwsl-finetune", "run", recipe, *(overrides or []), "--resume", "auto"])
    with user_errors(again):
        from finetune.training.progress import reporter_for
        from finetune.workflow import run as run_recipe

        result = run_recipe(
            recipe,
            overrides or [],
            overwrite=overwrite,
            resume=cast(Any, resume),
            reporter=reporter_for(console, quiet, plain),
        )
    for name, stage in result.stages.items():
        console.print(f"stage {name}")
        console.print(stage.shown.table())
    if not result.stages:
        console.print(result.shown.table())
    console.print(
        f"{result.ending} after {result.epochs} epochs and {result.seconds:.0f} s; "
        f"kept epoch {result.best_epoch}"
    )
    if not quiet:
        console.print(
            f"run folder  {escape(str(result.folder))}\n"
            f"use it      finetune.load_calculator({escape(repr(str(result.folder)))})",
            soft_wrap=True,
        )


@app.command()
def validate(
    recipe: RecipeName,
    overrides: Overrides = None,
    overwrite: Overwrite = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON in eV, Å, s, bytes.")] = False,
) -> None:
    """Check a recipe, its files, labels and foundation, and measure a step; write nothing."""
    console = Console()
    with user_errors():
        from finetune.survey import survey
        from finetune.workflow import validate_stages

        stages = validate_stages(recipe, overrides or [], overwrite=overwrite)
        found = {name: survey(prepared) for name, prepared in stages.items()}
    if as_json:
        content = {name: item.as_dict() for name, item in found.items()}
        print(json.dumps(content.get("", {"stages": content}), indent=2))
        return
    for name, item in found.items():
        for line in ([f"stage {name}"] if name else []) + item.lines():
            console.print(line, soft_wrap=True, markup=False, highlight=False)
    console.print("valid")


@app.command()
def evaluate(
    path: Annotated[str, typer.Argument(metavar="RUN", help="Run folder or bundle.")],
    files: Annotated[list[str], typer.Argument(metavar="FILE…", help="Labelled structures.")],
    energy_key: Annotated[str, typer.Option(help="Name of the energies in the files.")] = "",
    forces_key: Annotated[str, typer.Option(help="Name of the forces in the files.")] = "",
    stress_key: Annotated[str, typer.Option(help="Name of the stresses in the files.")] = "",
    device: Device = "auto",
    precision: Precision = "float64",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON in eV and Å.")] = False,
) -> None:
    """Test a fine-tuned potential, and its foundation beside it, on labelled structures."""
    with user_errors():
        from finetune.workflow import evaluate as evaluate_files

        given = {"energy": energy_key, "forces": forces_key, "stress": stress_key}
        found = evaluate_files(
            path,
            files,
            keys={name: key for name, key in given.items() if key},
            device=device,
            dtype=precision,
        )
    if as_json:
        print(json.dumps(found.as_dict(), indent=2))
    else:
        console = Console()
        console.print(found.table())
        if found.note:
            console.print(found.note, soft_wrap=True, markup=False, highlight=False)


@app.command()
def export(
    path: Annotated[str, typer.Argument(metavar="RUN", help="Run folder or bundle.")],
    to: Annotated[Path, typer.Option("--to", help="File to write, e.g. tuned.model.")],
    precision: Precision = "float64",
    overwrite: Overwrite = False,
) -> None:
    """Write a plain MACE .model file, which MACECalculator and other MACE tools load."""
    with user_errors():
        from finetune.devices import choose_dtype
        from finetune.export.merge import write_mace
        from finetune.foundation.loading import load_foundation

        dtype = choose_dtype(precision)
        write_mace(load_foundation(path).potential, to, dtype, overwrite)
    Console().print(f"wrote {escape(str(to))}", soft_wrap=True)


@app.command()
def store(
    files: Annotated[list[str], typer.Argument(metavar="FILE…", help="Labelled structures.")],
    to: Annotated[Path, typer.Option("--to", help="HDF5 file to write, e.g. train.h5.")],
    energy_key: Annotated[str, typer.Option(help="Name of the energies.")] = "REF_energy",
    forces_key: Annotated[str, typer.Option(help="Name of the forces.")] = "REF_forces",
    stress_key: Annotated[str, typer.Option(help="Name of the stresses.")] = "REF_stress",
) -> None:
    """Put structures and labels into one HDF5 file, which recipes train from without loading it."""
    with user_errors():
        from finetune.data.reading import store as store_files
        from finetune.recipe import label_keys

        given = {"energy": energy_key, "forces": forces_key, "stress": stress_key}
        count = store_files(files, to, label_keys(given))
    Console().print(f"wrote {count} structures to {escape(str(to))}", soft_wrap=True)


@app.command()
def recipes(
    name: Annotated[str, typer.Argument(help="Recipe to print or copy; none lists all.")] = "",
    to: Annotated[
        Optional[Path],  # noqa: UP045 (typer evaluates this at run time on Python 3.10)
        typer.Option("--to", help="Copy the recipe to this file."),
    ] = None,
) -> None:
    """List the shipped recipes, print one, or copy it to make it your own."""
    from finetune import resources

    with user_errors():
        if not name:
            for shipped, path in resources.recipes().items():
                print(f"{shipped:28} {_first_comment(path)}")
            return
        text = resources.recipe(name).read_text(encoding="utf-8")
        if to is None:
            print(text, end="")
            return
        if to.exists():
            raise RunFolderError(f"'{to}' exists. Choose another name.")
        to.write_text(text, encoding="utf-8")
    print(f"wrote {to}")


@app.command()
def foundations(
    name: Annotated[
        str, typer.Argument(metavar="[NAME|PATH]", help="Foundation to describe; none lists all.")
    ] = "",
    download: Annotated[
        bool, typer.Option("--download", help="Fetch it into MACE's cache first.")
    ] = False,
    accept_licence: Annotated[
        bool, typer.Option("--accept-licence", help="Accept an academic licence; downloads too.")
    ] = False,
) -> None:
    """List the foundation potentials, or tell everything about one."""
    console = Console()
    with user_errors():
        if not name:
            console.print(_catalogue())
            return
        from finetune.foundation.catalog import fetch
        from finetune.foundation.description import describe
        from finetune.foundation.published import PUBLISHED

        if name in PUBLISHED and (download or accept_licence):
            fetch(name, accept_licence)
        for label, value in describe(name):
            console.print(f"{label:22} {value}", soft_wrap=True, markup=False, highlight=False)


def _catalogue() -> Table:
    from finetune.foundation.catalog import entries

    table = Table("name", "elements", "level of theory", "MB", "licence", "", box=None)
    for entry in entries():
        size = "" if entry.size is None else f"{entry.size / 1e6:.0f}"
        cells = (entry.name, str(entry.elements), entry.level_of_theory, size)
        table.add_row(*cells, entry.licence, entry.state)
    return table


@app.command()
def schema() -> None:
    """Print the JSON schema of recipes, for editors that complete and check YAML."""
    from finetune.schema import recipe_schema

    print(json.dumps(recipe_schema(), indent=2))


@contextmanager
def user_errors(again: str = "") -> Iterator[None]:
    """Print an error that the user can mend without a traceback and leave with its exit code.

    Args:
        again: The command that resumes a run that was stopped.
    """
    try:
        yield
    except (FinetuneError, OSError) as error:
        console = Console(file=sys.stderr, stderr=True)
        stopped = isinstance(error, RunStoppedError)
        title = "[bold yellow]stopped:[/]" if stopped else "[bold red]error:[/]"
        console.print(f"{title} {escape(str(error))}", soft_wrap=True, highlight=False)
        if stopped:
            console.print(f"resume with  {escape(again)}", soft_wrap=True, highlight=False)
        raise typer.Exit(getattr(error, "exit_code", FinetuneError.exit_code)) from None


def _first_comment(path: Path) -> str:
    lines = path.read_text(encoding="utf-8").splitlines()
    comments = [line.lstrip("# ") for line in lines if line.startswith("#")]
    return comments[0] if comments else ""
