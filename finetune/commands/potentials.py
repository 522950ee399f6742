"""Foundations to start from, and fine-tuned potentials in the formats of other programs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Annotated

from rich.console import Console
from rich.table import Table
from typer import Argument, Option

from finetune.commands.shared import Head, Overwrite, tell, tell_written, user_errors


def export(
    path: Annotated[
        str,
        Argument(metavar="RUN", help="Run folder, committee, bundle, file of any family, or name."),
    ],
    to: Annotated[Path, Option("--to", help="File to write, or folder.")],
    format: Annotated[
        str | None,
        Option(help="File of its family (by default its own), lammps, adapter (peft) or bundle."),
    ] = None,
    precision: Annotated[
        str | None,
        Option(help="float64 or float32, of a file; by default the higher one that it can hold."),
    ] = None,
    head: Head = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a potential for its family's tools, LAMMPS or peft, or as a bundle to share."""
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
        bool, Option("--download", help="Download it into the cache first.")
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
        from finetune.potentials.catalogue import fetch, published
        from finetune.potentials.description import describe

        if name in published() and (download or accept_licence):
            fetch(name, accept_licence)
        for label, value in describe(name):
            tell(console, f"{label:22} {value}")


def _catalogue(width: int) -> Table:
    """Return the catalogue; a narrow terminal gets fewer columns, but complete names."""
    from finetune.potentials.catalogue import entries

    titles = ("name", "level of theory", "where", "family", "elements", "licence", "MB", "weights")
    rows = []
    for item in entries():
        size = "" if item.size is None else f"{item.size / 1e6:.0f}"
        weights = "" if item.parameters is None else f"{item.parameters:,}"
        covered = _elements(item.elements)
        facts = (item.name, item.level_of_theory, item.state, item.family, covered, item.licence)
        rows.append((*facts, size, weights))
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


def _elements(numbers: Sequence[int]) -> str:
    """Return few elements by symbol, many by how many they are."""
    from ase.data import chemical_symbols

    few = len(numbers) <= 4
    return " ".join(chemical_symbols[n] for n in numbers) if few else str(len(numbers))
