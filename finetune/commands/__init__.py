"""The ``piwsl-finetune`` command. Each command parses, calls one function and prints."""

from __future__ import annotations

from typing import Annotated

import typer
from typer import Option

from finetune import __version__
from finetune.commands import data
from finetune.commands.data import store
from finetune.commands.evaluation import evaluate, md, report, scan
from finetune.commands.labelling import label
from finetune.commands.potentials import export, foundations
from finetune.commands.recipes import recipes, schema
from finetune.commands.studies import compare, tune
from finetune.commands.training import run, validate

app = typer.Typer(
    help="Fine-tune pretrained interatomic potentials on sparse ab initio labels.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"piwsl-finetune {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, Option("--version", callback=_print_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    """Fine-tune pretrained interatomic potentials on sparse ab initio labels."""


_TRAINING, _TESTING = (run, validate, tune, compare), (evaluate, md, scan, report)
for command in (*_TRAINING, *_TESTING, export, label, store, recipes, foundations, schema):
    app.command()(command)
app.add_typer(data.app, name="data")
