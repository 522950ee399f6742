"""What metrics.jsonl says of losses: what was optimised, and residuals in physical units."""

from pathlib import Path
from typing import Any

import ase.io
import pytest
import torch

import finetune
from finetune.core.units import readable
from finetune.data.graphs import GraphBatch
from finetune.losses.loss import BASE, Loss, LossContext, Request
from finetune.losses.supervised import EnergyLoss
from finetune.potentials.errors import errors, predict
from finetune.recipe.loss_options import EnergyOptions, LossOptions
from finetune.training.records import numbers
from tests.conftest import recipe_for


@finetune.register_loss("dipole_like")
class DipoleLike(Loss):
    """A loss of one's own that says what its residuals are measured in."""

    Options = LossOptions
    unit = "eV·Å"

    def requests(self, batch: GraphBatch) -> list[Request]:
        return [Request(BASE, forces=True)]

    def __call__(self, context: LossContext) -> torch.Tensor:
        forces = context.prediction(BASE).forces
        assert forces is not None
        arms = context.batch.sum_atoms((context.batch.positions * forces).sum(dim=1))
        return self.measure(arms.double()).mean()


@finetune.register_loss("dimensionless")
class Dimensionless(DipoleLike):
    """One that says nothing."""

    unit = ""


def one_step(workspace: Path, tmp_path: Path, losses: dict[str, Any]) -> Any:
    """Train one step on all structures, so that its losses are those of the foundation."""
    frames = ase.io.read(workspace / "test.xyz", ":")
    ase.io.write(tmp_path / "all.xyz", frames)
    data = {name: str(tmp_path / "all.xyz") for name in ("train", "valid")}
    train = {"epochs": 1, "batch_size": 6}
    recipe = recipe_for(workspace, tmp_path / "run", data=data, losses=losses, train=train)
    prepared = finetune.validate(recipe)
    graphs = prepared.data.train
    before = errors(predict(prepared.reference, graphs), len(graphs))
    return finetune.run(recipe).history[1], before


@pytest.mark.parametrize(
    ("distance", "error"),
    [("squared", "rmse"), pytest.param("absolute", "mae", marks=pytest.mark.slow)],
)
def test_residuals_are_errors_in_physical_units(
    distance: str, error: str, workspace: Path, tmp_path: Path
) -> None:
    losses = {
        "energy": {"weight": 3.0, "distance": distance},
        "whole": {"kind": "energy", "normalise": "per_structure", "distance": distance},
        "forces": {"weight": 0.5, "distance": distance},
        "pitc": {"weight": 0.1, "normalise": "per_structure"},
        "replay": {"weight": 0.1, "energy": 1.0},
        "dipole_like": {"weight": 1e-3},
        "dimensionless": {"weight": 1e-3},
    }
    record, before = one_step(workspace, tmp_path, losses)
    for name, field in (
        ("energy", "energy_per_atom"),
        ("whole", "energy"),
        ("forces", "forces"),
    ):
        expected = getattr(before, f"{field}_{error}")
        assert record[f"residual/{name}"] == pytest.approx(expected, rel=1e-9), name
    power = 2 if distance == "squared" else 1
    assert record["loss/energy"] == pytest.approx(3.0 * record["residual/energy"] ** power)
    parts = {name: value for name, value in record.items() if name.startswith("loss/")}
    assert record["train/loss"] == pytest.approx(sum(parts.values()))
    assert record["units"] == {
        **{"energy": "eV/atom", "whole": "eV", "forces": "eV/Å", "pitc": "eV"},
        **{"replay/energy": "eV/atom", "replay/forces": "eV/Å", "dipole_like": "eV·Å"},
    }
    assert record["residual/replay/forces"] < 1e-10  # still the foundation
    assert "loss/dimensionless" in record and "residual/dimensionless" not in record
    shown = numbers(record)
    assert shown["residual/energy (meV/atom)"] == pytest.approx(1000 * record["residual/energy"])
    assert "loss/energy" in shown and "units" not in shown


def test_huber_residuals_are_recovered() -> None:
    options = EnergyOptions(distance="huber", huber_delta=0.01)
    loss = EnergyLoss(options)
    for size in (0.0, 0.003, 0.01, 0.05):
        mean = loss.measure(torch.tensor([size], dtype=torch.float64)).item()
        assert loss.typical_residual(mean) == pytest.approx(size, abs=1e-15)


def test_values_as_people_read_them() -> None:
    assert readable(0.0021, "eV/atom") == (pytest.approx(2.1), "meV/atom")
    assert readable(0.01, "eV/Å³") == (pytest.approx(1.602, rel=1e-3), "GPa")
    assert readable(3.0, "e·Å") == (3.0, "e·Å")
