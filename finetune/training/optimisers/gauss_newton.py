"""Gauss-Newton steps to the most probable weights: fine-tuning on few labels as a linear solve.

With fewer labels than weights many changes of the weights w fit the labels exactly. The most
probable one, given a Gaussian prior around the foundation's w₀ and Gaussian noise, minimises

    Σ_k |y_k − ŷ_k(w)|² / σ_k² + (w − w₀)ᵀ S⁻¹ (w − w₀) / a.

Each step linearises the predictions ŷ at the present weights and solves for as many unknowns as
there are labels: with J the gradients of the predictions, w − w₀ = a S Jᵀ (a J S Jᵀ + N)⁻¹ t,
t = y − ŷ + J (w − w₀) (the Levenberg-Marquardt step in its dual form; for the foundation's tangent
kernel see A. Jacot, F. Gabriel, C. Hongler, Neural Tangent Kernel, NeurIPS 2018). S gives every
tensor of weights the same share in the prior variance of the labels. The amplitude a and the noise
of each kind of label are the most probable ones, see `most_probable`: there is no learning rate,
length or weight to choose.

What reference energies could explain carries no information on the amplitude, so the evidence uses
only the rest (restricted likelihood); the weights then move so that it vanishes. Net forces and
torques carry none either: a potential that is invariant to translation and rotation has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_solve, cholesky
from scipy.optimize import minimize

from finetune.adapters.adapter import AdaptedPotential
from finetune.core.devices import free_memory
from finetune.core.errors import DataError, RecipeError, TrainingError
from finetune.core.process import process_count
from finetune.core.text import counted
from finetune.data.structures import Structure, geometry_hash
from finetune.recipe.loss_options import SUPERVISED
from finetune.recipe.optimisers import used_labels
from finetune.recipe.recipe import Recipe
from finetune.training.optimisers.label_rows import (
    Counted,
    Rows,
    bases,
    energy_rows,
    fill,
    label_rows,
    without_copies,
)
from finetune.training.optimisers.optimiser import Optimiser, Piece, StepOutcome

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


LEAST_LABELS = 3
"""Labels that a restraint can be chosen from."""
VECTORS = 8
"""Vectors of all weights that a step needs in addition to the gradients."""
HALVINGS = 6
"""How often a step that raises the objective is halved before it is given up."""
OFFSET_STEPS = 4
"""Corrections of the mean energies after a step."""
ROUNDING = 1e-12
"""Share of the mean variance of labels added to each, for copies with different labels."""
NOTHING = 1e-20
"""Share of the squared gradients up to which they are rounding."""
SMALLEST_GRADIENTS = 1e-10
"""Tensors of weights whose gradients are smaller than this share of the largest stay put."""


class GaussNewton(Optimiser):
    """Takes Gauss-Newton steps on all labels at once.

    The learning rate is the share of each step that is taken.
    """

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """See `Optimiser.build`; torch's optimiser holds the share of each step, no moments."""
        self.sizes = [parameter.numel() for parameter in self.parameters]
        self.used = used_labels({n: loss.options for n, loss in self.total.losses.items()})
        self.origin = self._weights()
        return torch.optim.SGD(groups, lr=self.settings.learning_rate)

    @classmethod
    def check(
        cls, recipe: Recipe, structures: Sequence[Structure], adapted: AdaptedPotential
    ) -> None:
        """Refuse what cannot be solved at once."""
        if process_count() > 1:
            raise RecipeError(
                "train.optimiser=gauss-newton works in one process. Run it without torchrun or "
                "accelerate, or set train.optimiser=adamw."
            )
        used = used_labels(recipe.losses)
        different = {geometry_hash(item): item for item in structures}.values()
        energies = [item for item in different if item.energy is not None and "energy" in used]
        further = sum(
            (3 * len(item) - _rigid_motions(item)) * (item.forces is not None and "forces" in used)
            + 6 * (item.stress is not None and "stress" in used)
            for item in different
        )
        elements = sorted({int(number) for item in energies for number in item.numbers})
        counts = [[int((item.numbers == number).sum()) for number in elements] for item in energies]
        offsets = int(np.linalg.matrix_rank(counts)) if counts else 0
        free = len(energies) - offsets
        if free + further < LEAST_LABELS:
            raise DataError(
                f"train.optimiser=gauss-newton learns from {counted(free, 'label')} of different "
                "structures beyond those that fix the reference energies; it needs "
                f"{LEAST_LABELS}. Add labels, or set train.optimiser=adamw."
            )
        tensors = [item.numel() for item in adapted.trainable_parameters().values()]
        size, weights = 8 if recipe.train.precision == "float64" else 4, sum(tensors)
        rows = len(energies) + further
        gradients = rows * weights + len(energies) * max(tensors)
        needed = (gradients + (3 * offsets + VECTORS) * weights) * size + 6 * rows**2 * 8
        there = free_memory(adapted.potential.device)
        if needed > there:
            raise RecipeError(
                f"train.optimiser=gauss-newton needs {needed / 2**30:.1f} GiB for the gradients of "
                f"{rows:,} labels by {weights:,} weights, and there are "
                f"{there / 2**30:.1f}. Use train.precision=float32, take fewer structures, leave "
                "forces out (losses.forces.weight=0), train fewer weights (adapter readout or "
                "lora), or set train.optimiser=adamw."
            )

    def pieces(self, structures: int) -> int:
        """Return the batches of all training structures."""
        return -(-structures // self.settings.batch_size)

    def step(self, pieces: Sequence[Piece], progress: float) -> StepOutcome:
        """See `Optimiser.step`; the weights stay where nothing lowers the objective."""
        means, weights = self._means(pieces, progress), self.total.weights(progress)
        counted = without_copies([piece.batch for piece in pieces])
        rows = label_rows(self.potential, counted, self.used, self.parameters)
        before = self._weights()
        problem = Linearised(rows, self.sizes, before - self.origin)
        step = self.origin + problem.solution - before
        rate = float(self.torch.param_groups[0]["lr"])
        best = problem.objective(rows.residuals, before - self.origin)
        for _ in range(HALVINGS + 1):
            self._set(before + rate * step)
            self._restore_offsets(counted, problem)
            after = label_rows(self.potential, counted, self.used).residuals
            if problem.objective(after, self._weights() - self.origin) < best:
                break
            rate /= 2
        else:
            self._set(before)
        noise = {
            SUPERVISED[kind]: float(problem.noise[rows.kinds == kind][0]) ** 0.5
            for kind in torch.unique(rows.kinds).tolist()
        }
        return StepOutcome(means, weights, float((self._weights() - before).norm()), noise=noise)

    def _means(self, pieces: Sequence[Piece], progress: float) -> dict[str, float]:
        """Return the losses as they are before the step."""
        counts = [self.total.counts(piece.batch) for piece in pieces]
        means: dict[str, float] = {}
        for piece, count in zip(pieces, counts, strict=True):
            shares = {
                name: number / sum(other[name] for other in counts)
                for name, number in count.items()
                if number
            }
            value = self.total(
                piece.batch,
                self.potential,
                piece.generators,
                self.foundation,
                progress=progress,
                shares=shares,
            )
            for name, part in value.parts.items() if value else ():
                means[name] = means.get(name, 0.0) + shares[name] * float(part.detach())
        return means

    def _restore_offsets(self, pieces: Sequence[Counted], problem: Linearised) -> None:
        """Take away what reference energies explain, by the least move of the weights."""
        if not problem.offsets.shape[1]:
            return
        for _ in range(OFFSET_STEPS):
            gradients = self.origin.new_zeros(problem.offsets.shape[1], len(self.origin))
            part = torch.empty_like(gradients)
            missing, first = problem.offsets.new_zeros(len(gradients)), 0
            for piece in pieces:
                labels, energies = energy_rows(self.potential, piece)
                basis = problem.offsets[first : first + len(labels)]
                first += len(labels)
                missing += basis.T @ (labels - energies.detach())
                fill(part, basis.T @ energies, self.parameters)
                gradients += part
            scaled = gradients * problem.prior
            move = torch.linalg.lstsq(gradients @ scaled.T, missing.to(scaled)).solution
            self._set(self._weights() + scaled.T @ move)

    def _weights(self) -> torch.Tensor:
        return torch.cat([parameter.detach().reshape(-1) for parameter in self.parameters])

    @torch.no_grad()
    def _set(self, weights: torch.Tensor) -> None:
        for parameter, part in zip(self.parameters, torch.split(weights, self.sizes), strict=True):
            parameter.copy_(part.view_as(parameter))


class Linearised:
    """The problem linearised at the present weights, and its solution.

    Args:
        rows: Labels, residuals and gradients there.
        sizes: Number of weights of each tensor.
        moved: Change of the weights so far ``[P]``.

    Attributes:
        offsets: Orthonormal basis of what reference energies can explain ``[energies, q]``.
        prior: Variance of each weight a priori ``[P]``.
        noise: Variance of the noise of each label ``[R]``.
        solution: The most probable change of the weights ``[P]``.
    """

    def __init__(self, rows: Rows, sizes: Sequence[int], moved: torch.Tensor) -> None:
        self.offsets, rest = bases(rows.composition)
        tensors = torch.split(rows.gradients, list(sizes), dim=1)
        spreads = [self._spread(part) for part in tensors]
        if max(spreads) <= NOTHING * _square(rows.gradients):
            raise TrainingError(
                "the trained weights change nothing but what reference energies explain, which "
                "train.optimiser=gauss-newton leaves to them. Set train.optimiser=adamw."
            )
        shares = [1 / x if x > SMALLEST_GRADIENTS * max(spreads) else 0.0 for x in spreads]
        share = torch.cat([moved.new_full((n,), x) for n, x in zip(sizes, shares, strict=True)])
        gram = torch.zeros(len(rows.kinds), len(rows.kinds), dtype=torch.float64)
        gram = gram.to(rows.gradients.device)
        for part, x in zip(tensors, shares, strict=True):
            gram += x * (part @ part.T)
        targets = rows.residuals + (rows.gradients @ moved).double()
        stresses = int((rows.kinds == SUPERVISED.index("stress")).sum())
        blocks = [rest, *rows.internal, torch.eye(stresses)]
        seen: torch.Tensor = torch.block_diag(*(x.to(targets) for x in blocks))  # type: ignore[no-untyped-call]
        widths = (rest.shape[1], sum(block.shape[1] for block in rows.internal), stresses)
        present, kinds = torch.unique(
            torch.repeat_interleave(torch.arange(3), torch.tensor(widths)), return_inverse=True
        )
        found = most_probable(
            (seen.T @ gram @ seen).cpu().numpy(),
            (seen.T @ targets).cpu().numpy(),
            kinds.cpu().numpy(),
        )
        self.noise = USUAL_NOISE * (targets**2).mean().expand(len(targets)).clone()
        for kind, noise in zip(present.tolist(), found.noise.tolist(), strict=True):
            self.noise[rows.kinds == kind] = noise
        self.prior = found.amplitude * share
        covariance = found.amplitude * gram + torch.diag(self.noise)
        covariance.diagonal().add_(ROUNDING * covariance.diagonal().mean())
        multipliers = torch.linalg.solve(covariance, targets)
        self.solution = self.prior * (rows.gradients.T @ multipliers.to(moved))

    def objective(self, residuals: torch.Tensor, moved: torch.Tensor) -> float:
        """Return Σ residual² / noise + Σ change² / prior at other weights."""
        free = self.prior > 0
        penalty = (moved[free].double() ** 2 / self.prior[free].double()).sum()
        return float((residuals**2 / self.noise).sum() + penalty)

    def _spread(self, gradients: torch.Tensor) -> float:
        """Return the sum of squares of gradients without what reference energies can explain."""
        energies, basis = len(self.offsets), self.offsets.to(gradients)
        first = gradients[:energies]
        rest = torch.addmm(first, basis, basis.T @ first, alpha=-1)
        return _square(rest) + _square(gradients[energies:])


def _rigid_motions(structure: Structure) -> int:
    """Return the force components that are zero because moving and turning cost nothing."""
    return 3 if structure.pbc.any() else min(6, 3 * len(structure))


def _square(values: torch.Tensor) -> float:
    """Return the sum of squares, without a copy of them."""
    return float(torch.linalg.vector_norm(values)) ** 2
