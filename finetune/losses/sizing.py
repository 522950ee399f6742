"""Choose displacement sizes from the data: as far as a Taylor expansion can be trusted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from finetune.data.graphs import GraphBatch, batches
from finetune.losses.consistency import TaylorLoss
from finetune.losses.frozen_foundation import FrozenFoundation
from finetune.losses.loss import LossContext
from finetune.potentials.potential import Potential
from finetune.recipe.loss_options import (
    ChosenSize,
    DisplacementOptions,
    LossOptions,
    TaylorOptions,
    to_be_chosen,
)

STRUCTURES = 32
"""Training structures that the remainder is measured on, at most."""
SMALLEST = 1e-4
"""Å; below it the energy error carries no information, for example with too few energies."""


def chosen_sizes(
    losses: Mapping[str, LossOptions],
    potential: Potential,
    graphs: Sequence[GraphBatch],
    energy_error: float,
) -> dict[str, float]:
    """Return the size, Å, of each displacement that is to be chosen, rounded to two digits.

    The remainder is root mean square over structures and per atom, and grows with the square of the
    size: a few steps of the secant in double logarithms find the size. The potential has its final
    reference energies; ``graphs`` have a skin for the largest size, and ``energy_error`` is the
    root mean square error on them, eV/atom.
    """
    return {
        name: float(f"{_size(displaced, potential, graphs[:STRUCTURES], energy_error):.2g}")
        for name, displaced in to_be_chosen(losses).items()
    }


def with_sizes(
    losses: Mapping[str, LossOptions], sizes: Mapping[str, float]
) -> dict[str, LossOptions]:
    """Return the losses with the sizes of some displacements filled in."""
    found = dict(losses)
    for name, displaced in to_be_chosen(losses).items():
        resized = displaced.model_copy(update={"size": sizes[name]})
        found[name] = found[name].model_copy(update={"displacement": resized})
    return found


def _size(
    displaced: DisplacementOptions,
    potential: Potential,
    graphs: Sequence[GraphBatch],
    energy_error: float,
) -> float:
    assert isinstance(displaced.size, ChosenSize)
    wanted = displaced.size.fraction * energy_error
    foundation, size = FrozenFoundation(potential), displaced.size.largest
    for _ in range(8):
        resized = displaced.model_copy(update={"size": size})
        found = remainder(resized, foundation, graphs)
        if found <= wanted and size >= displaced.size.largest:
            return size
        ratio = wanted / max(found, 1e-12)
        size = min(max(size * ratio**0.5, SMALLEST), displaced.size.largest)
        if abs(ratio - 1.0) < 0.02:
            break
    return size


@torch.no_grad()
def remainder(
    displaced: DisplacementOptions, foundation: FrozenFoundation, graphs: Sequence[GraphBatch]
) -> float:
    """Return the foundation's Taylor remainder, root mean square over structures, eV/atom."""
    loss = TaylorLoss(TaylorOptions(displacement=displaced))
    generator = torch.Generator().manual_seed(0)
    potential, squares = foundation.potential, []
    for batch in batches(graphs, 16):
        moved = batch.to(potential.device, potential.dtype)
        context = LossContext(moved, potential, loss.requests(moved), generator, foundation)
        squares.append((loss.residual(context, 0) / moved.atoms).square())
    return float(torch.cat(squares).mean().sqrt())
