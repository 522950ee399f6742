"""Displaced atoms and strained cells: the unlabelled configurations around each structure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from finetune.data.graphs import GraphBatch
from finetune.losses.frozen_foundation import FrozenFoundation
from finetune.losses.soft_modes import SoftModes
from finetune.recipe.loss_options import DisplacementOptions

GAUSSIAN_CUT = 3.0
"""Gaussian displacement vectors are truncated at this many standard deviations."""
NO_ERROR = 1e-4
"""eV/Å; force errors smaller than this, of all atoms together, are rounding in single precision."""
SOFTEST = 0.05
"""eV/Å²; softer modes, and unstable ones, are drawn as if they had this curvature."""

Generators = torch.Generator | Sequence[torch.Generator]
"""On the CPU, so that draws are the same on every device: one for all structures of a batch, or one
for each, so that what a structure draws does not depend on the others."""


def reach(options: DisplacementOptions) -> float:
    """Return the largest distance, Å, that two atoms can move relative to each other."""
    longest = {"uniform": math.sqrt(3.0), "gaussian": GAUSSIAN_CUT}.get(options.kind, 1.0)
    return 2.0 * longest * options.peak_size


def strain_reach(largest: float, cutoff: float) -> float:
    """Return the skin, Å, that strains with components up to ``largest`` need.

    No eigenvalue exceeds three times the largest component.
    """
    return cutoff / (1.0 - 3.0 * largest) - cutoff


def draw(
    options: DisplacementOptions,
    batch: GraphBatch,
    generator: Generators,
    progress: float = 1.0,
    foundation: FrozenFoundation | None = None,
    force_error: torch.Tensor | None = None,
) -> torch.Tensor:
    """Draw a displacement ``[N, 3]``, Å, of every atom of a batch, without net translation.

    Kinds ``soft_modes`` and ``thermal`` need the foundation, ``adversarial`` needs ``force_error``,
    eV/Å. Raises a ValueError where it is absent, or the size is still to be chosen.
    """
    size = options.size_at(progress)
    generators = _each(generator, batch)
    if options.kind == "adversarial":
        if force_error is None:
            raise ValueError("adversarial displacements need the force error")
        drawn = _scaled(_or_random(force_error.double().cpu(), batch, generators), batch) * size
    elif options.kind in {"soft_modes", "thermal"}:
        if foundation is None:
            raise ValueError(f"{options.kind} displacements need the foundation")
        if options.kind == "thermal":
            drawn = _thermal(foundation.bursts(batch, options), generators, size)
        else:
            modes = foundation.soft_modes(batch, options.modes)
            drawn = _scaled(_soft(modes, generators, options.modes), batch) * size
    else:
        drawn = _random(options.kind, batch, generators) * size
    drawn = drawn.to(device=batch.positions.device, dtype=batch.positions.dtype)
    mean = batch.sum_atoms(drawn) / batch.atoms[:, None]
    return drawn - mean[batch.structure]


def draw_strain(largest: float, batch: GraphBatch, generator: Generators) -> torch.Tensor:
    """Draw a symmetric strain ``[B, 3, 3]`` for every structure, components up to ``largest``."""
    drawn = torch.stack([_of((3, 3), torch.rand, each) for each in _each(generator, batch)])
    upper = torch.triu((2 * drawn - 1) * largest)
    symmetric = upper + torch.triu(upper, diagonal=1).transpose(1, 2)
    return symmetric.to(device=batch.positions.device, dtype=batch.positions.dtype)


def _each(generator: Generators, batch: GraphBatch) -> Sequence[torch.Generator]:
    return [generator] * len(batch) if isinstance(generator, torch.Generator) else generator


def _of(
    shape: tuple[int, ...], draw: Callable[..., torch.Tensor], generator: torch.Generator
) -> torch.Tensor:
    return draw(shape, generator=generator, dtype=torch.float64)


def _random(kind: str, batch: GraphBatch, generators: Sequence[torch.Generator]) -> torch.Tensor:
    """Draw random displacements of unit size."""
    draw = torch.rand if kind == "uniform" else torch.randn
    sizes = batch.atoms.tolist()
    drawn = torch.cat([_of((n, 3), draw, g) for n, g in zip(sizes, generators, strict=True)])
    if kind == "uniform":
        return 2 * drawn - 1
    length = drawn.norm(dim=1, keepdim=True)
    wanted = torch.ones_like(length) if kind == "sphere" else length.clamp(max=GAUSSIAN_CUT)
    return drawn / length.clamp(min=1e-12) * wanted


def _or_random(
    direction: torch.Tensor, batch: GraphBatch, generators: Sequence[torch.Generator]
) -> torch.Tensor:
    """Use random directions where a structure has no force error, as at the start."""
    structure = batch.structure.cpu()
    chance = _random("sphere", batch, generators)
    length = torch.zeros(len(batch), dtype=torch.float64)
    length.index_add_(0, structure, direction.square().sum(dim=1))
    return torch.where((length > NO_ERROR**2)[structure, None], direction, chance)


def _scaled(direction: torch.Tensor, batch: GraphBatch) -> torch.Tensor:
    """Scale each structure's displacement so that the atom that moves most moves by 1."""
    structure = batch.structure.cpu()
    length = direction.norm(dim=1)
    largest = torch.zeros(len(batch), dtype=torch.float64)
    largest.scatter_reduce_(0, structure, length, reduce="amax")
    return direction / largest.clamp(min=1e-12)[structure, None]


def _soft(
    found: Sequence[SoftModes], generators: Sequence[torch.Generator], count: int
) -> torch.Tensor:
    """Mix soft modes with the amplitudes of equipartition, 1/√curvature."""
    mixed = []
    for modes, generator in zip(found, generators, strict=True):
        amplitude = _of((count,), torch.randn, generator)
        curvature = modes.curvatures.cpu().clamp(min=SOFTEST)
        amplitude = amplitude[: len(curvature)] / curvature.sqrt()
        mixed.append(torch.einsum("k,kni->ni", amplitude, modes.directions.cpu()))
    return torch.cat(mixed)


def _thermal(
    bursts: Sequence[torch.Tensor], generators: Sequence[torch.Generator], size: float
) -> torch.Tensor:
    """Take a frame of each structure's burst at random; too long ones are scaled down."""
    taken = []
    for frames, generator in zip(bursts, generators, strict=True):
        frame = frames[int(torch.randint(len(frames), (1,), generator=generator))].cpu()
        furthest = frame.norm(dim=1).max().clamp(min=1e-12)
        taken.append(frame * torch.clamp(size / furthest, max=1.0))
    return torch.cat(taken)
