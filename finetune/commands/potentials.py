"""Foundations to start from, and fine-tuned potentials in the formats of other programs."""

from __future__ import annotations

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
        from finetune.potentials.catalogue import fetch
        from finetune.potentials.description import describe
        from finetune.potentials.mace.published import PUBLISHED

        if name in PUBLISHED and (download or accept_licence):
            fetch(name, accept_licence)
        for label, value in describe(name):
            tell(console, f"{label:22} {value}")


def _catalogue(width: int) -> Table:
    """Return the catalogue; a narrow terminal gets fewer columns, but complete names."""
    from finetune.potentials.catalogue import entries

    columns: dict[str, list[str]] = {
        title: [] for title in ("name", "level of theory", "where", "elements", "licence", "MB")
    }
    for entry in entries():
        size = "" if entry.size is None else f"{entry.size / 1e6:.0f}"
        cells = (entry.name, entry.level_of_theory, entry.state, str(entry.elements), entry.licence)
        for column, cell in zip(columns.values(), (*cells, size), strict=True):
            column.append(cell)
    widths = [max(map(len, [title, *cells])) + 2 for title, cells in columns.items()]
    fitting = sum(sum(widths[: place + 1]) <= width for place in range(len(widths)))
    shown = list(columns)[: max(fitting, 1)]
    table = Table(box=None, caption_justify="left")
    for title in shown:
        table.add_column(title, overflow="fold", no_wrap=len(shown) > 1)
    for row in zip(*(columns[title] for title in shown), strict=True):
        table.add_row(*row)
    if len(shown) < len(columns):
        table.caption = f"a wider terminal shows: {', '.join(list(columns)[len(shown) :])}"
    return table
