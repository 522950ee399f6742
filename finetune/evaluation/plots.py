"""Figures: learning curves, parity plots, calibration of committees, energy curves."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from finetune.core.files import write_atomically
from finetune.evaluation.calibration import LEVELS, TITLES, Calibration, Quantity

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from finetune.potentials.errors import LabelledPredictions


Array = NDArray[np.float64]
BEFORE, AFTER, FAINT = "#b3541e", "#1f6f8b", "#888888"
"""Colours of the foundation, the fine-tuned potential and guides; legible on light and dark."""

MOST_DRAWN = 1000
"""Points of one colour above which a vector figure holds them as an image, to stay small."""


def learning_curve(history: Sequence[dict[str, Any]], best_epoch: int) -> Figure:
    """Plot validation errors against epochs, energies and (where labelled) forces."""
    panels = [
        (key, label)
        for key, label in (
            ("valid/energy_per_atom_mae", "energy MAE [meV/atom]"),
            ("valid/forces_mae", "force MAE [meV/Å]"),
        )
        if history[0].get(key) is not None
    ]
    figure = _figure(len(panels))
    epochs = [record["epoch"] for record in history]
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (key, label) in zip(axes, panels, strict=True):
        values = [np.nan if record[key] is None else 1000 * record[key] for record in history]
        axis.semilogy(epochs, values, color=AFTER)
        axis.axvline(best_epoch, color=FAINT, linewidth=0.8, linestyle=":")
        axis.set(xlabel="epoch", ylabel=f"validation {label}")
    return figure


def parity(
    before: LabelledPredictions | None,
    after: LabelledPredictions,
    names: tuple[str, str] = ("fine-tuned", "foundation"),
) -> Figure:
    """Plot predictions against labels: energies relative to the labels' mean, forces, stress.

    Args:
        before: Predictions of the foundation, if it is there.
        after: Predictions of the fine-tuned potential.
        names: What the legend calls the latter and the former.
    """
    panels = [
        (field, label, unit)
        for field, label, unit in (
            ("energy", "energy", "eV"),
            ("forces", "force", "eV/Å"),
            ("stress", "stress", "eV/Å³"),
        )
        if getattr(after, field).size
    ]
    figure = _figure(len(panels))
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (field, label, unit) in zip(axes, panels, strict=True):
        labels = getattr(after, field)[1]
        origin = labels.mean() if field == "energy" else 0.0
        ends = np.array([labels.min(), labels.max()]) - origin
        axis.plot(ends, ends, color=FAINT, linewidth=0.8)
        for name, predictions, colour in (
            (names[1], before, BEFORE),
            (names[0], after, AFTER),
        ):
            if predictions is not None:
                predicted, labelled = getattr(predictions, field) - origin
                axis.plot(
                    *(labelled, predicted, "."),
                    markersize=3,
                    color=colour,
                    label=name,
                    rasterized=labelled.size > MOST_DRAWN,
                )
        axis.set(xlabel=f"labelled {label} [{unit}]", ylabel=f"predicted {label} [{unit}]")
        axis.legend(frameon=False, markerscale=3)
    return figure


Panel = tuple[str, str, Array, dict[str, Array], "Array | None", "float | None"]
"""Title, unit of the coordinate, coordinate, energies by potential, labels, foot of a wall."""


def curves(panels: Sequence[Panel], zoomed: bool = False) -> Figure:
    """Plot energy curves, three panels in a row.

    Args:
        panels: See `Panel`; energies in eV.
        zoomed: Whether to show the energies around zero alone, as far as 10 eV up.
    """
    from matplotlib.figure import Figure

    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.2 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, (title, unit, values, energies, labels, wall) in zip(axes, panels, strict=False):
        for (name, found), colour in zip(
            energies.items(), (BEFORE, AFTER)[-len(energies) :], strict=True
        ):
            axis.plot(values, found, color=colour, label=name)
        if labels is not None:
            axis.plot(values, labels, "o", markersize=3, color="black", label="labels")
        if wall is not None:
            axis.axvline(wall, color=FAINT, linewidth=0.8, linestyle=":")
        if zoomed:
            finite = np.concatenate([found[np.isfinite(found)] for found in energies.values()])
            axis.set_ylim(min(float(finite.min(initial=0.0)), -0.5) - 0.5, 10.0)
        axis.set(title=title, xlabel=unit, ylabel="energy [eV]")
    for axis in axes[len(panels) :]:
        axis.remove()
    axes[0].legend(frameon=False)
    return figure


def calibration(found: Mapping[Quantity, Calibration]) -> Figure:
    """Plot, for each quantity, observed against expected fractions, and errors against deviations.

    The latter are root mean squares of ten bins of as many predictions, ordered by deviation. Both
    are shown with the deviations as they are and, where a scale was fitted, scaled.
    """
    from matplotlib.figure import Figure

    shape = (3.6 * max(len(found), 1), 6.8)
    figure = Figure(figsize=shape, layout="constrained")
    axes = figure.subplots(2, max(len(found), 1), squeeze=False)
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
    """Write a figure as a PNG, whole or not at all."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    write_atomically(path, buffer.getvalue())


def _figure(panels: int) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(4.2 * panels, 3.6), layout="constrained")
