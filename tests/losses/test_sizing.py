"""Displacement sizes chosen from the data."""

from pathlib import Path

import ase.io
import pytest

import finetune
from finetune.core.errors import DataError
from finetune.data.graphs import GraphBatch, graph
from finetune.losses import sizing
from finetune.losses.frozen_foundation import FrozenFoundation
from finetune.potentials.mace.potential import MacePotential
from finetune.recipe.loss_options import (
    DisplacementOptions,
    LossOptions,
    ReplayOptions,
    TaylorOptions,
)
from finetune.runs.workflow import validate
from tests.conftest import rattled, recipe_for, structure


def chosen(fraction: float, largest: float = 0.3, kind: str = "uniform") -> dict[str, LossOptions]:
    displacement = {"kind": kind, "size": {"fraction": fraction, "largest": largest}}
    return {"pitc": TaylorOptions.model_validate({"kind": "pitc", "displacement": displacement})}


@pytest.fixture(scope="module")
def graphs(potential: MacePotential) -> list[GraphBatch]:
    atoms = [rattled("CH3OH", seed) for seed in range(4)]
    return [graph(structure(item), potential.cutoff, 1.1) for item in atoms]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["uniform", "sphere", "soft_modes"])
def test_the_remainder_is_the_stated_fraction_of_the_error(
    kind: str, potential: MacePotential, graphs: list[GraphBatch]
) -> None:
    losses = chosen(0.5, kind=kind)
    size = sizing.chosen_sizes(losses, potential, graphs, 1e-3)["pitc"]
    settled = DisplacementOptions(kind=kind, size=size)
    found = sizing.remainder(settled, FrozenFoundation(potential), graphs)
    assert found == pytest.approx(0.5e-3, rel=0.1)
    assert 1e-3 < size < 0.3


def test_a_size_stays_below_its_bound(potential: MacePotential, graphs: list[GraphBatch]) -> None:
    assert sizing.chosen_sizes(chosen(1e6, 0.05), potential, graphs, 1.0) == {"pitc": 0.05}


def test_only_sizes_that_are_to_be_chosen_are_touched() -> None:
    losses = {**chosen(0.5), "replay": ReplayOptions(kind="replay"), "near": TaylorOptions()}
    settled = sizing.with_sizes(losses, {"pitc": 0.02})
    assert settled["pitc"].displaced.size == 0.02  # type: ignore[attr-defined]
    assert settled["replay"] is losses["replay"]
    assert settled["near"] is losses["near"]
    assert sizing.to_be_chosen(settled) == {}


def test_a_run_writes_the_size_down(workspace: Path, tmp_path: Path) -> None:
    losses = {
        "energy": {"weight": 1.0},
        "pitc": {"weight": 0.1, "displacement": {"size": {"fraction": 0.2}}},
    }
    recipe = recipe_for(workspace, tmp_path / "run", losses=losses, train={"epochs": 1})
    result = finetune.run(recipe)
    tuned = finetune.load_foundation(tmp_path / "run").metadata["recipe"]["losses"]["pitc"]
    kept = tuned["displacement"]["size"]
    assert isinstance(kept, float)
    assert any(f"size of 'pitc' is {kept:g} Å" in note for note in result.notes)


def test_without_energies_there_is_nothing_to_compare_with(workspace: Path, tmp_path: Path) -> None:
    frames = ase.io.read(workspace / "test.xyz", ":")
    for frame in frames:
        del frame.info["REF_energy"]
    ase.io.write(tmp_path / "forces.xyz", frames)
    losses = {"forces": {}, "pitc": {"displacement": {"size": {"fraction": 0.2}}}}
    data = {"train": str(tmp_path / "forces.xyz"), "valid": 0.5}
    recipe = recipe_for(
        workspace,
        "x",
        losses=losses,
        data=data,
        reference_energies="keep",
        train={"monitor": "forces_mae"},
    )
    with pytest.raises(DataError, match="size cannot be chosen"):
        validate(recipe)


def test_an_error_that_says_nothing_chooses_nothing(workspace: Path) -> None:
    """With one structure the refitted reference energies leave no error at all."""
    losses = {"energy": {}, "pitc": {"displacement": {"size": {"fraction": 0.2}}}}
    data = {"train": str(workspace / "train.xyz@:1"), "valid": str(workspace / "valid.xyz")}
    with pytest.raises(DataError, match="too small to compare with"):
        validate(recipe_for(workspace, "x", losses=losses, data=data))


def test_a_loss_that_is_off_needs_no_size() -> None:
    (name,) = losses = chosen(0.5)
    off = {name: losses[name].model_copy(update={"weight": 0.0})}
    assert sizing.to_be_chosen(off) == {}
