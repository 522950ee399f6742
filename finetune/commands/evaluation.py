"""Measure what fine-tuning brought."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.console import Console
from rich.markup import escape

from finetune.commands.shared import Device, Precision, user_errors

PotentialName = Annotated[
    str, typer.Argument(metavar="RUN", help="Run folder, .model file, or foundation by name.")
]
Against = Annotated[
    Optional[str],  # noqa: UP045 (typer evaluates this at run time on Python 3.10)
    typer.Option(help="Potential beside it, instead of the foundation it was tuned from."),
]
Head = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(help="Head of RUN that predicts, where there are several."),
]


def evaluate(
    path: PotentialName,
    files: Annotated[list[str], typer.Argument(metavar="FILE…", help="Labelled structures.")],
    energy_key: Annotated[str, typer.Option(help="Name of the energies in the files.")] = "",
    forces_key: Annotated[str, typer.Option(help="Name of the forces in the files.")] = "",
    stress_key: Annotated[str, typer.Option(help="Name of the stresses in the files.")] = "",
    subset_key: Annotated[
        str, typer.Option(help="What names the subset of a structure in the files.")
    ] = "config_type",
    against: Against = None,
    head: Head = None,
    worst: Annotated[int, typer.Option(help="Worst structures to list.", min=0)] = 5,
    to: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--to", help="Folder for JSON, CSV and the parity plot."),
    ] = None,
    device: Device = "auto",
    precision: Precision = "float64",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON in eV and Å.")] = False,
) -> None:
    """Test a fine-tuned potential, and its foundation beside it, on labelled structures."""
    with user_errors():
        from finetune.assessment import evaluate as evaluate_files

        given = {"energy": energy_key, "forces": forces_key, "stress": stress_key}
        found = evaluate_files(
            path,
            files,
            keys={name: key for name, key in given.items() if key},
            device=device,
            dtype=precision,
            against=against,
            head=head,
            subset_key=subset_key,
            worst=worst,
        )
        if to is not None:
            found.write(to)
    if as_json:
        print(json.dumps(found.as_dict(), indent=2))
        return
    console = Console()
    for table in found.tables():
        console.print(table)
    if found.note:
        console.print(found.note, soft_wrap=True, markup=False, highlight=False)
    if to is not None:
        console.print(f"wrote {escape(str(to))}", soft_wrap=True)
