"""Figures: learning curves, parity plots, calibration of committees, energy curves."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.core.files import write_atomically
from finetune.evaluation.calibration import LEVELS, TITLES, Calibration, Quantity

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from finetune.evaluation.curves import Curve
    from finetune.potentials.errors import LabelledPredictions

BEFORE, AFTER, GRADIENT, FAINT = "#b3541e", "#1f6f8b", "#7a9a3a", "#888888"
"""Colours of the foundation, the fine-tuned potential, its −dE/dr where a head predicts the forces,
and guides; legible on light and dark."""

MOST_DRAWN = 1000
"""Points of one colour above which a vector figure stores them as an image, to stay small."""


def learning_curve(history: Sequence[dict[str, Any]], best_epoch: int) -> Figure:
    """Plot validation errors against epochs: energies, forces, inconsistency, as recorded."""
    titles = {
        "valid/energy_per_atom_mae": "energy MAE [meV/atom]",
        "valid/forces_mae": "force MAE [meV/Å]",
        "valid/inconsistency_mae": "force inconsistency [meV/Å]",
    }
    panels = [key for key in titles if history[0].get(key) is not None]
    figure, grid = _panels(1, len(panels))
    epochs = [record["epoch"] for record in history]
    for axis, key in zip(grid[0], panels, strict=True):
        values = [np.nan if record[key] is None else 1000 * record[key] for record in history]
        axis.semilogy(epochs, values, color=AFTER)
        axis.axvline(best_epoch, color=FAINT, linewidth=0.8, linestyle=":")
        axis.set(xlabel="epoch", ylabel=f"validation {titles[key]}")
    return figure


def parity(
    before: LabelledPredictions | None,
    after: LabelledPredictions,
    names: tuple[str, str] = ("fine-tuned", "foundation"),
) -> Figure:
    """Plot predictions against labels: energies relative to the labels' mean, forces, stress."""
    titles = {"energy": "energy [eV]", "forces": "force [eV/Å]", "stress": "stress [eV/Å³]"}
    panels = [key for key in titles if getattr(after, key).size]
    figure, grid = _panels(1, len(panels))
    for axis, key in zip(grid[0], panels, strict=True):
        labels = getattr(after, key)[1]
        origin = labels.mean() if key == "energy" else 0.0
        ends = np.array([labels.min(), labels.max()]) - origin
        axis.plot(ends, ends, color=FAINT, linewidth=0.8)
        series = [] if before is None else [(names[1], getattr(before, key), BEFORE)]
        if key == "forces" and after.consistency.size:
            series.append((f"{names[0]}, −dE/dr", after.gradient_forces, GRADIENT))
        for name, pairs, colour in [*series, (names[0], getattr(after, key), AFTER)]:
            predicted, labelled = pairs - origin
            drawn = {"markersize": 3, "color": colour, "label": name}
            as_image = labelled.size > MOST_DRAWN
            axis.plot(labelled, predicted, ".", **drawn, rasterized=as_image)
        axis.set(xlabel=f"labelled {titles[key]}", ylabel=f"predicted {titles[key]}")
        axis.legend(frameon=False, markerscale=3)
    return figure


def curves(shown: Sequence[Curve]) -> Figure:
    """Plot energy curves of one kind, three panels in a row; dimers up to 10 eV.

    Curves with labels are shifted by their mean difference from them.
    """
    columns = min(len(shown), 3)
    figure, grid = _panels(-(-len(shown) // columns), columns, height=3.2)
    axes = grid.ravel()
    for axis, curve in zip(axes, shown, strict=False):
        labels, energies = curve.labels, curve.energies
        if labels is not None:
            origin = labels.min()
            energies = {
                name: found - origin - (found - labels).mean() for name, found in energies.items()
            }
        colours = (BEFORE, AFTER)[-len(energies) :]
        for (name, found), colour in zip(energies.items(), colours, strict=True):
            axis.plot(curve.values, found, color=colour, label=name)
        if labels is not None:
            black = {"markersize": 3, "color": "black", "label": "labels"}
            axis.plot(curve.values, labels - origin, "o", **black)
        if curve.wall is not None:
            axis.axvline(curve.wall, color=FAINT, linewidth=0.8, linestyle=":")
        if curve.kind == "dimer":
            finite = np.concatenate([found[np.isfinite(found)] for found in energies.values()])
            axis.set_ylim(min(float(finite.min(initial=0.0)), -0.5) - 0.5, 10.0)
        axis.set(title=curve.name, xlabel=curve.unit, ylabel="energy [eV]")
    for axis in axes[len(shown) :]:
        axis.remove()
    axes[0].legend(frameon=False)
    return figure


def calibration(found: Mapping[Quantity, Calibration]) -> Figure:
    """Plot, for each quantity, observed against expected fractions, and errors against deviations.

    The latter are root mean squares of ten bins of equal size, ordered by deviation.
    """
    figure, axes = _panels(2, max(len(found), 1), width=3.6, height=3.4)
    for (above, below), (quantity, item) in zip(axes.T, found.items(), strict=False):
        title, unit = TITLES[quantity]
        above.plot([0, 1], [0, 1], color=FAINT, linewidth=0.8)
        bins = np.array_split(np.argsort(item.deviations), min(10, len(item.errors)))
        rms = [
            [np.sqrt(np.square(v[b]).mean()) for b in bins] for v in (item.deviations, item.errors)
        ]
        deviation, error = 1000 * np.array(rms)
        for scale, colour, name in ((1.0, BEFORE, "as predicted"), (item.scale, AFTER, "scaled")):
            if scale is not None:
                above.plot(LEVELS, item.observed(scale), color=colour, label=name)
                below.plot(scale * deviation, error, ".-", color=colour)
        ends = [0.0, float(max(deviation.max(), error.max()))]
        below.plot(ends, ends, color=FAINT, linewidth=0.8)
        above.set(title=title, xlabel="expected fraction", ylabel="observed fraction")
        below.set(xlabel=f"standard deviation [m{unit}]", ylabel=f"error, RMS [m{unit}]")
        above.legend(frameon=False)
    return figure


def write_png(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG file, atomically."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    write_atomically(path, buffer.getvalue())


def _panels(rows: int, columns: int, width: float = 4.2, height: float = 3.6) -> tuple[Figure, Any]:
    """Return a figure and its axes ``[rows, columns]``; width and height of each, in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)
