"""What `hold` keeps from being differentiated, and the match of direct forces with −dE/dr."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ase.build import bulk, molecule
from pydantic import ValidationError

from finetune.data.graphs import GraphBatch, concatenate
from finetune.losses.loss import BASE, Loss, LossContext, Request
from finetune.potentials.direct.potential import DirectPotential
from finetune.recipe.plugins import losses
from finetune.testing import HarmonicPotential, small_potential
from finetune.testing.comparing import forces_of, graph_of
from tests.potentials.test_direct import on

HELD = ("nothing", "extrapolation", "energies")


def built(name: str, **options: Any) -> Loss:
    return losses.get(name)(losses.options(name).model_validate(options))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def batch() -> GraphBatch:
    items = [molecule("H2O"), bulk("C", "diamond", 3.5)]
    for seed, atoms in enumerate(items):
        atoms.rattle(0.1, seed=seed)
    return concatenate([graph_of(atoms, on(small_potential()), skin=1.0) for atoms in items])


def context(loss: Loss, batch: GraphBatch, potential: Any, *others: Request) -> LossContext:
    generator = torch.Generator().manual_seed(0)
    return LossContext(batch, potential, [*loss.requests(batch), *others], generator)


def taught(loss: Loss, context: LossContext, potential: DirectPotential) -> dict[str, bool]:
    """Return whether the loss has gradients by the weights of the head, and of the readouts."""
    value, weights = loss(context), dict(potential.named_parameters())
    assert value.item() > 0
    found = torch.autograd.grad(value, list(weights.values()), allow_unused=True)
    slopes = {
        name: slope is not None and bool(slope.any())
        for name, slope in zip(weights, found, strict=True)
    }
    return {
        part: any(slope for name, slope in slopes.items() if part in name)
        for part in ("force_head", "readouts")
    }


@pytest.mark.parametrize("hold", HELD)
@pytest.mark.parametrize(
    ("name", "options"),
    [("pitc", {}), ("pitc", {"form": "symmetric"}), ("pisc", {}), ("strain", {})],
)
def test_what_is_held_has_no_gradient(
    name: str, options: dict[str, Any], hold: str, batch: GraphBatch
) -> None:
    potential = on(small_potential()).train()
    loss = built(name, hold=hold, **options)
    assert taught(loss, context(loss, batch, potential), potential) == {
        "force_head": name != "strain" and hold != "extrapolation",  # stress is the energy's
        "readouts": name == "strain" or hold != "energies",
    }


@pytest.mark.slow
@pytest.mark.parametrize("hold", HELD)
def test_holding_changes_gradients_and_not_values(hold: str, batch: GraphBatch) -> None:
    for name in ("pitc", "pisc", "strain"):
        loss, plain = built(name, hold=hold), built(name)
        potential = on(small_potential()).train()
        found, expected = (item(context(item, batch, potential)).item() for item in (loss, plain))
        assert found == expected


def test_a_held_side_of_a_conservative_potential(batch: GraphBatch) -> None:
    """∂/∂k of (R)² with R = ½ k u²: 2 R times ∂/∂k of the side that is not held."""
    potential = HarmonicPotential(3.0).train()
    slopes = {}
    for hold in HELD:
        loss = built("pitc", hold=hold, displacement=0.1)
        value = loss(context(loss, batch, potential))
        slopes[hold] = torch.autograd.grad(value, [potential.stiffness])[0].item()
    assert slopes["extrapolation"] != pytest.approx(slopes["nothing"], rel=1e-3)
    assert slopes["energies"] != pytest.approx(slopes["nothing"], rel=1e-3)


@pytest.mark.parametrize("name", ["pitc", "pisc", "strain"])
def test_the_former_key_is_read(name: str) -> None:
    options = losses.options(name)
    assert options.model_validate({"hold_extrapolation": True}).hold == "extrapolation"  # type: ignore[attr-defined]
    assert options.model_validate({"hold_extrapolation": False}).hold == "nothing"  # type: ignore[attr-defined]
    with pytest.raises(ValidationError, match="give `hold` alone"):
        options.model_validate({"hold_extrapolation": True, "hold": "energies"})


def test_gradient_match_is_the_mean_over_components(batch: GraphBatch) -> None:
    potential = on(small_potential()).train()
    loss = built("gradient_match", displacement=None)
    residual = forces_of(potential(batch)) - potential.gradient_forces(batch)
    assert loss(context(loss, batch, potential)).item() == pytest.approx(
        residual.square().mean().item(), rel=1e-12
    )
    assert loss.count(batch) == len(batch.numbers)


@pytest.mark.parametrize("hold", ["nothing", "energies"])
def test_gradient_match_teaches_energies_unless_they_are_held(hold: str, batch: GraphBatch) -> None:
    potential = on(small_potential()).train()
    loss = built("gradient_match", hold=hold, copies=2)
    found = taught(loss, context(loss, batch, potential), potential)
    assert found == {"force_head": True, "readouts": hold == "nothing"}


def test_a_shared_evaluation_is_free_for_one_loss_and_held_for_the_other(
    batch: GraphBatch,
) -> None:
    potential = on(small_potential()).train()
    held = built("gradient_match", displacement=None)
    for others in ([Request(BASE, gradient=True)], [Request(BASE, gradient="held")]):
        shared = context(held, batch, potential, *others)
        found = shared.prediction(BASE).gradient_forces
        assert found is not None and found.requires_grad == (others[0].gradient is True)
        assert not taught(held, shared, potential)["readouts"]


def test_a_conservative_potential_matches_itself(batch: GraphBatch) -> None:
    loss = built("gradient_match", hold="nothing")
    assert loss(context(loss, batch, small_potential().train())).item() == 0.0
