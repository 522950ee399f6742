"""Displacements of all atoms: the unlabelled configurations around each structure."""

from __future__ import annotations

import math

import torch

from finetune.data.graphs import GraphBatch
from finetune.losses.options import DisplacementOptions

GAUSSIAN_CUT = 3.0
"""Gaussian displacement vectors are cut at this many standard deviations."""


def reach(options: DisplacementOptions) -> float:
    """Return the largest distance, Å, that two atoms can move relative to each other."""
    longest = {
        "uniform": math.sqrt(3.0) * options.size,
        "sphere": options.size,
        "gaussian": GAUSSIAN_CUT * options.size,
    }
    return 2.0 * longest[options.kind]


def draw(
    options: DisplacementOptions, batch: GraphBatch, generator: torch.Generator
) -> torch.Tensor:
    """Draw a displacement ``[N, 3]``, Å, of every atom of a batch.

    The net translation of each structure is removed, because a drift of the whole structure says
    nothing about it; a single free atom therefore stays where it is.

    Args:
        options: Distribution and size.
        batch: The structures to displace.
        generator: A generator on the CPU, so that draws are the same on every device.
    """
    shape = (int(batch.numbers.numel()), 3)
    if options.kind == "uniform":
        drawn = (2 * torch.rand(shape, generator=generator, dtype=torch.float64) - 1) * options.size
    else:
        drawn = torch.randn(shape, generator=generator, dtype=torch.float64)
        length = drawn.norm(dim=1, keepdim=True)
        wanted = torch.ones_like(length) if options.kind == "sphere" else length
        wanted = wanted.clamp(max=GAUSSIAN_CUT)
        drawn = drawn / length.clamp(min=1e-12) * wanted * options.size
    drawn = drawn.to(device=batch.positions.device, dtype=batch.positions.dtype)
    mean = batch.sum_atoms(drawn) / batch.atoms[:, None]
    return drawn - mean[batch.structure]
