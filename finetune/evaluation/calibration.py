"""Whether the standard deviations of a committee have the size of its errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from rich.table import Table
from rich.text import Text
from scipy.integrate import trapezoid
from scipy.special import ndtri

from finetune.evaluation.tables import cell, new_table
from finetune.potentials.errors import Array, LabelledPredictions

Quantity = Literal["energy", "forces"]
TITLES: dict[Quantity, tuple[str, str]] = {
    "energy": ("energy per atom", "eV/atom"),
    "forces": ("force components", "eV/Å"),
}
LEVELS = np.linspace(0.0, 1.0, 101)
"""Fractions of errors that are expected within an interval."""

ROUNDING = 1e-9
"""Relative difference below which numbers count as equal."""


@dataclass(frozen=True)
class Calibration:
    """Errors of a committee's mean and its standard deviations."""

    errors: Array  # mean minus label [n], eV/atom or eV/Å
    deviations: Array  # over the members [n]
    scale: float | None = None  # factor on the deviations, fitted on validation

    def observed(self, scale: float = 1.0) -> Array:
        """Return the fraction of errors within the interval expected to contain each of `LEVELS`.

        The intervals are those of a normal distribution around the mean.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            size = np.where(self.errors == 0, 0.0, np.abs(self.errors) / (scale * self.deviations))
        limits = ndtri((1 + LEVELS) / 2)
        found: Array = (size[:, None] <= limits).mean(axis=0)
        return found

    def area(self, scale: float = 1.0) -> float:
        """Return the mean of |observed − expected fraction| (doi:10.1088/2632-2153/ab7e1a)."""
        return float(trapezoid(np.abs(self.observed(scale) - LEVELS), LEVELS))

    @property
    def spearman(self) -> float | None:
        """Rank correlation of the sizes of errors and deviations; None where either is constant."""
        sizes = np.abs(self.errors)
        constant = [np.ptp(item) <= ROUNDING * item.max() for item in (sizes, self.deviations)]
        if len(sizes) < 3 or any(constant):
            return None
        from scipy.stats import spearmanr  # takes a second

        return float(spearmanr(sizes, self.deviations).statistic)

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers, ready for JSON."""
        return {
            "count": len(self.errors),
            "rmse": float(np.sqrt(np.square(self.errors).mean())),
            "deviation": float(np.sqrt(np.square(self.deviations).mean())),
            "spearman": self.spearman,
            "miscalibration_area": self.area(),
            "scale": self.scale,
            "scaled_miscalibration_area": None if self.scale is None else self.area(self.scale),
        }


def mean(members: Sequence[LabelledPredictions]) -> LabelledPredictions:
    """Return the predictions of the members' mean on the same labels."""
    averaged = {
        name: np.stack([_predicted(members, name).mean(axis=0), getattr(members[0], name)[1]])
        for name in ("energy", "forces", "stress", "gradient_forces")
    }
    both = [item.consistency for item in members]
    averaged["consistency"] = np.mean(both, axis=0)
    return replace(members[0], **averaged)


def calibrations(
    members: Sequence[LabelledPredictions], scale: Mapping[Quantity, float | None]
) -> dict[Quantity, Calibration]:
    """Return errors and deviations of what has labels: energies per atom, force components."""
    found: dict[Quantity, Calibration] = {}
    for quantity in TITLES:
        predicted, labels = _predicted(members, quantity), getattr(members[0], quantity)[1]
        if labels.size:
            size = members[0].atoms if quantity == "energy" else np.ones(len(labels))
            found[quantity] = Calibration(
                (predicted.mean(axis=0) - labels) / size,
                predicted.std(axis=0) / size,
                scale.get(quantity),
            )
    return found


def fitted_scales(members: Sequence[LabelledPredictions]) -> dict[Quantity, float | None]:
    """Return the factors that make the miscalibration area smallest, on validation structures.

    None without labels, or where all members agree. (The maximum-likelihood factor, the root mean
    square of error over deviation, depends on the few structures on which members happen to agree.)
    """
    scales: dict[Quantity, float | None] = dict.fromkeys(TITLES)
    for quantity, item in calibrations(members, {}).items():
        sizes = np.abs(item.errors)
        known = (item.deviations > ROUNDING * sizes.max()) & (sizes > 0)
        if known.any():
            ends = np.quantile(sizes[known] / item.deviations[known], [0.05, 0.95])
            tried = np.geomspace(ends[0], max(ends[1], 1.001 * ends[0]), 200)
            scales[quantity] = float(min(tried, key=item.area))
    return scales


def table(found: Mapping[Quantity, Calibration], source: str) -> Table:
    """Return the numbers as a table for the terminal."""
    shown = new_table(
        f"uncertainty of the committee: {source}",
        ["quantity"],
        ["RMSE", "RMS std", "rank corr.", "miscal. area", "× scale", "area scaled"],
        "scale: factor on the standard deviation, fitted on the validation set",
    )
    for quantity, item in found.items():
        title, unit = TITLES[quantity]
        shown.add_row(Text(f"{title} [m{unit}]"), *rounded(item))
    return shown


def rounded(item: Calibration) -> list[str]:
    """Return the numbers of a row as text, errors and deviations in thousandths."""
    numbers = item.as_dict()
    keys = ("spearman", "miscalibration_area", "scale", "scaled_miscalibration_area")
    sizes = [cell(numbers[key], 1, 1000) for key in ("rmse", "deviation")]
    return [*sizes, *(cell(numbers[key]) for key in keys)]


def _predicted(members: Sequence[LabelledPredictions], quantity: str) -> Array:
    return np.stack([getattr(item, quantity)[0] for item in members])
