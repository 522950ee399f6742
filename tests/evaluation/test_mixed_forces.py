"""Dynamics with forces of a head, with −dE/dr, and with both in multiple time steps."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.io import read, write
from typer.testing import CliRunner

import finetune
from finetune.commands import app
from finetune.core.errors import RecipeError, RunFolderError
from finetune.data.graphs import GraphBatch
from finetune.evaluation.multiple_time_steps import MixedForces
from finetune.evaluation.trajectory import Settings, Task, TrajectoryRun
from finetune.export.calculator import PotentialCalculator
from finetune.potentials.potential import Potential
from finetune.potentials.storage import save
from finetune.testing import small_potential
from tests.potentials.test_direct import on

LENGTH, STIFFNESS, TURNING = 1.2, 15.0, 0.3


class Pulled(Potential):
    """Springs between all pairs of a molecule; the head's forces also turn atoms around z."""

    def __init__(self) -> None:
        super().__init__(6.0, {1: 0.0, 8: 0.0})
        self.weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))

    @property
    def direct_forces(self) -> bool:
        return True

    def interaction(
        self, batch: GraphBatch, element: torch.Tensor, strain: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        positions = batch.positions.detach().requires_grad_(torch.is_grad_enabled())
        sender, receiver = batch.edge_index
        lengths = (positions[receiver] - positions[sender]).norm(dim=1)
        pairs = 0.25 * STIFFNESS * (lengths - LENGTH).square()
        energies = torch.zeros_like(positions[:, 0]).index_add(0, sender, pairs)
        return energies, positions, None

    def interaction_and_forces(
        self, batch: GraphBatch, element: torch.Tensor, strain: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor]:
        with torch.enable_grad():
            energies, positions, deformation = self.interaction(batch, element, strain)
            (slope,) = torch.autograd.grad(energies.sum(), positions, retain_graph=True)
        arms = positions - positions.mean(dim=0)
        axis = torch.tensor([0.0, 0.0, 1.0], dtype=positions.dtype).expand_as(arms)
        return energies, positions, deformation, TURNING * torch.linalg.cross(axis, arms) - slope


def water() -> Atoms:
    return Atoms("OHH", [[0, 0, 0], [1.2, 0, 0], [0.6, 1.04, 0]])


def trajectory(
    calculator: PotentialCalculator, folder: Path, ensemble: str = "nve", steps: int = 400
) -> TrajectoryRun:
    settings = Settings(length=0.5e-3 * steps, interval=2.0)
    folder.mkdir(parents=True, exist_ok=True)
    task = Task(ensemble, 300.0, 0, 0)  # type: ignore[arg-type]
    run = TrajectoryRun(water(), calculator, task, settings, "{}", folder, None)
    assert run.run(lambda: False, lambda _: None)
    return run


def drift(run: TrajectoryRun) -> float:
    """Return the slope of the total energy, eV/ps."""
    rows = np.array(run.progress.rows)
    return float(abs(np.polyfit(rows[:, 0], rows[:, 1] + rows[:, 2], 1)[0]))


@pytest.mark.parametrize("ensemble", ["nve", "nvt"])
def test_an_impulse_at_every_step_is_dynamics_on_the_gradient(
    ensemble: str, tmp_path: Path
) -> None:
    mixed = trajectory(MixedForces(Pulled(), 1), tmp_path / "mixed", ensemble, 100)
    gradient = PotentialCalculator(Pulled(), forces="gradient")
    plain = trajectory(gradient, tmp_path / "plain", ensemble, 100)
    np.testing.assert_allclose(mixed.atoms.positions, plain.atoms.positions, atol=1e-10)
    np.testing.assert_allclose(mixed.progress.rows, plain.progress.rows, atol=1e-8)


@pytest.mark.slow
def test_energy_drifts_with_the_head_alone_only(tmp_path: Path) -> None:
    head = drift(trajectory(PotentialCalculator(Pulled()), tmp_path / "head"))
    gradient = PotentialCalculator(Pulled(), forces="gradient")
    exact = drift(trajectory(gradient, tmp_path / "gradient"))
    assert head > 100 * exact
    for every in (2, 3, 4):
        mixed = trajectory(MixedForces(Pulled(), every), tmp_path / str(every))
        assert drift(mixed) < 0.02 * head, every


def test_dynamics_turn_back(tmp_path: Path) -> None:
    calculator = MixedForces(Pulled(), 4)
    run = trajectory(calculator, tmp_path, steps=80)
    back = run.atoms.copy()
    back.set_momenta(-run.atoms.get_momenta())
    back.calc = calculator
    run.atoms, run.progress.step = back, 0
    run._enter(0)
    dynamics = run._dynamics()
    for _ in range(80):
        assert run._step(dynamics) is None
        run.progress.step += 1
    np.testing.assert_allclose(back.positions, water().positions, atol=1e-9)


def test_steps_without_an_impulse_take_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    forward = Potential.forward

    def noted(self: Potential, *given: object, **options: object) -> object:
        asked.append(bool(options["gradient"]))
        return forward(self, *given, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Potential, "forward", noted)
    atoms, calculator = water(), MixedForces(Pulled(), 3)
    atoms.calc = calculator
    atoms.rattle(0.05)
    kept = []
    for step in range(6):
        calculator.step = step
        atoms.positions[0, 0] += 0.01
        kept.append((atoms.get_forces(), calculator.results["forces"]))
    assert asked == [True, False, False] * 2
    assert np.array_equal(*kept[1]) and not np.allclose(*kept[3])
    gradient = PotentialCalculator(Pulled(), forces="gradient")
    np.testing.assert_allclose(kept[5][1], calculator.results["forces"])
    calculator.step = 6
    atoms.positions[0, 0] += 0.01
    atoms.get_forces()
    np.testing.assert_allclose(calculator.results["forces"], gradient.get_forces(atoms), atol=1e-12)


def test_a_stopped_trajectory_goes_on_as_if_it_had_not(tmp_path: Path) -> None:
    whole = trajectory(MixedForces(Pulled(), 3), tmp_path / "whole", "nvt", 50)
    folder, calculator = tmp_path / "parts", MixedForces(Pulled(), 3)
    folder.mkdir()
    given = (calculator, Task("nvt", 300.0, 0, 0), whole.settings, "{}", folder, None)
    for _ in range(4):
        run = TrajectoryRun(water(), *given)
        stop_at = run.progress.step + 17
        if run.run(lambda run=run, at=stop_at: run.progress.step >= at, lambda _: None):  # type: ignore[misc]
            break
    assert np.array_equal(run.atoms.positions, whole.atoms.positions)
    assert run.progress.rows == whole.progress.rows


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mixed")
    direct = on(small_potential())
    save(direct, folder / "direct", {"name": "direct"})
    save(direct.base, folder / "base", {"name": "base"})
    write(folder / "start.xyz", molecule("NH3"))
    return folder


def test_the_test_says_which_forces_were_used(stored: Path) -> None:
    short = Settings(length=0.005, interval=1.0)
    options = {"ensembles": ("nve",), "replicas": 1, "settings": short, "device": "cpu"}
    both = {"files": stored / "start.xyz", "against": stored / "base", **options}
    mixed = finetune.md(stored / "direct", forces="mixed", to=stored / "one", **both)  # type: ignore[arg-type]
    assert mixed.forces == {"direct": "mixed, −dE/dr every 4 steps"}
    base, direct = mixed.summary()
    assert "forces" not in base and direct["forces"] == mixed.forces["direct"]
    assert json.loads((stored / "one" / "stability.json").read_text())["forces"] == mixed.forces
    assert "forces of direct: mixed" in mixed.table().caption.plain  # type: ignore[union-attr]
    (path,) = (stored / "one" / "direct").glob("*.traj")
    frames = read(path, ":")
    gradient = PotentialCalculator(on(small_potential()), forces="gradient")
    for frame in frames:
        expected = gradient.get_forces(frame)
        found = frame.get_forces(apply_constraint=False)
        np.testing.assert_allclose(found, expected, atol=1e-9)
    with pytest.raises(RunFolderError, match="other settings"):
        finetune.md(stored / "direct", forces="head", to=stored / "one", **both)  # type: ignore[arg-type]
    alone = {"files": stored / "start.xyz", **options}
    plain = finetune.md(stored / "base", forces="gradient", to=stored / "two", **alone)  # type: ignore[arg-type]
    assert "forces" not in plain.as_dict()
    assert (
        "forces"
        not in json.loads(next((stored / "two").rglob("nve*.json")).read_text())["identity"]
    )


def test_forces_that_make_no_dynamics(stored: Path) -> None:
    model, start = str(stored / "direct"), str(stored / "start.xyz")
    runner = CliRunner()
    for arguments, message in (
        (["--forces", "both"], "choose head, gradient or mixed"),
        (["--gradient-every", "3"], "gradient_every is for forces 'mixed'"),
        (["--forces", "mixed", "--gradient-every", "0"], "gradient_every is 0"),
    ):
        done = runner.invoke(app, ["md", model, start, "--to", str(stored / "x"), *arguments])
        assert done.exit_code == 2
        assert message in done.output, done.output
    for kind in ("head", "mixed"):
        with pytest.raises(RecipeError, match="base has no head for forces"):
            finetune.md(stored / "base", start, forces=kind, to=stored / "x")
    assert not (stored / "x").exists()
