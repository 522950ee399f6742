"""Displacements that heat excites: soft modes of a structure, and short bursts of dynamics."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from ase import units
from ase.data import atomic_masses

from finetune.data.graphs import GraphBatch, concatenate
from finetune.potentials.potential import Potential

STEP = 0.01
"""Å that the atoms move, together, in a finite difference of forces."""
STEPS = 24
"""Lanczos steps; a structure with fewer degrees of freedom takes fewer and is exact."""
NOTHING = 1e-6
"""Length below which what is left of a unit vector is rounding."""

TIME_STEP = 1.0
"""fs."""
FRICTION = 0.02
"""1/fs; strong, so that a short burst forgets that it started from rest positions."""


@dataclass(frozen=True)
class SoftModes:
    """Orthonormal directions ``[K, n, 3]`` of low curvature ``[K]``, eV/Å², softest first."""

    directions: torch.Tensor
    curvatures: torch.Tensor


def soft_modes(potential: Potential, structure: GraphBatch, count: int) -> SoftModes:
    """Estimate the ``count`` softest modes (float64) by Lanczos with finite differences of forces.

    The Hessian is never built: each step costs the forces of two displaced copies. With up to eight
    atoms the result is exact up to the finite difference; with more, each direction is a mixture of
    soft modes, which serves to displace atoms. Rotations of a free molecule are left out, as
    translations are; there are fewer modes where there are fewer degrees of freedom.
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
        if (vector := _orthogonal(motion.reshape(-1), kept)) is not None:
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


def thermal_displacements(
    potential: Potential, structure: GraphBatch, temperature: float, duration: float, largest: float
) -> torch.Tensor:
    """Return displacements ``[frames, n, 3]``, Å, float64, of Langevin dynamics from a structure.

    The integrator is BAOAB (Leimkuhler and Matthews, Appl. Math. Res. Express 2013, 34), with
    velocities of the temperature (K) at the start and noise that the structure alone decides. Net
    translation is removed. There is a frame every femtosecond from the fifth part of ``duration``
    (fs) on. The burst ends early where an atom has moved by more than ``largest`` (Å, at most half
    of the skin); a first frame that does is scaled down.
    """
    noise = torch.Generator().manual_seed(int(structure.identity) % 2**63)
    positions = structure.positions
    masses = torch.as_tensor(atomic_masses[structure.numbers.cpu().numpy()])[:, None]
    masses = masses.to(positions.device)
    spread = (units.kB * temperature / masses).sqrt()

    def random() -> torch.Tensor:
        drawn = torch.randn(masses.shape[0], 3, generator=noise, dtype=torch.float64)
        return spread * drawn.to(positions.device)

    def acceleration(moved: torch.Tensor) -> torch.Tensor:
        copy = structure.displaced(moved.to(positions.dtype))
        forces = potential(copy, forces=True, create_graph=False).forces
        assert forces is not None
        return forces.detach().double() / masses

    step = TIME_STEP * units.fs
    kept = math.exp(-FRICTION * TIME_STEP)
    moved, velocity = torch.zeros_like(positions, dtype=torch.float64), random()
    pull = acceleration(moved)
    frames: list[torch.Tensor] = []
    steps = max(1, round(duration / TIME_STEP))
    for _ in range(steps):
        velocity = velocity + 0.5 * step * pull
        moved = moved + 0.5 * step * velocity
        velocity = kept * velocity + math.sqrt(1.0 - kept**2) * random()
        moved = moved + 0.5 * step * velocity
        shown = moved - moved.mean(dim=0)
        furthest = float(shown.norm(dim=1).max())
        if furthest > largest:
            frames = frames or [shown * (largest / furthest)]
            break
        pull = acceleration(shown)
        velocity = velocity + 0.5 * step * pull
        frames.append(shown)
    return torch.stack(frames[max(steps // 5 - 1, 0) :] or frames[-1:])
