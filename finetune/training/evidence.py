"""Noise of the labels and size of the correction, from the labels alone: the marginal likelihood.

A Gaussian prior on the weights makes the labels jointly Gaussian, with covariance a K + N: K is the
Gram matrix of their gradients, a the amplitude of the prior, N diagonal with one variance for each
kind of label. The amplitude and the variances that make the labels most probable balance fit and
restraint without a validation set (C. E. Rasmussen, C. K. I. Williams, Gaussian Processes for
Machine Learning, MIT Press 2006, chapter 5).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_solve, cholesky
from scipy.optimize import minimize

Array = NDArray[np.float64]

USUAL_NOISE = 0.01
"""Share of the variance of the labels around which a noise is expected …"""
SPREAD = 3.0
"""… and the standard deviation of its logarithm: wide, but a noise never vanishes."""
SMALLEST = 1e-20
"""Variance that labels have at least, where the foundation is right on all of them."""
MOST_ROWS = 1000
"""Labels, of all kinds, that the evidence is computed on if there are more: evenly chosen."""


@dataclass(frozen=True)
class Evidence:
    """What makes the labels most probable.

    Attributes:
        amplitude: What the Gram matrix is multiplied by.
        noise: Variance of the noise of each kind of label, in the square of its unit.
    """

    amplitude: float
    noise: Array


def most_probable(gram: Array, targets: Array, kinds: NDArray[np.int64]) -> Evidence:
    """Maximise the marginal likelihood of ``targets`` under N(0, a·gram + diag(noise[kinds])).

    Each noise has a log-normal prior, see `USUAL_NOISE` and `SPREAD`.

    Args:
        gram: Gram matrix ``[R, R]`` of the targets' gradients, not all zero.
        targets: What is to be explained ``[R]``, of mean zero a priori.
        kinds: Kind of each target, 0, 1, … ``[R]``.
    """
    gram, targets, kinds = _thinned(gram, targets, kinds)
    count = int(kinds.max()) + 1
    variances = np.array([np.mean(targets[kinds == kind] ** 2) for kind in range(count)])
    variances = np.maximum(variances, max(1e-12 * variances.max(), SMALLEST))
    usual = np.log(USUAL_NOISE * variances)
    start = np.log(np.sum(variances[kinds]) / np.trace(gram))

    def misfit(logarithms: Array) -> float:
        amplitude, noise = np.exp(logarithms[0]), np.exp(logarithms[1:])
        surprise = 0.5 * float(np.sum(((logarithms[1:] - usual) / SPREAD) ** 2))
        return surprise - log_likelihood(amplitude * gram, noise[kinds], targets)

    found = minimize(misfit, np.array([start, *usual]), method="Nelder-Mead").x
    return Evidence(float(np.exp(found[0])), np.exp(found[1:]))


def log_likelihood(covariance: Array, noise: Array, targets: Array) -> float:
    """Return ln N(targets | 0, covariance + diag(noise)); −inf where that is not a covariance."""
    try:
        factor = cholesky(covariance + np.diag(noise), lower=True)
    except (LinAlgError, ValueError):
        return -np.inf
    explained = targets @ cho_solve((factor, True), targets)
    constant = len(targets) * np.log(2 * np.pi)
    return float(-0.5 * (explained + constant) - np.sum(np.log(np.diag(factor))))


def _thinned(
    gram: Array, targets: Array, kinds: NDArray[np.int64]
) -> tuple[Array, Array, NDArray[np.int64]]:
    if len(targets) <= MOST_ROWS:
        return gram, targets, kinds
    places = [np.flatnonzero(kinds == kind) for kind in range(int(kinds.max()) + 1)]
    wanted = [min(len(found), MOST_ROWS // len(places)) for found in places]
    chosen = [
        found[np.linspace(0, len(found) - 1, number).astype(int)]
        for found, number in zip(places, wanted, strict=True)
    ]
    kept = np.concatenate(chosen)
    return gram[np.ix_(kept, kept)], targets[kept], kinds[kept]
