"""The soft directions of a structure, estimated from a few force evaluations."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from finetune.data.graphs import GraphBatch, concatenate
from finetune.potentials.potential import Potential

STEP = 0.01
"""Å that the atoms move, together, in a finite difference of forces."""
STEPS = 24
"""Lanczos steps; a structure with fewer degrees of freedom takes fewer and is exact."""
NOTHING = 1e-6
"""Length below which what is left of a unit vector is rounding."""


@dataclass(frozen=True)
class SoftModes:
    """Directions of low curvature, softest first.

    Attributes:
        directions: Orthonormal ``[K, n, 3]``, without translation.
        curvatures: vᵀHv along them ``[K]``, eV/Å².
    """

    directions: torch.Tensor
    curvatures: torch.Tensor


def soft_modes(potential: Potential, structure: GraphBatch, count: int) -> SoftModes:
    """Estimate the ``count`` softest modes by Lanczos with finite differences of forces.

    The Hessian is never built: each step costs the forces of two displaced copies. With up to
    eight atoms the result is exact up to the finite difference; with more, each direction is a
    mixture of soft modes, which serves to displace atoms. Rotations of a free molecule are left
    out, as translations are.

    Args:
        potential: In evaluation mode.
        structure: A batch of one.
        count: K; fewer are returned where there are not so many degrees of freedom.

    Returns:
        The modes in float64; none for a single atom.
    """
    rigid = _rigid_motions(structure)
    start = torch.Generator().manual_seed(int(structure.identity) % 2**63)
    size = 3 * len(structure.numbers)
    found: list[torch.Tensor] = []
    products: list[torch.Tensor] = []
    while len(found) < STEPS:
        others = [*rigid, *found]
        vector = _orthogonal(products[-1], others) if products else None
        if vector is None:  # the first step, or an invariant subspace is exhausted
            chance = torch.randn(size, generator=start, dtype=torch.float64)
            vector = _orthogonal(chance.to(rigid.device), others)
        if vector is None:
            break
        found.append(vector)
        products.append(_curvature(potential, structure, vector))
    if not found:
        return SoftModes(rigid.new_zeros(0, size // 3, 3), rigid.new_zeros(0))
    basis = torch.stack(found)
    projected = basis @ torch.stack(products).T
    curvatures, mixing = torch.linalg.eigh(0.5 * (projected + projected.T))
    return SoftModes(
        directions=(mixing.T @ basis)[:count].reshape(-1, size // 3, 3),
        curvatures=curvatures[:count],
    )


def _rigid_motions(structure: GraphBatch) -> torch.Tensor:
    """Return orthonormal translations, and rotations of a free structure ``[≤ 6, 3 n]``."""
    axes = torch.eye(3, dtype=torch.float64, device=structure.positions.device)
    positions = structure.positions.double()
    motions = [axis.expand_as(positions) for axis in axes]
    if not bool(structure.pbc.any()):
        centred = positions - positions.mean(dim=0)
        motions += [torch.linalg.cross(axis.expand_as(centred), centred) for axis in axes]
    kept: list[torch.Tensor] = []
    for motion in motions:
        vector = _orthogonal(motion.reshape(-1), kept)
        if vector is not None:
            kept.append(vector)
    return torch.stack(kept)


def _orthogonal(vector: torch.Tensor, others: list[torch.Tensor]) -> torch.Tensor | None:
    """Return the normalised part orthogonal to ``others``, or None if there is none."""
    length = vector.norm()
    if not length > 0:
        return None
    vector = vector / length
    for _ in range(2):  # once is not enough in floating point
        for other in others:
            vector = vector - (vector @ other) * other
    length = vector.norm()
    return vector / length if length > NOTHING else None


def _curvature(potential: Potential, structure: GraphBatch, vector: torch.Tensor) -> torch.Tensor:
    """Return Hv ``[3 n]``, eV/Å², by a central difference of forces."""
    step = (STEP * vector).reshape(-1, 3).to(structure.positions.dtype)
    copies = concatenate([structure.displaced(step), structure.displaced(-step)])
    forces = potential(copies, forces=True, create_graph=False).forces
    assert forces is not None
    plus, minus = forces.detach().double().reshape(2, -1)
    return (minus - plus) / (2 * STEP)
