"""Tables for the terminal: what all of them share, and those of errors on labelled structures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from finetune.evaluation.statistics import Measured, quantities


def new_table(title: str, left: Sequence[str], right: Sequence[str], caption: str = "") -> Table:
    """Return an empty table: columns of text, then of numbers; title and caption are no markup."""
    table = Table(
        title=Text(title, style="table.title"),
        title_justify="left",
        caption=Text(caption, style="table.caption"),
        caption_justify="left",
    )
    for header in left:
        table.add_column(header)
    for header in right:
        table.add_column(header, justify="right")
    return table


def cell(value: float | None, digits: int = 2, factor: float = 1.0) -> str:
    """Return a number as text, a dash for None."""
    return "–" if value is None else f"{factor * value:.{digits}f}"


def percent(before: float, after: float) -> str:
    """Return a relative change as text, nothing where there is none."""
    return f"{100 * (after / before - 1):+.0f} %" if before else ""


def overall(title: str, measured: Mapping[str, Measured], caption: str = "") -> Table:
    """Return the errors of each potential over all structures."""
    table = new_table(title, ["error"], ["MAE", "RMSE", "max", "R²"], caption)
    for quantity, (called, unit) in quantities(measured.values()).items():
        several = {name: item.statistics.get(quantity) for name, item in measured.items()}
        present = {name: found for name, found in several.items() if found is not None}
        if not present:
            continue
        table.add_row(Text(f"{called} [{unit}]"))
        for name, found in present.items():
            cells = map(_milli, (found.mae, found.rmse, found.max))
            table.add_row(Text(f"  {name}"), *cells, _r2(found.r2))
        if len(present) == 2:
            both = zip(*((m.mae, m.rmse, m.max) for m in present.values()), strict=True)
            changes = [percent(before, after) for before, after in both]
            table.add_row(Text("  change", style="dim"), *changes)
        table.add_section()
    directed = {name: c for name, m in measured.items() if (c := m.force_cosine) is not None}
    if directed:
        table.add_row("force direction, mean cosine")
        for name, cosine in directed.items():
            table.add_row(Text(f"  {name}"), f"{cosine:.4f}")
    return table


def grouped(title: str, measured: Mapping[str, Mapping[str, Measured]]) -> Table:
    """Return a row for each group, with its MAEs for each potential (potential -> group)."""
    *_, last = measured.values()
    shorts = {"energy_per_atom": "E MAE/atom", "forces": "F MAE"}
    labelled = {quantity for item in last.values() for quantity in item.statistics}
    shown = {quantity: short for quantity, short in shorts.items() if quantity in labelled}
    table = new_table(
        title,
        ["group"],
        [*(f"{name}\n{short}" for short in shown.values() for name in measured), "labels"],
        "MAE in meV/atom and meV/Å; labels: energies or force components, the larger number",
    )
    for group, item in last.items():
        several = (found[group].statistics.get(key) for key in shown for found in measured.values())
        cells = [_milli(None if found is None else found.mae) for found in several]
        labels = max((found.count for found in item.statistics.values()), default=0)
        table.add_row(Text(group), *cells, str(labels))
    return table


def worst(title: str, rows: Sequence[Mapping[str, Any]], several: bool) -> Table:
    """Return a table of `Evaluated.worst`, with places where the index does not say them."""
    several = several or any(str(row["index"]) != place_of(row["where"])[1] for row in rows)
    errors = ["E error*\nmeV/atom", "F RMSE\nmeV/Å", "F max\nmeV/Å"]
    table = new_table(title, [], ["index", *errors], "* the mean error per atom removed")
    if several:
        table.add_column("file", overflow="fold")
        table.add_column("place", justify="right")
    for row in rows:
        keys = ("energy_per_atom_error_shifted", "forces_rmse", "forces_max")
        cells = [_milli(row[key]) for key in keys]
        places = map(Text, place_of(row["where"])) if several else ()
        table.add_row(str(row["index"]), *cells, *places)
    return table


def place_of(where: str) -> tuple[str, str]:
    """Return the file of a structure and its place there."""
    file, _, place = where.rpartition(", structure ")
    return (file or where).strip("'"), place if file else ""


def _milli(value: float | None) -> str:
    return cell(value, 1 if value is not None and abs(value) < 100 else 0, 1000)


def _r2(value: float | None) -> str:
    return cell(value, 4) if value is None or abs(value) < 100 else f"{value:.1e}"
