"""Foundations to start from, and fine-tuned potentials in the formats of other programs."""

from __future__ import annotations

from itertools import accumulate
from pathlib import Path
from typing import Annotated

from rich.console import Console
from rich.table import Table
from typer import Argument, Option

from finetune.commands.shared import Head, Overwrite, Precision, tell, tell_written, user_errors


def export(
    path: Annotated[
        str, Argument(metavar="RUN", help="Run folder, committee, bundle, .model file or name.")
    ],
    to: Annotated[Path, Option("--to", help="File to write, e.g. tuned.model, or folder.")],
    format: Annotated[
        str,
        Option(help="mace (.model), lammps (TorchScript), lammps-mliap, adapter (peft) or bundle."),
    ] = "mace",
    precision: Precision = "float64",
    head: Head = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a potential for MACE, LAMMPS, TorchSim or peft, or as a bundle to share."""
    with user_errors():
        from finetune.export.formats import export as write

        written = write(path, to, format, precision, overwrite, head)
    tell_written(Console(), written)
    if written.is_dir():
        tell(Console(), f"with {', '.join(sorted(item.name for item in written.iterdir()))}")


def foundations(
    name: Annotated[
        str, Argument(metavar="[NAME|PATH]", help="Foundation to describe; none lists all.")
    ] = "",
    download: Annotated[
        bool, Option("--download", help="Download it into MACE's cache first.")
    ] = False,
    accept_licence: Annotated[
        bool, Option("--accept-licence", help="Accept an academic licence; downloads too.")
    ] = False,
) -> None:
    """List the foundation potentials, or describe one."""
    console = Console()
    with user_errors():
        if not name:
            console.print(_catalogue(console.width))
            return
        from finetune.potentials.description import describe
        from finetune.potentials.loading import fetch
        from finetune.potentials.mace.published import PUBLISHED

        if name in PUBLISHED and (download or accept_licence):
            fetch(name, accept_licence)
        for label, value in describe(name):
            tell(console, f"{label:22} {value}")


def _catalogue(width: int) -> Table:
    """Return the catalogue; a narrow terminal gets fewer columns, but complete names."""
    from finetune.potentials.loading import entries

    titles = ("name", "level of theory", "where", "elements", "licence", "MB")
    rows = []
    for item in entries():
        size = "" if item.size is None else f"{item.size / 1e6:.0f}"
        facts = (item.name, item.level_of_theory, item.state, str(item.elements), item.licence)
        rows.append((*facts, size))
    widths = [max(map(len, column)) + 2 for column in zip(titles, *rows, strict=True)]
    shown = max(sum(total <= width for total in accumulate(widths)), 1)
    table = Table(box=None, caption_justify="left")
    for title in titles[:shown]:
        table.add_column(title, overflow="fold", no_wrap=shown > 1)
    for row in rows:
        table.add_row(*row[:shown])
    if shown < len(titles):
        table.caption = f"a wider terminal shows: {', '.join(titles[shown:])}"
    return table
