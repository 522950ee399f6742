"""Displacements stay within their size, do not drift, and repeat with the generator."""

from dataclasses import replace

import pytest
import torch
from ase.build import molecule

from finetune.data.graphs import GraphBatch, concatenate, graph
from finetune.data.structures import Structure
from finetune.losses.frozen_foundation import FrozenFoundation
from finetune.losses.perturbation import draw, draw_strain, reach, strain_reach
from finetune.potentials.loading import load_foundation
from finetune.potentials.mace.potential import MacePotential
from finetune.recipe.loss_options import DisplacementOptions, Schedule
from tests.conftest import structure
from tests.tolerances import ROUNDING_ENERGY, ROUNDING_FORCES

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


ALL_KINDS = [*KINDS, "adversarial", "soft_modes", "thermal"]


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_reused_neighbour_lists_give_the_energies_and_forces_of_rebuilt_ones(
    kind: str, mixed: list[Structure], potential: MacePotential
) -> None:
    options = DisplacementOptions(kind=kind, size=0.2)
    skinned = concatenate([graph(item, potential.cutoff, reach(options)) for item in mixed])
    generator, teacher = torch.Generator().manual_seed(3), FrozenFoundation(potential)
    error = torch.randn(skinned.positions.shape, generator=generator, dtype=torch.float64)
    moved = draw(options, skinned, generator, foundation=teacher, force_error=error)
    _assert_same_as_rebuilt(skinned.displaced(moved), mixed, potential)


def test_strained_neighbour_lists_give_the_energies_and_forces_of_rebuilt_ones(
    mixed: list[Structure], potential: MacePotential
) -> None:
    skin = strain_reach(0.05, potential.cutoff)
    skinned = concatenate([graph(item, potential.cutoff, skin) for item in mixed])
    strain = draw_strain(0.05, skinned, torch.Generator().manual_seed(1))
    assert torch.equal(strain, strain.transpose(1, 2))
    assert 0.04 < strain.abs().max().item() <= 0.05
    _assert_same_as_rebuilt(skinned.strained(strain), mixed, potential)


def _assert_same_as_rebuilt(
    copies: GraphBatch, mixed: list[Structure], potential: MacePotential
) -> None:
    rebuilt = [
        replace(
            item,
            positions=copies.positions[copies.structure == index].numpy(),
            cell=copies.cell[index].numpy(),
            stress=None,
        )
        for index, item in enumerate(mixed)
    ]
    kept = potential(copies)
    anew = potential(concatenate([graph(item, potential.cutoff) for item in rebuilt]))
    assert copies.edge_index.shape[1] > len(anew.energy)
    torch.testing.assert_close(kept.energy, anew.energy, atol=ROUNDING_ENERGY, rtol=0)
    torch.testing.assert_close(kept.forces, anew.forces, atol=ROUNDING_FORCES, rtol=0)


def test_adversarial_displacements_follow_the_force_error(mixed_graphs: list[GraphBatch]) -> None:
    batch, generator = mixed_graphs[0], torch.Generator().manual_seed(0)
    error = torch.randn(batch.positions.shape, generator=generator, dtype=torch.float64)
    error -= error.mean(dim=0)
    options = DisplacementOptions(kind="adversarial", size=0.1)
    moved = draw(options, batch, generator, force_error=error)
    torch.testing.assert_close(moved, 0.1 * error / error.norm(dim=1).max())
    at_random = draw(options, batch, generator, force_error=torch.zeros_like(error))
    assert 0.01 < at_random.norm(dim=1).max().item() < 0.2  # no error yet: any direction


@pytest.mark.slow
def test_soft_displacements_cost_less_energy_than_random_ones() -> None:
    potential = load_foundation("tiny-xtb-hcno").potential
    batch = graph(structure(molecule("CH3CH2OH")), potential.cutoff, 0.1)
    generator, teacher = torch.Generator().manual_seed(0), FrozenFoundation(potential)
    base, risen = potential(batch), {}
    for kind in ("sphere", "soft_modes"):
        total = 0.0
        for _ in range(10):
            moved = draw(DisplacementOptions(kind=kind), batch, generator, foundation=teacher)
            moved *= 0.05 / moved.norm()
            there = potential(batch.displaced(moved)).energy - base.energy
            total += (there + (moved * base.forces).sum()).abs().item()
        risen[kind] = total
    assert risen["soft_modes"] < 0.1 * risen["sphere"]


def test_sizes_follow_their_schedule(mixed_graphs: list[GraphBatch]) -> None:
    schedule = Schedule(kind="linear", first=0.2, last=0.1)
    options = DisplacementOptions(kind="sphere", size=schedule)
    assert reach(options) == 0.4
    drawn = [
        draw(options, mixed_graphs[0], torch.Generator().manual_seed(0), progress).norm().item()
        for progress in (0.0, 0.5, 1.0)
    ]
    assert drawn[0] == pytest.approx(2 * drawn[2])
    assert drawn[1] == pytest.approx(1.5 * drawn[2])


def test_what_a_kind_needs_is_asked_for(mixed_graphs: list[GraphBatch]) -> None:
    generator = torch.Generator()
    for kind, message in (
        ("adversarial", "need the force error"),
        ("thermal", "thermal displacements need the foundation"),
        ("soft_modes", "soft_modes displacements need the foundation"),
    ):
        with pytest.raises(ValueError, match=message):
            draw(DisplacementOptions(kind=kind), mixed_graphs[0], generator)
    undecided = DisplacementOptions.model_validate({"size": {"fraction": 0.5}})
    with pytest.raises(ValueError, match="has to be chosen from the data"):
        draw(undecided, mixed_graphs[0], generator)
    with pytest.raises(ValueError, match="`temperature` belongs to `kind: thermal`"):
        DisplacementOptions(kind="uniform", temperature=500.0)
