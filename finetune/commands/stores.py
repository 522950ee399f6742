"""Structures in one HDF5 file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from finetune.commands.shared import user_errors


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
