"""The mean of a committee, its standard deviation, and what that is worth."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from scipy.stats import norm

import finetune
from finetune.core.errors import FoundationError
from finetune.evaluation.calibration import Calibration, calibrations, fitted_scales
from finetune.evaluation.evaluation import EvaluatedCommittee
from finetune.export.calculator import PotentialCalculator
from finetune.labelling.selection import disagreement
from finetune.potentials.committee import CommitteePotential
from finetune.potentials.errors import LabelledPredictions
from finetune.potentials.mace.potential import MacePotential
from finetune.testing import HarmonicPotential
from tests.conftest import rattled, structure
from tests.tiny import tiny_mace


def test_the_calculator_gives_mean_and_standard_deviation(committee: Any) -> None:
    calculator = finetune.load_calculator(committee.folder, warn_far=True)
    assert isinstance(calculator, finetune.CommitteeCalculator)
    atoms = rattled("CH3OH", 4)
    energies, forces = [], []
    for member in committee.members.values():
        atoms.calc = finetune.load_calculator(member.folder)
        energies.append(atoms.get_potential_energy())
        forces.append(atoms.get_forces())
    atoms.calc = calculator
    assert atoms.get_potential_energy() == pytest.approx(np.mean(energies), abs=1e-9)
    np.testing.assert_allclose(atoms.get_forces(), np.mean(forces, axis=0), atol=1e-10)
    assert calculator.results["energy_std"] == pytest.approx(np.std(energies), abs=1e-9) != 0
    np.testing.assert_allclose(calculator.results["energy_comm"], energies, atol=1e-9)
    np.testing.assert_allclose(calculator.results["forces_std"], np.std(forces, axis=0), atol=1e-10)
    assert calculator.get_property("forces_comm", atoms).shape == (2, 6, 3)
    assert calculator.results["training_distances"].shape == (6,)
    (many,) = calculator.calculate_many([atoms])
    np.testing.assert_allclose(many["forces_std"], calculator.results["forces_std"], atol=1e-10)


@pytest.mark.slow
def test_what_no_adapter_changed_is_in_memory_once(committee: Any) -> None:
    potential = finetune.load_foundation(committee.folder, torch.float32).potential
    assert isinstance(potential, CommitteePotential)
    first, second = (dict(item.named_parameters()) for item in potential.predicting)
    shared = {name for name in first if first[name].data_ptr() == second[name].data_ptr()}
    assert {name for name in first if "readouts" in name}.isdisjoint(shared)
    assert len(shared) > 0.8 * len([name for name in first if first[name].numel()])


def test_crystals_have_a_deviation_of_stress(potential: MacePotential, diamond: Atoms) -> None:
    members = [deepcopy(potential), tiny_mace(seed=1)]
    committee = CommitteePotential(members)
    atoms = diamond.copy()
    atoms.calc = finetune.CommitteeCalculator(committee)
    stress = []
    for member in members:
        single = diamond.copy()
        single.calc = PotentialCalculator(member)
        stress.append(single.get_stress())
    np.testing.assert_allclose(atoms.get_stress(), np.mean(stress, axis=0), atol=1e-12)
    np.testing.assert_allclose(atoms.calc.results["stress_std"], np.std(stress, axis=0), atol=1e-12)
    before = atoms.get_potential_energy()
    committee.set_references({n: value + 1.0 for n, value in committee.references().items()})
    atoms.calc.reset()
    assert atoms.get_potential_energy() == pytest.approx(before + len(atoms))
    pool = [structure(rattled("CH3OH", seed)) for seed in range(4)]
    assert disagreement([committee], pool, 2) == disagreement(members, pool, 2)
    with pytest.raises(FoundationError, match="at least two"):
        CommitteePotential(members[:1])
    with pytest.raises(FoundationError, match="same elements"):
        CommitteePotential([potential, HarmonicPotential()])


def test_normal_errors_of_the_deviations_size_are_calibrated() -> None:
    random = np.random.default_rng(0)
    deviations = random.uniform(0.1, 1.0, 20_000)
    errors = random.normal(0.0, deviations)
    found = Calibration(errors, deviations)
    assert found.area() < 0.01 and found.spearman is not None and found.spearman > 0.4
    half = Calibration(errors, deviations / 2, scale=2.0)
    expected = np.abs(
        2 * norm.cdf(norm.ppf((1 + np.linspace(0, 1, 101)) / 2) / 2) - 1 - np.linspace(0, 1, 101)
    )
    assert half.area() == pytest.approx(np.trapezoid(expected, dx=0.01), abs=0.01)
    assert half.area(2.0) == pytest.approx(found.area())
    assert half.as_dict()["scaled_miscalibration_area"] == half.area(2.0)
    np.testing.assert_allclose(Calibration(np.zeros(3), np.zeros(3)).observed(), 1.0)
    diverged = Calibration(np.full(3, np.nan), np.ones(3))
    np.testing.assert_allclose(diverged.observed(), 0.0)


def test_scales_are_fitted_per_quantity_and_only_where_there_are_labels() -> None:
    random = np.random.default_rng(1)
    members = []
    labels = random.normal(size=500)
    centre = labels + random.normal(0.0, 3.0, 500)
    for sign in (-1.0, 1.0):
        energy = np.stack([centre + sign, labels])
        nothing = np.zeros((2, 0))
        members.append(LabelledPredictions(energy, np.full(500, 4.0), nothing, nothing))
    scales = fitted_scales(members)
    assert scales["energy"] == pytest.approx(3.0, rel=0.1) and scales["forces"] is None
    found = calibrations(members, scales)
    assert set(found) == {"energy"}
    np.testing.assert_allclose(found["energy"].deviations, 0.25)
    assert found["energy"].spearman is None  # all deviations are the same


@pytest.mark.usefixtures("drawn")
def test_the_folder_tells_how_far_errors_and_deviations_agree(
    committee: Any, workspace: Path, tmp_path: Path
) -> None:
    stored = json.loads((committee.folder / "result.json").read_text())
    assert set(stored["members"]) == {"1", "2"}
    record = json.loads((committee.folder / "committee.json").read_text())
    assert record["members"] == ["members/1/model", "members/2/model"]
    scale = record["scale"]["energy"]
    assert stored["calibration"]["valid"]["energy"]["scale"] == scale > 0
    assert record["scale"]["forces"] is None  # energies alone validate
    page = (committee.folder / "report.html").read_text()
    assert "Uncertainty" in page and "members/2/report.html" in page
    found = finetune.evaluate(committee.folder, workspace / "test.xyz")
    assert isinstance(found, EvaluatedCommittee)
    again, known = found.as_dict()["calibration"], stored["calibration"]["test"]
    for quantity in ("energy", "forces"):
        for name, value in known[quantity].items():
            assert again[quantity][name] == (value and pytest.approx(value, rel=1e-6)), name
    assert found.finetuned.energy_mae == pytest.approx(committee.test.finetuned.energy_mae)
    assert found.foundation.energy_mae == pytest.approx(committee.test.foundation.energy_mae)
    found.write(tmp_path / "evaluation")
    assert (tmp_path / "evaluation" / "calibration.png").stat().st_size > 1000
    (committee.folder / "report.html").unlink()
    again_page = finetune.report(committee.folder).read_text()
    assert "Uncertainty" in again_page and "members/2/report.html" in again_page
