"""Potentials to start from, and fine-tuned ones to hand on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from finetune.commands.shared import Overwrite, Precision, user_errors


def export(
    path: Annotated[str, typer.Argument(metavar="RUN", help="Run folder or bundle.")],
    to: Annotated[Path, typer.Option("--to", help="File to write, e.g. tuned.model.")],
    precision: Precision = "float64",
    overwrite: Overwrite = False,
) -> None:
    """Write a plain MACE .model file, which MACECalculator and other MACE tools load."""
    with user_errors():
        from finetune.devices import choose_dtype
        from finetune.export.merge import check_plain, write_mace
        from finetune.foundation.loading import load_foundation

        dtype = choose_dtype(precision)
        opened = load_foundation(path)
        check_plain(opened)
        write_mace(opened.potential, to, dtype, overwrite, opened.metadata)
    Console().print(f"wrote {escape(str(to))}", soft_wrap=True)


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
