"""Committees: several runs of one recipe, their mean, and what their spread is worth."""

import json
import signal
from copy import deepcopy
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from scipy.stats import norm
from typer.testing import CliRunner

import finetune
from finetune import Recipe
from finetune.commands import app
from finetune.committee import nearly_the_same
from finetune.data.splits import drawn
from finetune.errors import FoundationError, RecipeError, RunFolderError, RunStoppedError
from finetune.evaluation.calibration import Calibration, calibrations, fitted_scales
from finetune.evaluation.evaluated_committee import EvaluatedCommittee
from finetune.evaluation.metrics import LabelledPredictions
from finetune.export.calculator import PotentialCalculator
from finetune.export.formats import export
from finetune.foundation.committee import CommitteePotential
from finetune.foundation.mace import MacePotential
from finetune.selection import disagreement
from finetune.testing import HarmonicPotential, tiny_mace
from finetune.workflow import validate_stages
from tests.conftest import rattled, recipe_for, structure
from tests.training.test_resume import StopAt

runner = CliRunner()


def recipe(workspace: Path, output: Path, **changes: Any) -> Recipe:
    given = {
        "losses": {"energy": {}},
        "train": {"epochs": 2, "learning_rate": 0.01, "ema": 0.5, "checkpoint_seconds": 0},
        "committee": {"members": 2, "labels": "bootstrap"},
        "adapter": {"kind": "readout"},
    }
    return recipe_for(workspace, output, **{**given, **changes})


@pytest.fixture(scope="module")
def committee(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return finetune.run(recipe(workspace, tmp_path_factory.mktemp("committee") / "run"))


def test_members_differ_in_seeds_alone(workspace: Path, tmp_path: Path) -> None:
    whole = recipe(
        workspace,
        tmp_path,
        adapter={"kind": "lora", "rank": 2, "seed": 5},
        train={"seed": 3},
        committee={"members": 3},
        stages={"one": {}, "two": {"adapter": {"kind": "lora"}, "train": {"seed": 7}}},
    )
    first, second, third = whole.convene().values()
    assert [item.train.seed for item in (first, second, third)] == [3, 4, 5]
    assert [item.adapter["seed"] for item in (first, second, third)] == [5, 6, 7]
    assert {item.data.seed for item in (first, second, third)} == {3}  # one validation set
    assert second.stages["two"]["adapter"]["seed"] == 1
    assert second.stages["two"]["train"]["seed"] == 8
    assert first.committee is None and third.output == f"{tmp_path}/members/3"
    assert set(first.differences(second)) == {
        *("train.seed", "adapter.seed", "stages.two.adapter.seed", "stages.two.train.seed"),
    }
    drawing = recipe(workspace, tmp_path, committee={"members": 2, "labels": "bootstrap"})
    assert [item.data.bootstrap for item in drawing.convene().values()] == [0, 1]
    for given, seeds in ((None, [3, 4]), (0, [0, 1]), (7, [7, 8])):
        changes = {"data": {"train": "x", "bootstrap": given}, "train": {"seed": 3}}
        members = recipe(workspace, tmp_path, **changes).convene().values()
        assert [item.data.bootstrap for item in members] == seeds
    with pytest.raises(RecipeError, match="committee.members"):
        recipe(workspace, tmp_path, committee={"members": 1})


def test_members_that_learnt_nothing_are_told_of(workspace: Path, tmp_path: Path) -> None:
    result = finetune.run(recipe(workspace, tmp_path / "run", train={"learning_rate": 1e-30}))
    assert all(member.best_epoch == 0 for member in result.members.values())
    assert "2 of 2 members kept the foundation's weights" in result.notes[-1]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, False),
        ({"committee": {"members": 2}}, True),
        ({"committee": {"members": 2}, "adapter": {"kind": "full"}}, True),
        ({"committee": {"members": 2}, "adapter": {"kind": "lora", "rank": 2}}, False),
        ({"committee": {"members": 2}, "stages": {"one": {}, "two": {}}}, True),
        (
            {"committee": {"members": 2}, "stages": {"one": {"adapter": {"kind": "lora"}}}},
            False,
        ),
    ],
)
def test_members_that_hardly_differ_get_a_hint(
    changes: dict[str, Any], told: bool, workspace: Path, tmp_path: Path
) -> None:
    given = recipe(workspace, tmp_path / "run", **changes)
    assert len(nearly_the_same(given)) == told


