"""What a step is: optimiser, groups, accumulation, the pull to the foundation, budgets."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import finetune
from finetune.adapters.adapter import AdaptedPotential
from finetune.core.errors import RecipeError
from finetune.data.graphs import GraphBatch
from finetune.losses.frozen_foundation import FrozenFoundation
from finetune.losses.loss import BASE, Loss, LossContext, Request, TotalLoss
from finetune.potentials.mace.potential import MacePotential
from finetune.recipe.optimisers import OPTIMISERS
from finetune.recipe.plugins import adapters
from finetune.recipe.sections import TrainRecipe
from finetune.training.batches import Order, Processes
from finetune.training.optimisers.optimiser import Optimiser
from tests.conftest import recipe_for
from tests.tiny import tiny_mace
from tests.training.test_loop import weights


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def largest_difference(first: Path, second: Path) -> float:
    one, two = weights(first), weights(second)
    return max(float((one[name] - two[name]).detach().abs().max()) for name in one)


def optimiser_for(adapted: AdaptedPotential, **settings: Any) -> Optimiser:
    train = TrainRecipe.model_validate(settings)
    losses, frozen = TotalLoss({}), FrozenFoundation(adapted.potential)
    found: Optimiser = OPTIMISERS[train.optimiser].load()(
        adapted, train, losses, frozen, Processes()
    )
    return found


@pytest.fixture
def labelled_unevenly(workspace: Path, tmp_path: Path) -> dict[str, str]:
    """Eleven structures, forces on four of them."""
    import ase.io

    frames = ase.io.read(workspace / "test.xyz", ":4") + ase.io.read(workspace / "train.xyz", ":7")
    ase.io.write(tmp_path / "uneven.xyz", frames)
    return {"train": str(tmp_path / "uneven.xyz"), "valid": str(workspace / "valid.xyz")}


def test_accumulated_batches_make_the_step_of_a_large_one(
    workspace: Path, tmp_path: Path, labelled_unevenly: dict[str, str]
) -> None:
    """Whatever the loss: what a structure draws does not depend on its batch."""
    losses = {
        "energy": {},
        "forces": {"weight": 0.1, "distance": "huber"},
        "pitc": {"displacement": 0.05},
        "near": {"kind": "pisc", "anchored": True, "displacement": {"kind": "sphere"}},
        "replay": {"weight": 0.1, "energy": 3.0, "forces": 1.0},
    }
    data = {**labelled_unevenly, "unlabelled": str(workspace / "test.xyz")}
    for name, train in (
        ("large", {"batch_size": 6, "unlabelled_batch_size": 3}),
        ("accumulated", {"batch_size": 2, "unlabelled_batch_size": 1, "accumulate": 3}),
    ):
        finetune.run(
            recipe_for(
                workspace,
                tmp_path / name,
                data=data,
                losses=losses,
                train={"epochs": 1, "learning_rate": 0.01, "monitor": "energy_mae", **train},
            )
        )
    assert largest_difference(tmp_path / "large", tmp_path / "accumulated") < 1e-8
    first, second = (read_metrics(tmp_path / name)[-1] for name in ("large", "accumulated"))
    assert {"residual/replay/energy", "residual/replay/forces", "residual/near"} <= set(first)
    for name in first:
        if name.startswith(("loss/", "residual/")):
            assert first[name] == pytest.approx(second[name], rel=1e-6), name


def test_groups_have_learning_rates_of_their_own(potential: MacePotential) -> None:
    adapter = adapters.get("full")
    adapted = adapter(adapter.Options()).attach(tiny_mace())
    groups = adapted.parameter_groups()
    blocks = ["node_embedding"]
    blocks += [f"{name}.{n}" for name in ("interactions", "products", "readouts") for n in (0, 1)]
    assert list(groups) == blocks
    names = [name for group in groups.values() for name in group]
    assert sorted(names) == sorted(adapted.trainable_parameters())
    factors = {"readouts": 10.0, "interactions": 0.0, "interactions.1.linear*": 0.1}
    optimiser = optimiser_for(adapted, learning_rate_factors=factors)
    optimiser.set_rate(0.5)
    names = {id(item): name for name, item in adapted.trainable_parameters().items()}
    torch_groups = optimiser.torch.param_groups
    rates = {names[id(p)]: group["lr"] for group in torch_groups for p in group["params"]}
    assert rates.keys() == adapted.trainable_parameters().keys()
    for name, rate in rates.items():
        inner = name.removeprefix("model.")
        expected = 0.5
        if inner.startswith("readouts."):
            expected = 5.0
        elif inner.startswith("interactions.1.linear"):
            expected = 0.05
        elif inner.startswith("interactions."):
            expected = 0.0
        assert rate == expected, name
    assert len(set(rates.values())) == 4
    with pytest.raises(RecipeError, match="factors: .*'readout' .* Did you mean 'readouts"):
        optimiser_for(adapted, learning_rate_factors={"readout": 2.0})
    with pytest.raises(RecipeError, match="factors: .* nothing would be trained"):
        optimiser_for(adapted, learning_rate_factors={"*": 0.0})


def test_validate_refuses_factors_that_name_nothing(workspace: Path) -> None:
    train = {"learning_rate_factors": {"readout": 2.0}}
    with pytest.raises(RecipeError, match="'readout' matches no trained parameter"):
        finetune.validate(recipe_for(workspace, "x", train=train))


def test_soft_freezing_slows_what_it_names(workspace: Path, tmp_path: Path) -> None:
    """AdamW moves each weight by its learning rate in the first step."""
    before = dict(tiny_mace(seed=0).named_parameters())
    train = {
        **{"epochs": 1, "batch_size": 12, "learning_rate": 1e-5, "ema": None},
        "learning_rate_factors": {"*": 0.1, "readouts.*": 1.0, "products.0": 0.0},
    }
    data = dict.fromkeys(("train", "valid"), str(workspace / "train.xyz"))  # a step down for both
    recipe = recipe_for(workspace, tmp_path / "run", data=data, losses={"energy": {}}, train=train)
    assert finetune.run(recipe).best_epoch == 1
    moved = {
        name: float((item - before[name]).detach().abs().max())
        for name, item in weights(tmp_path / "run").items()
    }
    for name, distance in moved.items():
        expected = 1e-5 if "readouts" in name else 0.0 if "products.0" in name else 1e-6
        assert distance == pytest.approx(expected, rel=1e-2, abs=1e-15), name


@pytest.mark.parametrize("kind", ["adam", "adamw"])
@pytest.mark.parametrize("amsgrad", [True, False])
def test_optimisers_by_name(kind: str, amsgrad: bool) -> None:
    adapter = adapters.get("readout")
    adapted = adapter(adapter.Options()).attach(tiny_mace())
    optimiser = optimiser_for(adapted, optimiser=kind, amsgrad=amsgrad).torch
    assert type(optimiser).__name__.lower() == kind
    assert optimiser.defaults["amsgrad"] is amsgrad


@pytest.mark.slow
def test_the_pull_keeps_weights_near_the_foundation(workspace: Path, tmp_path: Path) -> None:
    moved = {}
    foundation = dict(tiny_mace(seed=0).named_parameters())
    for pull in (0.0, 1.0):
        output = tmp_path / str(pull)
        train = {"epochs": 5, "learning_rate": 0.01, "ema": 0.5, "pull_to_foundation": pull}
        result = finetune.run(
            recipe_for(workspace, output, losses={"energy": {}}, train=train, adapter="full")
        )
        assert ("loss/pull_to_foundation" in result.history[-1]) == (pull > 0)
        tuned = weights(output)
        moved[pull] = sum(
            float((tuned[n] - foundation[n]).detach().square().sum()) for n in foundation
        )
    assert 0 < moved[1.0] < 0.5 * moved[0.0], moved


def test_budgets_end_a_run(workspace: Path, tmp_path: Path) -> None:
    train = {"epochs": 9, "learning_rate": 0.01, "schedule": "cosine", "max_steps": 5}
    result = finetune.run(recipe_for(workspace, tmp_path / "steps", train=train))
    assert (result.ending, result.epochs) == ("max_steps", 2)  # three steps an epoch
    assert result.history[-1]["learning_rate"] == pytest.approx(1e-4)
    recipe = recipe_for(workspace, tmp_path / "hours", train={"epochs": 2, "max_hours": 1e-9})
    result = finetune.run(recipe)
    assert (result.ending, result.epochs) == ("max_hours", 1)
    more = recipe.model_dump(mode="json")
    more["train"]["max_hours"] = 1.0
    result = finetune.run(more, resume="must")
    assert (result.ending, result.epochs) == ("finished", 2)


@pytest.mark.parametrize("pieces", [1, 2, 3])
def test_every_structure_is_seen_once_in_an_epoch(pieces: int) -> None:
    order = Order(7, structures=11, pool=4, batch_size=2, pool_batch_size=3, pieces=pieces)
    seen = []
    for step in range(order.steps):
        taken = order.step(1, step)
        assert len(taken) == pieces
        assert max(len(chosen) for chosen, _ in taken) <= 2
        pool = [index for _, extra in taken for index in extra]
        assert len(set(pool)) == len(pool) == min(3 * pieces, 4)
        seen += [index for chosen, _ in taken for index in chosen]
    assert sorted(seen) == list(range(11))
    assert order.step(1, 0) == Order(7, 11, 4, 2, 3, pieces).step(1, 0)
    assert order.step(2, 0) != order.step(1, 0)


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_workers_change_nothing(workers: int, workspace: Path, tmp_path: Path) -> None:
    for number in (0, workers):
        finetune.run(
            recipe_for(
                workspace,
                tmp_path / str(number),
                train={"epochs": 2, "learning_rate": 0.01, "ema": 0.5, "workers": number},
            )
        )
    assert largest_difference(tmp_path / "0", tmp_path / str(workers)) == 0.0


@finetune.register_loss("noisy")
class Noisy(Loss):
    """Draws from torch's global generator, as a loss of one's own may."""

    def requests(self, batch: GraphBatch) -> Sequence[Request]:
        return [Request(BASE)]

    def __call__(self, context: LossContext) -> torch.Tensor:
        energy = context.prediction(BASE).energy
        return (torch.randn_like(energy) * energy).mean()


@pytest.mark.slow
def test_losses_that_draw_globally_draw_the_same(workspace: Path, tmp_path: Path) -> None:
    losses = {"energy": {}, "noisy": {"weight": 1e-3}}
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        recipe = recipe_for(workspace, tmp_path / str(seed), losses=losses, train={"epochs": 1})
        found.append(finetune.run(recipe).history[1]["loss/noisy"])
    assert found[0] == found[1] != 0.0
