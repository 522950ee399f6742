"""Move reference energies to the level of theory of the labels.

Total energies of two methods differ by thousands of eV that depend on composition alone; a change
of the reference energies takes that away before any weight is trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from finetune.data.graphs import GraphBatch, batches
from finetune.errors import DataError
from finetune.foundation.potential import Potential

RIDGE = 1e-12
"""Strength of the pull towards no change, relative to the largest squared singular value of the
composition matrix. Compositions are whole numbers, so its singular values are far above a millionth
of the largest or exactly zero: what is identified is fitted, what is not stays as it was."""


@dataclass(frozen=True)
class ReferenceFit:
    """A fitted change of reference energies.

    Attributes:
        change: Atomic number -> change, eV.
        identified: Number of independent compositions among the labelled structures.
        unseen: Elements of the foundation that no labelled structure contains; left unchanged.
    """

    change: dict[int, float]
    identified: int
    unseen: tuple[int, ...]

    @property
    def ambiguous(self) -> bool:
        """Whether the labels fix fewer combinations of elements than there are elements."""
        return self.identified < len(self.change)


@torch.no_grad()
def estimate(
    potential: Potential, graphs: Sequence[GraphBatch], batch_size: int = 32
) -> ReferenceFit:
    """Fit the change of reference energies to the residual of the potential's energies.

    Solves min_x Σ_b (E_b − Ê_b − Σ_i x_{z_i})² + λ|x|² over the labelled structures b. With one
    composition only, the change is shared among the elements in proportion to their counts.

    Args:
        potential: The foundation, with reference energies that are to be corrected.
        graphs: Labelled structures on the CPU.
        batch_size: Structures evaluated at once.

    Raises:
        DataError: If no structure has an energy.
    """
    counts, residuals = [], []
    for batch in batches(graphs, batch_size):
        batch = batch.to(potential.device, potential.dtype)
        prediction = potential(batch, forces=False)
        counts.append(potential.composition(batch)[batch.has_energy].cpu())
        residuals.append((batch.energy - prediction.energy)[batch.has_energy].cpu())
    matrix, residual = torch.cat(counts), torch.cat(residuals)
    if not len(matrix):
        raise DataError(
            "reference energies cannot be estimated: no training structure has an energy. "
            "Set reference_energies=keep, or give energies."
        )
    left, singular, right = torch.linalg.svd(matrix, full_matrices=False)
    damped = singular / (singular**2 + RIDGE * singular[0] ** 2)
    change = right.T @ (damped * (left.T @ residual))
    seen = matrix.sum(dim=0) > 0
    elements = potential.elements
    return ReferenceFit(
        change={elements[i]: float(change[i]) for i in range(len(elements)) if seen[i]},
        identified=int((singular > 1e-6 * singular[0]).sum()),
        unseen=tuple(elements[i] for i in range(len(elements)) if not seen[i]),
    )


def apply(potential: Potential, fit: ReferenceFit) -> None:
    """Add the fitted change to the potential's reference energies."""
    before = potential.references()
    potential.set_references({number: before[number] + fit.change[number] for number in fit.change})
