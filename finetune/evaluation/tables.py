"""An evaluation as tables for the terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from finetune.evaluation.statistics import QUANTITIES, Measured


def overall(title: Text, measured: Mapping[str, Measured], caption: str = "") -> Table:
    """Return the errors over all structures, those of the potentials under each other.

    Args:
        title: Of the table.
        measured: Errors by the name of the potential.
        caption: Stands below.
    """
    table = Table(title=title, title_justify="left")
    table.add_column("error")
    for name in ("MAE", "RMSE", "max", "R²"):
        table.add_column(name, justify="right")
    for quantity, (called, unit) in QUANTITIES.items():
        present = {
            name: item.statistics[quantity]
            for name, item in measured.items()
            if quantity in item.statistics
        }
        if not present:
            continue
        table.add_row(Text(f"{called} [{unit}]"))
        for name, found in present.items():
            cells = (_milli(found.mae), _milli(found.rmse), _milli(found.max))
            table.add_row(Text(f"  {name}"), *cells, _r2(found.r2))
        if len(present) == 2:
            before, after = present.values()
            changes = [
                _change(getattr(before, key), getattr(after, key)) for key in ("mae", "rmse", "max")
            ]
            table.add_row(Text("  change", style="dim"), *changes)
        table.add_section()
    directed = {name: c for name, m in measured.items() if (c := m.force_cosine) is not None}
    if directed:
        table.add_row("force direction, mean cosine")
        for name, cosine in directed.items():
            table.add_row(Text(f"  {name}"), f"{cosine:.4f}")
    if caption:
        table.caption, table.caption_justify = caption, "left"
    return table


def grouped(title: str, measured: Mapping[str, Mapping[str, Measured]]) -> Table:
    """Return a row for each group, the potentials' MAEs side by side.

    Args:
        title: Of the table.
        measured: Name of the potential -> group -> errors.
    """
    table = Table(title=title, title_justify="left")
    table.add_column("group")
    *_, last = measured.values()
    columns: list[tuple[str, Callable[[Measured], float | None]]] = []
    for quantity, short in (("energy_per_atom", "E MAE/atom"), ("forces", "F MAE")):
        if any(quantity in item.statistics for item in last.values()):
            columns.append((short, lambda item, key=quantity: _mae(item, key)))  # type: ignore[misc]
    for short, _ in columns:
        for name in measured:
            table.add_column(f"{name}\n{short}", justify="right")
    table.add_column("labels", justify="right")
    for group, item in last.items():
        cells = [_milli(value(found[group])) for _, value in columns for found in measured.values()]
        labels = max((found.count for found in item.statistics.values()), default=0)
        table.add_row(Text(group), *cells, str(labels))
    legend = "MAE in meV/atom and meV/Å; labels: energies or force components, the larger number"
    table.caption, table.caption_justify = Text(legend), "left"
    return table


def worst(title: str, rows: Sequence[Mapping[str, Any]], several: bool) -> Table:
    """Return a row for each of the worst structures.

    File and place there are told where the index is not the place: of several files, or of a part.

    Args:
        title: Of the table.
        rows: Lists of `Evaluated.worst`.
        several: Whether the structures are of several files.
    """
    several = several or any(str(row["index"]) != place_of(row["where"])[1] for row in rows)
    table = Table(title=title, title_justify="left")
    table.add_column("index", justify="right")
    for name in ("E error*\nmeV/atom", "F RMSE\nmeV/Å", "F max\nmeV/Å"):
        table.add_column(name, justify="right")
    if several:
        table.add_column("file", overflow="fold")
        table.add_column("place", justify="right")
    for row in rows:
        table.add_row(
            str(row["index"]),
            _milli(row["energy_per_atom_error_shifted"]),
            _milli(row["forces_rmse"]),
            _milli(row["forces_max"]),
            *(map(Text, place_of(row["where"])) if several else []),
        )
    table.caption, table.caption_justify = "* the mean error per atom removed", "left"
    return table


def _mae(item: Measured, quantity: str) -> float | None:
    found = item.statistics.get(quantity)
    return None if found is None else found.mae


def place_of(where: str) -> tuple[str, str]:
    """Return the file of a structure and its place there."""
    file, _, place = where.rpartition(", structure ")
    return (file or where).strip("'"), place if file else ""


def _milli(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{1000 * value:.{1 if abs(value) < 100 else 0}f}"


def _r2(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.4f}" if abs(value) < 100 else f"{value:.1e}"


def _change(before: float, after: float) -> str:
    return f"{100 * (after / before - 1):+.0f} %" if before else ""
