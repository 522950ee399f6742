"""Short bursts of molecular dynamics, to displace atoms as heat does."""

from __future__ import annotations

import math

import torch
from ase import units
from ase.data import atomic_masses

from finetune.data.graphs import GraphBatch
from finetune.potentials.potential import Potential

TIME_STEP = 1.0
"""fs."""
FRICTION = 0.02
"""1/fs; strong, so that a short burst forgets that it started from rest positions."""


def thermal_displacements(
    potential: Potential,
    structure: GraphBatch,
    temperature: float,
    duration: float,
    largest: float,
) -> torch.Tensor:
    """Run Langevin dynamics from a structure and return how far its atoms were at each frame.

    The integrator is BAOAB (Leimkuhler and Matthews, Appl. Math. Res. Express 2013, 34), with
    velocities of the temperature at the start and noise that the structure alone decides. Net
    translation is taken out. The burst ends early where an atom has moved by more than ``largest``.

    Args:
        potential: In evaluation mode.
        structure: A batch of one, whose edges have a skin of at least twice ``largest``.
        temperature: K.
        duration: fs; a frame every femtosecond from the fifth part of it on.
        largest: Å.

    Returns:
        Displacements ``[frames, n, 3]``, Å, float64, at least one frame; where the first frame
        is already too far, that frame scaled down to ``largest``.
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
