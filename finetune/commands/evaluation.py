"""Measure what fine-tuning brought."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console

from finetune.commands.shared import Device, Precision, user_errors


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
        if len(found.lineage) > 1:
            descent = f"lineage: {' → '.join(found.lineage)}"
            console.print(descent, soft_wrap=True, markup=False, highlight=False)
        if found.note:
            console.print(found.note, soft_wrap=True, markup=False, highlight=False)