@pytest.mark.slow
def test_a_committee_climbs_stages(workspace: Path, tmp_path: Path) -> None:
    cheap = {
        "data": {"train": str(workspace / "test.xyz")},
        "losses": {"energy": {}, "forces": {}},
        "train": {"epochs": 2, "learning_rate": 0.01},
    }
    stages = {"cheap": cheap, "dear": {"train": {"epochs": 2, "learning_rate": 1e-30}}}
    given = recipe(
        workspace,
        tmp_path / "run",
        stages=stages,
        committee={"members": 2},
        adapter={"kind": "full"},
    )
    (first, *_) = validate_stages(given).values()
    assert "committee.labels=bootstrap" in first.notes[-1]
    result = finetune.run(given)
    assert [list(member.stages) for member in result.members.values()] == [["cheap", "dear"]] * 2
    assert any("committee.labels=bootstrap" in note for note in result.notes)
    assert not any("kept the foundation's weights (" in note for note in result.notes)
    calculator = finetune.load_calculator(tmp_path / "run", warn_far=True)
    atoms = rattled("CH3OH", 4)
    energies = []
    for number in (1, 2):
        last = tmp_path / "run" / "members" / str(number) / "stages" / "dear"
        atoms.calc = finetune.load_calculator(last)
        energies.append(atoms.get_potential_energy())
    (found,) = calculator.calculate_many([atoms])
    assert found["energy"] == pytest.approx(np.mean(energies), abs=1e-9)
    assert found["energy_std"] == pytest.approx(np.std(energies), abs=1e-9) != 0
    before = {
        name: (stage.epochs, stage.ending) for name, stage in result.members["1"].stages.items()
    }
    assert before == {"cheap": (2, "finished"), "dear": (2, "finished")}
    finetune.report(tmp_path / "run")
    page = (tmp_path / "run" / "report.html").read_text()
    assert "members/2/report.html" in page and "Uncertainty" in page
    assert "stages/dear/report.html" in (tmp_path / "run/members/2/report.html").read_text()
    evaluated = finetune.evaluate(tmp_path / "run", workspace / "test.xyz")
    assert evaluated.finetuned.energy_mae == pytest.approx(result.test.finetuned.energy_mae)
    export(tmp_path / "run", tmp_path / "bundle", "bundle")
    (again,) = finetune.load_calculator(tmp_path / "bundle").calculate_many([atoms])
    assert again["energy_comm"] == pytest.approx(found["energy_comm"], abs=1e-9)


def test_a_bootstrap_draws_with_replacement() -> None:
    items = list(drawn(list(range(400)), seed=1))  # type: ignore[arg-type]
    assert len(items) == 400 and len(set(items)) == pytest.approx(400 * (1 - np.exp(-1)), abs=25)
    assert items == list(drawn(list(range(400)), seed=1))  # type: ignore[arg-type]
    assert items != list(drawn(list(range(400)), seed=2))  # type: ignore[arg-type]


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


@pytest.mark.slow
def test_a_stopped_committee_goes_on_to_the_same_weights(
    committee: Any, workspace: Path, tmp_path: Path
) -> None:
    again = recipe(workspace, tmp_path / "again")
    with pytest.raises(RunStoppedError):
        finetune.run(again, reporter=StopAt(1, signal.SIGTERM))
    with pytest.raises(FoundationError, match="not finished"):
        finetune.load_calculator(tmp_path / "again")
    with pytest.raises(RunFolderError, match="unfinished run"):
        finetune.run(again)
    finetune.run(again, resume="auto")
    for name in ("1", "2"):
        weights = f"members/{name}/model/model.safetensors"
        expected = (committee.folder / weights).read_bytes()
        assert (tmp_path / "again" / weights).read_bytes() == expected


@pytest.mark.slow
def test_one_committee_chooses_what_to_label(
    committee: Any, workspace: Path, tmp_path: Path
) -> None:
    pool = str(workspace / "train.xyz")
    given = ["data", "select", pool, "--count", "3", "--committee", str(committee.folder)]
    done = runner.invoke(app, [*given, "--to", str(tmp_path / "next.xyz")])
    assert done.exit_code == 0, done.output
    assert len(ase.io.read(tmp_path / "next.xyz", ":")) == 3


def test_a_committee_is_no_foundation_and_its_damage_is_told(
    committee: Any, workspace: Path, tmp_path: Path
) -> None:
    with pytest.raises(FoundationError, match="holds a committee.*members/1"):
        finetune.validate(
            recipe_for(workspace, tmp_path / "next", foundation=str(committee.folder))
        )
    described = runner.invoke(app, ["foundations", str(committee.folder)])
    assert "2 members" in described.output and "members/1/model" in described.output
    for members, message in ((["../a", "b"], "outside"), (["a"], "at least 2"), (["a", "b"], "'")):
        record = {"format": "piwsl-finetune/committee", "members": members}
        (tmp_path / "committee.json").write_text(json.dumps(record))
        with pytest.raises(FoundationError, match=message):
            finetune.load_calculator(tmp_path)


def test_the_command_validates_a_committee(workspace: Path, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe(workspace, tmp_path / "run", committee=None).dump())
    done = runner.invoke(app, ["run", str(path), "--committee", "3", "--dry-run"])
    assert done.exit_code == 0 and "valid" in done.output, done.output
    assert not (tmp_path / "run").exists()
    done = runner.invoke(app, ["run", str(path), "--committee", "1"])
    assert done.exit_code == 2 and "committee.members" in done.output
