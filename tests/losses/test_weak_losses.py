"""PITC and PISC against hand calculations on harmonic wells, and on MACE."""

import pytest
import torch

from finetune.data.graphs import GraphBatch, concatenate, graph
from finetune.foundation.mace import MacePotential
from finetune.foundation.potential import Potential
from finetune.losses.context import LossContext
from finetune.losses.options import SpatialOptions, TaylorOptions
from finetune.losses.spatial import SpatialLoss
from finetune.losses.taylor import TaylorLoss
from finetune.testing import HarmonicPotential
from tests.conftest import rattled, structure
from tests.tolerances import CLOSED_FORM

K = 3.0


@pytest.fixture
def batch() -> GraphBatch:
    names = ("CH3CH2OH", "H2O", "CH4")
    return concatenate([graph(structure(rattled(name, 1)), 1.0) for name in names])


def context(
    loss: TaylorLoss | SpatialLoss, batch: GraphBatch, potential: Potential, seed: int = 0
) -> LossContext:
    generator = torch.Generator().manual_seed(seed)
    return LossContext(batch, potential, loss.requests(batch), generator)


@pytest.mark.parametrize("normalise", ["per_atom", "per_structure"])
def test_pitc_is_half_the_curvature_along_the_displacement(
    batch: GraphBatch, normalise: str
) -> None:
    loss = TaylorLoss(TaylorOptions(normalise=normalise, displacement=0.1))
    seen = context(loss, batch, HarmonicPotential(K))
    remainder = 0.5 * K * batch.sum_atoms(seen.displacement(loss.site).square().sum(dim=1))
    if normalise == "per_atom":
        remainder = remainder / batch.atoms
    assert loss(seen).item() == pytest.approx(remainder.square().mean().item(), rel=CLOSED_FORM)


def test_pisc_is_half_the_curvature_along_the_difference(batch: GraphBatch) -> None:
    loss = SpatialLoss(SpatialOptions(normalise="per_structure", displacement=0.1))
    seen = context(loss, batch, HarmonicPotential(K))
    step = seen.displacement(loss.site) - seen.displacement(loss.other)
    remainder = 0.5 * K * batch.sum_atoms(step.square().sum(dim=1))
    assert loss(seen).item() == pytest.approx(remainder.square().mean().item(), rel=CLOSED_FORM)


def test_distance_measures(batch: GraphBatch) -> None:
    values = {}
    for distance in ("squared", "absolute", "huber"):
        options = TaylorOptions(distance=distance, huber_delta=1e-4, displacement=0.1)
        loss = TaylorLoss(options)
        values[distance] = loss(context(loss, batch, HarmonicPotential(K))).item()
    remainder = context(loss, batch, HarmonicPotential(K)).displacement(loss.site).square()
    per_atom = 0.5 * K * batch.sum_atoms(remainder.sum(dim=1)) / batch.atoms
    assert values["absolute"] == pytest.approx(per_atom.mean().item(), rel=CLOSED_FORM)
    linear = 1e-4 * (per_atom - 0.5e-4)  # every residual is beyond the Huber threshold
    assert values["huber"] == pytest.approx(linear.mean().item(), rel=CLOSED_FORM)


@pytest.mark.parametrize(
    ("kind", "options"), [(TaylorLoss, TaylorOptions), (SpatialLoss, SpatialOptions)]
)
def test_the_remainder_shrinks_with_the_square_of_the_size(
    kind: type, options: type, potential: MacePotential, mixed_graphs: list[GraphBatch]
) -> None:
    batch = concatenate(mixed_graphs)
    values = []
    for size in (0.002, 0.001):
        loss = kind(options(distance="absolute", displacement=size))
        values.append(loss(context(loss, batch, potential)).item())
    assert values[0] / values[1] == pytest.approx(4.0, rel=0.05)


@pytest.mark.parametrize(
    ("kind", "options"), [(TaylorLoss, TaylorOptions), (SpatialLoss, SpatialOptions)]
)
def test_mixed_sizes_give_the_mean_of_the_single_structures(
    kind: type, options: type, batch: GraphBatch
) -> None:
    """Per-structure sums are scatters: nothing couples structures of a batch."""
    loss, potential = kind(options(displacement=0.05)), HarmonicPotential(K)
    together = context(loss, batch, potential)
    whole = loss(together).item()
    singles = []
    for index in range(len(batch)):
        atoms = batch.structure == index
        part = graph(structure(rattled(("CH3CH2OH", "H2O", "CH4")[index], 1)), 1.0)
        alone = context(loss, part, potential)
        for site in list(alone._displacements):
            alone._displacements[site] = together.displacement(site)[atoms]
        for site, moved in alone._displacements.items():
            alone._predictions[site] = potential(part.displaced(moved))
        singles.append(loss(alone).item())
    assert whole == pytest.approx(sum(singles) / len(singles), rel=CLOSED_FORM)


@pytest.mark.parametrize(
    ("kind", "options"), [(TaylorLoss, TaylorOptions), (SpatialLoss, SpatialOptions)]
)
def test_the_gradient_by_the_stiffness_is_exact(
    kind: type, options: type, batch: GraphBatch
) -> None:
    """The loss is quadratic in k, so its derivative is 2 L / k: double backward works."""
    loss, potential = kind(options(displacement=0.1)), HarmonicPotential(K).train()
    value = loss(context(loss, batch, potential))
    (slope,) = torch.autograd.grad(value, [potential.stiffness])
    assert slope.item() == pytest.approx(2 * value.item() / K, rel=1e-10)


def test_evaluations_are_shared_and_forces_only_where_needed(
    batch: GraphBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    from finetune.losses.total import TotalLoss
    from finetune.recipe import Recipe

    recipe = Recipe.parse(
        {
            "foundation": "x",
            "data": {"train": "x"},
            "output": "x",
            "losses": {"pitc": {"displacement": 0.05}, "pisc": {"displacement": 0.05}},
        }
    )
    potential, calls = HarmonicPotential(K), []
    forward = HarmonicPotential.forward

    def spy(self: Potential, batch: GraphBatch, **options: bool) -> object:
        calls.append((len(batch), options["forces"]))
        return forward(self, batch, **options)

    monkeypatch.setattr(HarmonicPotential, "forward", spy)
    TotalLoss(recipe.losses)(batch, potential, torch.Generator().manual_seed(0))
    assert calls == [(3, False), (6, True)]
