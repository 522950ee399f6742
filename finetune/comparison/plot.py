"""Errors against the number of labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from finetune.comparison.result import SHOWN, TITLES, Cell
from finetune.comparison.varied import Arm
from finetune.evaluation.plots import FAINT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def learning_curves(
    arms: Sequence[Arm],
    cells: Mapping[tuple[str, str], Cell],
    foundation: Mapping[tuple[str, str], Cell],
    labels: Mapping[str, int],
) -> Figure:
    """Plot test errors against the number of labels: means over seeds, bands of one deviation.

    Args:
        arms: The arms; those that differ in the number of labels alone make a line.
        cells: Of the arms.
        foundation: Of the foundation, by baseline.
        labels: Number of labels by arm.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullFormatter, ScalarFormatter

    measures = [name for name in SHOWN if any(key[1] == name for key in cells)]
    figure = Figure(figsize=(4.6 * len(measures), 3.8), layout="constrained")
    axes = figure.subplots(1, len(measures), squeeze=False)[0]
    lines = {
        group: [arm for arm in arms if arm.group == group]
        for group in dict.fromkeys(arm.group for arm in arms)
    }
    for axis, measure in zip(axes, measures, strict=True):
        for group, members in lines.items():
            found = [
                (labels[arm.name], cells[arm.name, measure])
                for arm in sorted(members, key=lambda arm: labels[arm.name])
                if (arm.name, measure) in cells
            ]
            _line(axis, found, group or "fine-tuned")
        untuned = [(labels[name], cell) for (name, of), cell in foundation.items() if of == measure]
        untuned.sort(key=lambda item: item[0])
        _line(axis, untuned, "foundation", FAINT)
        title, unit = TITLES[measure]
        axis.set(xscale="log", yscale="log", xlabel="labels", ylabel=f"test {title} [{unit}]")
        axis.set_xticks(sorted(set(labels.values())))
        axis.xaxis.set_major_formatter(ScalarFormatter())
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.yaxis.set_major_formatter(FuncFormatter(_plain))
        axis.yaxis.set_minor_formatter(FuncFormatter(_few))
    axes[0].legend(frameon=False, fontsize="small")
    return figure


def _line(
    axis: Axes, found: Sequence[tuple[int, Cell]], name: str, colour: str | None = None
) -> None:
    if not found:
        return
    where = [count for count, _ in found]
    means = np.array([1000 * cell.mean for _, cell in found])
    spreads = np.array([1000 * (cell.spread or 0.0) for _, cell in found])
    style = "--" if colour else "-"
    (line,) = axis.plot(where, means, style, marker="o", markersize=3, label=name, color=colour)
    low = np.maximum(means - spreads, 0.05 * means)
    axis.fill_between(where, low, means + spreads, color=line.get_color(), alpha=0.2, linewidth=0)


def _plain(value: float, place: int | None) -> str:
    return f"{value:g}"


def _few(value: float, place: int | None) -> str:
    """Name the ticks at 2, 3 and 5 times a power of ten."""
    return f"{value:g}" if f"{value:e}"[0] in "235" else ""
