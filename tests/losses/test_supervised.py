"""Supervised losses against hand calculations; absent labels cost and change nothing."""

from dataclasses import replace

import pytest
import torch

from finetune.data.graphs import GraphBatch, concatenate, graph
from finetune.losses.loss import TotalLoss
from finetune.losses.supervised import EnergyLoss, ForcesLoss, StressLoss
from finetune.recipe.loss_options import EnergyOptions, ForcesOptions, StressOptions
from finetune.testing import HarmonicPotential
from tests.conftest import rattled, structure
from tests.tiny import tiny_mace
from tests.tolerances import CLOSED_FORM

GENERATOR = torch.Generator().manual_seed(0)


def labelled(name: str, energy: float | None, force: float | None) -> GraphBatch:
    item = graph(structure(rattled(name, 1)), 1.0)
    if energy is not None:
        item = replace(
            item,
            energy=torch.tensor([energy], dtype=torch.float64),
            has_energy=torch.tensor([True]),
        )
    if force is not None:
        item = replace(
            item,
            forces=torch.full_like(item.forces, force),
            has_forces=torch.ones_like(item.has_forces),
        )
    return item


@pytest.fixture
def batch() -> GraphBatch:
    return concatenate(
        [labelled("CH4", 2.0, None), labelled("H2O", None, 0.5), labelled("CH3OH", -1.0, None)]
    )


def test_energy_loss_counts_labelled_structures_only(batch: GraphBatch) -> None:
    potential = HarmonicPotential()
    predicted = potential(batch).energy
    residual = predicted[[0, 2]] - torch.tensor([2.0, -1.0])
    total = TotalLoss({"energy": EnergyOptions(kind="energy", normalise="per_structure")})
    value = total(batch, potential, GENERATOR)
    assert value is not None
    assert value.total.item() == pytest.approx(residual.square().mean().item(), rel=CLOSED_FORM)
    total = TotalLoss({"energy": EnergyOptions(kind="energy", weight=3.0)})
    value = total(batch, potential, GENERATOR)
    assert value is not None
    per_atom = (residual / torch.tensor([5.0, 6.0])).square().mean().item()
    assert value.parts["energy"].item() == pytest.approx(per_atom, rel=CLOSED_FORM)
    assert value.total.item() == pytest.approx(3 * per_atom, rel=CLOSED_FORM)


def test_forces_loss_counts_labelled_atoms_only(batch: GraphBatch) -> None:
    potential = HarmonicPotential()
    residual = (potential(batch).forces - 0.5)[batch.structure == 1]
    value = TotalLoss({"forces": ForcesOptions(kind="forces")})(batch, potential, GENERATOR)
    assert value is not None
    assert value.total.item() == pytest.approx(residual.square().mean().item(), rel=CLOSED_FORM)


def test_stress_loss_on_a_crystal(mixed_graphs: list[GraphBatch]) -> None:
    potential, crystal = tiny_mace(), mixed_graphs[4]
    target = torch.eye(3, dtype=torch.float64)[None]
    item = replace(crystal, stress=target, has_stress=torch.tensor([True]))
    batch = concatenate([mixed_graphs[0], item])
    value = TotalLoss({"stress": StressOptions(kind="stress")})(batch, potential, GENERATOR)
    residual = potential(item, stress=True).stress - target
    assert value is not None
    assert value.total.item() == pytest.approx(residual.square().mean().item(), rel=1e-9)


def test_losses_without_labels_ask_for_nothing() -> None:
    bare = labelled("CH4", None, None)
    for loss in (
        EnergyLoss(EnergyOptions()),
        ForcesLoss(ForcesOptions()),
        StressLoss(StressOptions()),
    ):
        assert loss.requests(bare) == []
    total = TotalLoss({"energy": EnergyOptions(kind="energy")})
    assert total(bare, HarmonicPotential(), GENERATOR) is None


def test_values_behind_a_mask_never_reach_a_gradient(batch: GraphBatch) -> None:
    poisoned = replace(
        batch,
        energy=torch.where(batch.has_energy, batch.energy, torch.nan),
        forces=torch.where(batch.has_forces[:, None], batch.forces, torch.nan),
    )
    potential = HarmonicPotential().train()
    total = TotalLoss(
        {"energy": EnergyOptions(kind="energy"), "forces": ForcesOptions(kind="forces")}
    )
    value = total(poisoned, potential, GENERATOR)
    assert value is not None
    (slope,) = torch.autograd.grad(value.total, [potential.stiffness])
    assert torch.isfinite(slope)
