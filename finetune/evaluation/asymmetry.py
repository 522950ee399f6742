"""How far the forces of a head are from any gradient: the asymmetry of their Jacobian."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from finetune.data.graphs import GraphBatch
from finetune.potentials.committee import CommitteePotential
from finetune.potentials.potential import Potential

STRUCTURES, VECTORS = 8, 4
"""How many structures are measured at most, and random vectors for each."""


def jacobian_asymmetry(
    potential: Potential,
    graphs: Sequence[GraphBatch],
    structures: int = STRUCTURES,
    vectors: int = VECTORS,
    seed: int = 0,
) -> float | None:
    """Return ‖J − Jᵀ‖ / ‖J + Jᵀ‖ of the forces of a head, J = ∂F/∂r ``[3n, 3n]``.

    The Frobenius norms are estimated: for v with independent standard normal components
    E |(J ± Jᵀ) v|² = ‖J ± Jᵀ‖². Squares are summed over vectors and evenly spaced structures, so
    structures with large force constants count more. J is symmetric, and the ratio 0, exactly where
    forces are the gradient of an energy. The ratio is 1 where the antisymmetric part of J is as
    large as the symmetric one. None where forces do not depend on the positions.

    Raises FoundationError if the potential has no head for forces.
    """
    step = max(-(-len(graphs) // structures), 1)
    generator = torch.Generator().manual_seed(seed)
    odd = even = 0.0
    for graph in graphs[::step]:
        batch = graph.to(potential.device, potential.dtype)
        for _ in range(vectors):
            vector = torch.randn(batch.positions.shape, generator=generator, dtype=torch.float64)
            forwards, backwards = jacobian_products(potential, batch, vector.to(batch.positions))
            odd += float((forwards - backwards).double().square().sum())
            even += float((forwards + backwards).double().square().sum())
    return math.sqrt(odd / even) if even else None


def jacobian_products(
    potential: Potential, batch: GraphBatch, vector: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return J v and Jᵀ v ``[N, 3]``, eV/Å, of the forces of a head; v ``[N, 3]`` is in Å.

    Jᵀ v is the gradient of F · v by the positions. It is linear in v, and J u is the gradient of
    Jᵀ v · u by v. Of a committee they are the means over the members.
    """
    if isinstance(potential, CommitteePotential):
        found = [jacobian_products(item, batch, vector) for item in potential.predicting]
        first, second = (torch.stack(items).mean(dim=0) for items in zip(*found, strict=True))
        return first, second
    with torch.enable_grad():
        element = potential.element_index(batch.numbers)
        _, positions, _, forces = potential.interaction_and_forces(batch, element, strain=False)
        free = vector.clone().requires_grad_()
        if not forces.requires_grad:
            return torch.zeros_like(vector), torch.zeros_like(vector)
        (backwards,) = torch.autograd.grad(
            forces, positions, free, create_graph=True, materialize_grads=True
        )
        if not backwards.requires_grad:
            return torch.zeros_like(vector), torch.zeros_like(vector)
        (forwards,) = torch.autograd.grad(backwards, free, vector, materialize_grads=True)
    return forwards.detach(), backwards.detach()
