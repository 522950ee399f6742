"""Points that are far from each other."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
SAME = 1e-9
"""Distance up to which points are the same."""


def farthest(
    points: Array, count: int, known: Array | None = None
) -> tuple[list[int], list[float]]:
    """Choose points, each the farthest from all before.

    T. F. Gonzalez, Theor. Comput. Sci. 38, 293 (1985).

    Args:
        points: ``[n, d]``.
        count: How many, at most; fewer where the rest is there already.
        known: ``[k, d]``, chosen before. Without any, the first is the one nearest to the mean.

    Returns:
        The places of the points in the order chosen, and the distance of each from those before;
        for a first one that is the largest from it to any other.
    """
    chosen: list[int] = []
    far: list[float] = []
    distance = np.full(len(points), np.inf)
    if known is not None and len(known):
        for item in known:
            distance = np.minimum(distance, _distances(points, item))
    else:
        chosen.append(int(_distances(points, points.mean(axis=0)).argmin()))
        distance = _distances(points, points[chosen[0]])
        far.append(float(distance.max()))
    while len(chosen) < count and distance.max() > SAME:
        index = int(distance.argmax())
        chosen.append(index)
        far.append(float(distance[index]))
        distance = np.minimum(distance, _distances(points, points[index]))
    return chosen, far


def _distances(points: Array, item: Array) -> Array:
    found: Array = np.linalg.norm(points - item, axis=1)
    return found
