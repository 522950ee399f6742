"""Losses, training and evaluation know potentials by their contract alone."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from finetune.adapters.adapter import FrozenAdapter, FullAdapter
from finetune.data.graphs import GraphBatch, graph
from finetune.export.calculator import PotentialCalculator
from finetune.potentials import reference_energies
from finetune.potentials.errors import errors, predict
from finetune.potentials.potential import Potential
from finetune.recipe.adapter_options import FrozenOptions, FullOptions
from finetune.testing import PotentialSuite
from finetune.training.loop import Trainer, TrainingData
from finetune.training.records import Silent
from tests.conftest import rattled, recipe_for, structure
from tests.direct_potential import DirectForcePotential
from tests.tiny import tiny_mace

MACE = tiny_mace()


class TestDirectForces(PotentialSuite):
    conservative = False
    has_stress = False

    def potential(self) -> Potential:
        return DirectForcePotential().eval()


def labelled(count: int, seed: int, forces: bool) -> list[GraphBatch]:
    graphs = []
    for index in range(count):
        atoms = rattled(("CH3CH2OH", "CH3OH", "H2O")[index % 3], seed + index)
        item = graph(structure(atoms), MACE.cutoff, skin=1.0)
        found = MACE(item, create_graph=False)
        has = torch.full_like(item.has_forces, forces)
        energy = found.energy + 7.0 * len(atoms)
        labels = {"energy": energy, "has_energy": torch.tensor([True])}
        graphs.append(replace(item, **labels, forces=found.forces, has_forces=has))
    return graphs


LOSSES = {
    "energy": {"weight": 1.0},
    "forces": {"weight": 10.0},
    "pitc": {"weight": 0.1, "displacement": 0.02},
    "pisc": {"weight": 0.1, "displacement": 0.02},
    "replay": {"weight": 1e-3, "displacement": 0.02},
}


@pytest.mark.parametrize("frozen", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_another_family_is_trained_and_evaluated(
    frozen: bool, workspace: Path, tmp_path: Path
) -> None:
    train = {"epochs": 100, "learning_rate": 0.01, "ema": 0.9}
    recipe = recipe_for(workspace, tmp_path, losses=LOSSES, train=train)
    data = TrainingData(labelled(12, 0, True), labelled(6, 100, True), [])
    foundation = DirectForcePotential().eval()
    fit = reference_energies.estimate(foundation, data.train)
    reference_energies.apply(foundation, fit)
    test = labelled(6, 200, True)
    before = errors(predict(foundation, test), len(test))
    reference = deepcopy(foundation).requires_grad_(False)
    options = FrozenOptions(freeze=("species.*",))
    adapter = FrozenAdapter(options) if frozen else FullAdapter(FullOptions())
    adapted = adapter.attach(foundation)
    outcome = Trainer(adapted, reference, data, recipe, tmp_path, Silent()).run()
    after = errors(predict(adapted.merge(), test), len(test))
    assert after.forces_mae is not None and before.forces_mae is not None
    assert after.forces_mae < 0.9 * before.forces_mae
    assert outcome.history[-1]["valid/loss"] < outcome.history[0]["valid/loss"]
    same = torch.equal(foundation.species.weight, reference.species.weight)
    assert same == frozen
    atoms = rattled("CH3OH", 1)
    atoms.calc = PotentialCalculator(adapted.merge())
    assert atoms.get_forces().shape == (6, 3)
