"""Displacements stay within their size, do not drift, and repeat with the generator."""

import pytest
import torch

from finetune.data.graphs import GraphBatch, concatenate
from finetune.displacements import DisplacementOptions
from finetune.perturbation import draw, reach

KINDS = ["uniform", "sphere", "gaussian"]


@pytest.mark.parametrize("kind", KINDS)
def test_no_net_translation_and_seeded(kind: str, mixed_graphs: list[GraphBatch]) -> None:
    batch = concatenate(mixed_graphs)
    options = DisplacementOptions(kind=kind, size=0.1)
    first, again, other = (
        draw(options, batch, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert batch.sum_atoms(first).abs().max().item() < 1e-15
    free_atom = batch.structure == 3
    assert not first[free_atom].any()


@pytest.mark.parametrize("kind", KINDS)
def test_pairs_move_no_further_than_the_skin_allows(
    kind: str, mixed_graphs: list[GraphBatch]
) -> None:
    batch, generator = concatenate(mixed_graphs), torch.Generator().manual_seed(0)
    options = DisplacementOptions(kind=kind, size=0.1)
    furthest = 0.0
    for _ in range(200):
        moved = draw(options, batch, generator)
        for index in range(len(batch)):
            mine = moved[batch.structure == index]
            furthest = max(furthest, torch.cdist(mine, mine).max().item())
    assert 0.5 * reach(options) < furthest <= reach(options)


def test_uniform_draws_are_centred_and_fill_the_box(mixed_graphs: list[GraphBatch]) -> None:
    batch, generator = mixed_graphs[0], torch.Generator().manual_seed(0)
    options = DisplacementOptions(size=0.1)
    drawn = torch.stack([draw(options, batch, generator) for _ in range(2000)])
    assert abs(drawn.mean().item()) < 1e-3
    kept = (1 - 1 / 9) ** 0.5  # share of the spread left when nine atoms lose their mean
    assert drawn.std().item() == pytest.approx(kept * 0.1 / 3**0.5, rel=0.02)
