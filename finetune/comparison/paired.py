"""Differences between arms that share their seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

ROUNDING = 1e-6
"""Share of the largest difference up to which they are taken not to vary."""
LEVEL = 0.95
"""Of confidence intervals."""


@dataclass(frozen=True)
class Difference:
    """Paired difference to the baseline, over seeds.

    Attributes:
        mean: Mean difference.
        low: Lower end of its 95 % confidence interval (Student's t); None with one pair, and where
            the differences do not vary: seeds that change nothing are no repetition.
        high: Upper end.
        p: Two-sided p of a paired t-test; None where the differences do not vary.
        p_holm: The same after Holm's correction for the number of arms.
        pairs: Number of seeds that both have.
    """

    mean: float
    low: float | None
    high: float | None
    p: float | None
    p_holm: float | None
    pairs: int


def difference(values: Mapping[int, float], baseline: Mapping[int, float]) -> Difference | None:
    """Compare two arms by seed; None where they share none."""
    seeds = [seed for seed in values if seed in baseline]
    if not seeds:
        return None
    found = np.array([values[seed] - baseline[seed] for seed in seeds])
    mean, count = float(found.mean()), len(seeds)
    if count < 2:
        return Difference(mean, None, None, None, None, count)
    if not np.ptp(found) > ROUNDING * np.abs(found).max():
        return Difference(mean, None, None, None, None, count)
    test = stats.ttest_1samp(found, 0.0)
    interval = test.confidence_interval(LEVEL)
    return Difference(
        mean, float(interval.low), float(interval.high), float(test.pvalue), None, count
    )


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Correct p values for their number (Holm, Scand. J. Stat. 6, 65 (1979)); None stays None."""
    known = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    found: list[float | None] = [None] * len(p_values)
    least = 0.0
    for rank, (p, place) in enumerate(known):
        least = max(least, min(1.0, p * (len(known) - rank)))
        found[place] = least
    return found
