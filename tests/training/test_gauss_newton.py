"""The optimiser for few labels: its algebra, what it learns, what it refuses."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from scipy.stats import multivariate_normal

import finetune
from finetune import FinetuneError, suitability
from finetune.data.graphs import GraphBatch, concatenate, graph
from finetune.errors import RunStoppedError, TrainingError
from finetune.export.calculator import PotentialCalculator
from finetune.testing import tiny_mace
from finetune.training import evidence
from finetune.training.evidence import log_likelihood, most_probable
from finetune.training.gauss_newton import Linearised, bases
from finetune.training.label_rows import KINDS, Rows, label_rows, without_copies
from finetune.training.progress import Silent
from tests.conftest import rattled, recipe_for, structure


def random_rows(kinds: list[int], weights: int, elements: int = 2) -> Rows:
    random = torch.Generator().manual_seed(3)
    energies = kinds.count(0)
    return Rows(
        residuals=torch.randn(len(kinds), generator=random, dtype=torch.float64),
        kinds=torch.tensor(kinds),
        composition=torch.randint(1, 9, (energies, elements), generator=random).double(),
        gradients=torch.randn(len(kinds), weights, generator=random, dtype=torch.float64),
    )


def test_the_likelihood_is_that_of_a_normal_distribution() -> None:
    random = np.random.default_rng(0)
    half = random.normal(size=(5, 3))
    noise, targets = random.uniform(0.1, 1.0, 5), random.normal(size=5)
    expected = multivariate_normal.logpdf(targets, np.zeros(5), half @ half.T + np.diag(noise))
    assert log_likelihood(half @ half.T, noise, targets) == pytest.approx(expected, rel=1e-12)
    assert log_likelihood(-np.eye(5), np.zeros(5), targets) == -np.inf


@pytest.mark.parametrize("most", [10_000, 150])
def test_amplitude_and_noise_are_found_again(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr(evidence, "MOST_ROWS", most)
    random = np.random.default_rng(1)
    half = random.normal(size=(400, 60))
    kinds = np.repeat([0, 1], 200)
    noise = np.array([0.3, 2.0])[kinds]
    targets = 3.0 * half @ random.normal(size=60) + noise * random.normal(size=400)
    found = most_probable(half @ half.T, targets, kinds)
    assert found.amplitude == pytest.approx(9.0, rel=0.5)
    np.testing.assert_allclose(np.sqrt(found.noise), [0.3, 2.0], rtol=0.25)


@pytest.mark.parametrize("kinds", [[0] * 9, [1] * 9, [0] * 5 + [1] * 6 + [2] * 9])
def test_the_solution_is_the_least_of_the_objective(kinds: list[int]) -> None:
    sizes = [4, 7, 19]
    rows = random_rows(kinds, sum(sizes))
    moved = torch.linspace(-1, 1, sum(sizes), dtype=torch.float64)
    problem = Linearised(rows, sizes, moved)
    targets = rows.residuals + rows.gradients @ moved
    weighted = rows.gradients.T / problem.noise
    normal = weighted @ rows.gradients + torch.diag(1 / problem.prior)
    torch.testing.assert_close(problem.solution, torch.linalg.solve(normal, weighted @ targets))

    def at(change: torch.Tensor) -> float:
        return problem.objective(targets - rows.gradients @ change, change)

    least = at(problem.solution)
    for seed in range(5):
        torch.manual_seed(seed)
        nudge = 1e-3 * torch.randn(sum(sizes), dtype=torch.float64)
        assert at(problem.solution + nudge) > least
    assert len({*torch.unique(problem.noise).tolist()}) == len(set(kinds))


def test_each_tensor_has_the_same_share_of_the_prior() -> None:
    sizes = [4, 26]
    rows = random_rows([0] * 9, sum(sizes))
    rows.gradients[:, :4] *= 1000.0
    rows = Rows(rows.residuals, rows.kinds, rows.composition, rows.gradients)
    problem = Linearised(rows, sizes, torch.zeros(sum(sizes), dtype=torch.float64))
    _, rest = bases(rows.composition)
    shares = [
        float(((rest.T @ rows.gradients)[:, part] ** 2 * problem.prior[part]).sum())
        for part in (slice(0, 4), slice(4, 30))
    ]
    assert shares[0] == pytest.approx(shares[1])


def test_what_reference_energies_explain_is_set_apart() -> None:
    composition = torch.tensor([[1.0, 4.0], [2.0, 8.0], [1.0, 3.0], [1.0, 4.0]]).double()
    offsets, rest = bases(composition)
    assert offsets.shape == (4, 2) and rest.shape == (4, 2)
    assert float((rest.T @ composition).abs().max()) < 1e-12
    one, others = bases(torch.full((5, 1), 3.0).double())
    assert one.shape == (5, 1) and others.shape == (5, 4)


@pytest.fixture(scope="module")
def labelled(diamond: Atoms) -> list[GraphBatch]:
    """Ethanol with energy and forces, methane with an energy, diamond with all labels."""
    teacher = PotentialCalculator(tiny_mace(seed=5))
    found = []
    for atoms, kinds in (
        (rattled("CH3CH2OH", 1), ("energy", "forces")),
        (rattled("CH4", 2), ("energy",)),
        (diamond.copy(), ("energy", "forces", "stress")),
    ):
        atoms.calc = teacher
        labels: dict[str, Any] = {
            "energy": atoms.get_potential_energy(),
            "forces": atoms.get_forces(),
            "stress": atoms.get_stress(voigt=False) if "stress" in kinds else None,
        }
        atoms.calc = None
        for kind in kinds:
            place = atoms.arrays if kind == "forces" else atoms.info
            place[f"REF_{kind}"] = labels[kind]
        found.append(graph(structure(atoms), tiny_mace().cutoff))
    return found


def test_rows_are_labels_and_their_gradients(labelled: list[GraphBatch]) -> None:
    potential = tiny_mace(seed=4)
    parameters = [item for item in potential.parameters() if item.requires_grad]
    batch = concatenate(labelled)
    rows = label_rows(potential, without_copies([batch]), KINDS, parameters)
    assert torch.bincount(rows.kinds).tolist() == [3, 3 * 11, 6]
    prediction = potential(batch, stress=True)
    energies = (batch.energy - prediction.energy) / batch.atoms.sqrt()
    torch.testing.assert_close(rows.residuals[:3], energies.detach())
    torch.testing.assert_close(
        rows.composition * batch.atoms.sqrt()[:, None], potential.composition(batch)
    )
    torch.manual_seed(0)
    direction = [torch.randn_like(item) for item in parameters]
    step, found = 1e-5, []
    for sign in (1, -1):
        with torch.no_grad():
            for item, along in zip(parameters, direction, strict=True):
                item.add_(along, alpha=sign * step)
        found.append(label_rows(potential, without_copies([batch]), KINDS).residuals)
        with torch.no_grad():
            for item, along in zip(parameters, direction, strict=True):
                item.add_(along, alpha=-sign * step)
    difference = (found[1] - found[0]) / (2 * step)
    flat = torch.cat([item.reshape(-1) for item in direction])
    torch.testing.assert_close(rows.gradients @ flat, difference, rtol=1e-5, atol=1e-6)
    alone = label_rows(potential, without_copies(labelled), ("forces",))
    torch.testing.assert_close(alone.residuals, rows.residuals[3:36])
    assert alone.composition.numel() == 0


def test_copies_are_one_label_with_less_noise(labelled: list[GraphBatch]) -> None:
    potential = tiny_mace(seed=4)
    parameters = [item for item in potential.parameters() if item.requires_grad]
    ethanol, methane, crystal = labelled
    pieces = without_copies([concatenate([ethanol, methane, ethanol]), crystal, ethanol])
    assert [piece.copies.tolist() for piece in pieces] == [[3, 1, 1]]
    other = replace(methane, energy=methane.energy + 0.1)  # the same geometry, another label
    apart = without_copies([methane, other])
    assert [piece.copies.tolist() for piece in apart] == [[1], [1]]
    once = label_rows(potential, without_copies(labelled), KINDS, parameters)
    rows = label_rows(potential, pieces, KINDS, parameters)
    factor = torch.ones(len(once.kinds), dtype=torch.float64)
    factor[0] = factor[3 : 3 + 27] = 3**0.5
    torch.testing.assert_close(rows.residuals, once.residuals * factor)
    torch.testing.assert_close(rows.gradients, once.gradients * factor[:, None])
    torch.testing.assert_close(rows.composition, once.composition * factor[:3, None])


def recipe(workspace: Path, output: Path, **changes: Any) -> finetune.Recipe:
    data = {name: str(workspace / f"{name}.xyz") for name in ("train", "valid", "test")}
    changes = {"train": {}, "losses": {"energy": {}}, "data": data} | changes
    changes["train"] = {"optimiser": "gauss-newton", "checkpoint_seconds": 0} | changes["train"]
    return recipe_for(workspace, output, **changes)


@pytest.mark.parametrize("adapter", ["full", "lora", "readout", "head"])
def test_it_learns_the_labels(workspace: Path, tmp_path: Path, adapter: str) -> None:
    chosen = {"kind": adapter, "name": "cc"} if adapter == "head" else {"kind": adapter}
    result = finetune.run(recipe(workspace, tmp_path / "run", adapter=chosen))
    assert 0 < result.best_epoch <= result.epochs <= 10
    assert result.valid.finetuned.energy_mae < 0.9 * result.valid.foundation.energy_mae
    first, *_, last = result.history[1:]
    assert 0 < last["noise/energy"] < 1
    assert last["residual/energy"] < 0.8 * first["residual/energy"]


def test_ten_coupled_cluster_energies_teach_the_embedded_foundation(tmp_path: Path) -> None:
    folder = "data/ccsdt/methanol"
    result = finetune.run(
        {
            "foundation": "tiny-xtb-hcno",
            "data": {
                "train": f"{folder}/train.xyz@:10",
                "valid": f"{folder}/valid.xyz@:10",
                "test": f"{folder}/test.xyz@:10",
            },
            "train": {"optimiser": "gauss-newton", "epochs": 3},
            "output": str(tmp_path / "run"),
        }
    )
    assert result.test is not None and result.test.foundation is not None
    before, after = result.test.foundation, result.test.finetuned
    assert after.energy_mae is not None and before.energy_mae is not None
    assert after.energy_mae < 0.6 * before.energy_mae
    assert after.forces_mae is not None and before.forces_mae is not None
    assert after.forces_mae < 0.6 * before.forces_mae  # of which no label told


@pytest.mark.parametrize("references", ["keep", "estimate"])
def test_reference_energies_stay_and_the_mean_error_goes(
    workspace: Path, tmp_path: Path, references: str
) -> None:
    start = finetune.load_foundation(str(workspace / "foundation")).potential.references()
    finetune.run(recipe(workspace, tmp_path / "run", reference_energies=references))
    tuned = finetune.load_foundation(str(tmp_path / "run")).potential
    if references == "keep":
        assert tuned.references() == start
    frames = ase.io.read(workspace / "train.xyz", ":")
    graphs = [graph(structure(atoms), tuned.cutoff) for atoms in frames]
    rows = label_rows(tuned, without_copies(graphs), ("energy",))
    offsets, rest = bases(rows.composition)
    assert float((offsets.T @ rows.residuals).abs().max()) < 1e-3
    assert float((rest.T @ rows.residuals).abs().mean()) < 0.05


def test_forces_and_stresses_are_labels_too(
    labelled: list[GraphBatch], diamond: Atoms, workspace: Path, tmp_path: Path
) -> None:
    teacher, frames = PotentialCalculator(tiny_mace(seed=5)), []
    for seed in range(6):
        atoms = diamond.copy()
        atoms.positions += np.random.default_rng(seed).normal(0, 0.05, atoms.positions.shape)
        atoms.calc = teacher
        atoms.info = {
            "REF_energy": atoms.get_potential_energy(),
            "REF_stress": atoms.get_stress(voigt=False),
        }
        atoms.arrays["REF_forces"] = atoms.get_forces()
        atoms.calc = None
        frames.append(atoms)
    ase.io.write(tmp_path / "train.xyz", frames[:4])
    ase.io.write(tmp_path / "valid.xyz", frames[4:])
    data = {name: str(tmp_path / f"{name}.xyz") for name in ("train", "valid")}
    losses: dict[str, Any] = {"energy": {}, "forces": {}, "stress": {}}
    result = finetune.run(recipe(workspace, tmp_path / "run", data=data, losses=losses))
    before, after = result.valid.foundation, result.valid.finetuned
    assert after.forces_mae is not None and before.forces_mae is not None
    assert after.forces_mae < 0.5 * before.forces_mae
    assert after.stress_mae is not None and before.stress_mae is not None
    assert after.stress_mae < 0.5 * before.stress_mae


class StopAfter(Silent):
    """Sends SIGTERM to this process when an epoch is shown."""

    def __init__(self, epoch: int) -> None:
        self.at = epoch

    def epoch(self, record: dict[str, Any]) -> None:
        if record["epoch"] == self.at:
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_stopped_run_ends_as_an_undisturbed_one(workspace: Path, tmp_path: Path) -> None:
    settings = {"train": {"epochs": 4, "patience": None}}
    finetune.run(recipe(workspace, tmp_path / "whole", **settings))
    broken = recipe(workspace, tmp_path / "broken", **settings)
    with pytest.raises(RunStoppedError, match="SIGTERM"):
        finetune.run(broken, reporter=StopAfter(2))
    finetune.run(broken, resume="must")
    whole, resumed = (
        finetune.load_foundation(str(tmp_path / name)).potential.state_dict()
        for name in ("whole", "broken")
    )
    for name, tensor in whole.items():  # to rounding: what is compiled by then decides last bits
        torch.testing.assert_close(resumed[name], tensor, rtol=1e-5, atol=1e-6)
    lines = (tmp_path / "broken" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"losses": {"energy": {}, "pitc": {}}}, "losses.pitc: .*fits labels alone"),
        ({"losses": {"energy": {"distance": "huber"}}}, "normal errors, distance=squared"),
        ({"losses": {"energy": {"weight": {"kind": "warm_up", "last": 1.0}}}}, "is a schedule"),
        ({"adapter": "shift"}, "adapter 'shift' trains what reference energies explain"),
        ({"train": {"ema": 0.99}}, "train.ema=0.99 means nothing"),
        ({"train": {"weight_decay": 0.1}}, "train.weight_decay=0.1 means nothing"),
        ({"train": {"schedule": "cosine"}}, "train.schedule=cosine means nothing"),
        ({"train": {"learning_rate": 1.5}}, "the share of each Gauss-Newton step"),
        ({"train": {"learning_rate": 3e-4}}, "the share of each Gauss-Newton step"),
    ],
)
def test_what_means_nothing_is_refused(
    workspace: Path, tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(FinetuneError, match=told):
        finetune.run(recipe(workspace, tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


def test_a_weak_loss_that_is_switched_off_does_not_matter(workspace: Path, tmp_path: Path) -> None:
    losses: dict[str, Any] = {"energy": {}, "pitc": {"weight": 0.0}}
    assert recipe(workspace, tmp_path, losses=losses).train.epochs == 10


def test_too_few_labels_are_refused(workspace: Path, tmp_path: Path) -> None:
    frames = ase.io.read(workspace / "train.xyz", ":")
    ase.io.write(tmp_path / "few.xyz", frames[:2])
    data = {"train": str(tmp_path / "few.xyz"), "valid": str(workspace / "valid.xyz")}
    with pytest.raises(FinetuneError, match="beyond those that settle the reference energies"):
        finetune.run(recipe(workspace, tmp_path / "run", data=data))


def test_copies_of_one_structure_are_no_further_labels(workspace: Path, tmp_path: Path) -> None:
    frames = ase.io.read(workspace / "train.xyz", ":")
    ase.io.write(tmp_path / "copies.xyz", [frames[0]] * 6 + frames[:2])
    data = {"train": str(tmp_path / "copies.xyz"), "valid": str(workspace / "valid.xyz")}
    with pytest.raises(FinetuneError, match="labels? of different structures"):
        finetune.run(recipe(workspace, tmp_path / "run", data=data))
    ase.io.write(tmp_path / "copies.xyz", [*frames, *frames])
    train = {"epochs": 2, "patience": None}
    twice = finetune.run(recipe(workspace, tmp_path / "twice", data=data, train=train))
    data = {name: str(workspace / f"{name}.xyz") for name in ("train", "valid")}
    once = finetune.run(recipe(workspace, tmp_path / "once", data=data, train=train))
    for one, two in zip(once.history[1:], twice.history[1:], strict=True):
        assert two["valid/energy_mae"] == pytest.approx(one["valid/energy_mae"], rel=1e-3)
        assert two["noise/energy"] == pytest.approx(2**0.5 * one["noise/energy"], rel=1e-2)


def test_forces_teach_where_reference_energies_explain_all_energies(
    labelled: list[GraphBatch],
) -> None:
    potential = tiny_mace(seed=4)
    parameters = [item for item in potential.parameters() if item.requires_grad]
    rows = label_rows(potential, without_copies(labelled[:1]), KINDS, parameters)
    sizes = [item.numel() for item in parameters]
    problem = Linearised(rows, sizes, torch.zeros(sum(sizes), dtype=torch.float64))
    assert problem.offsets.shape == (1, 1)
    assert bool(problem.solution.isfinite().all()) and float(problem.solution.norm()) > 0
    assert float(problem.noise.min()) > 0


def test_weights_that_change_reference_energies_alone_are_refused() -> None:
    rows = random_rows([0] * 6, 3, elements=1)
    rows = Rows(rows.residuals, rows.kinds, rows.composition, rows.composition.repeat(1, 3))
    with pytest.raises(TrainingError, match="nothing but what reference energies explain"):
        Linearised(rows, [3], torch.zeros(3, dtype=torch.float64))


def test_labels_that_the_foundation_has_right_change_nothing() -> None:
    rows = random_rows([0] * 6, 5)
    rows = Rows(0 * rows.residuals, rows.kinds, rows.composition, rows.gradients)
    problem = Linearised(rows, [5], torch.zeros(5, dtype=torch.float64))
    assert float(problem.solution.abs().max()) == 0


def test_its_settings_come_and_go_with_it(workspace: Path, tmp_path: Path) -> None:
    plain = recipe(workspace, tmp_path, train={"optimiser": "adamw"})
    there = finetune.Recipe.parse(plain.written(), ["train.optimiser=gauss-newton"])
    assert (there.train.epochs, there.train.patience, there.train.ema) == (10, 3, None)
    dumped = tmp_path / "recipe.yaml"
    dumped.write_text(there.dump(), encoding="utf-8")
    assert finetune.Recipe.load(dumped) == there
    back = finetune.Recipe.load(dumped, ["train.optimiser=adamw"])
    assert (back.train.epochs, back.train.patience, back.train.ema) == (200, None, 0.999)
    assert back.train.learning_rate == 1e-3
    stages = {"first": {}, "second": {"train": {"optimiser": "gauss-newton"}}}
    ladder = finetune.Recipe.parse({**plain.written(), "stages": stages})
    assert [item.train.epochs for item in ladder.climb().values()] == [200, 10]
    members = {**plain.written(), "stages": stages, "committee": {"members": 2}}
    finetune.Recipe.parse(members)
    stages["first"] = {"train": {"optimiser": "gauss-newton"}}
    with pytest.raises(FinetuneError, match="committee.labels=bootstrap"):
        finetune.Recipe.parse(members)


def test_too_many_gradients_are_refused(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suitability, "free_memory", lambda device: 1000)
    with pytest.raises(
        FinetuneError, match=r"GiB for the gradients of 12 labels by [\d,]+ weights"
    ):
        finetune.run(recipe(workspace, tmp_path / "run"))


def test_several_processes_are_refused(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suitability, "process_count", lambda: 2)
    with pytest.raises(FinetuneError, match="works in one process"):
        finetune.validate(recipe(workspace, tmp_path / "run"))


def test_there_is_nothing_to_tune(workspace: Path, tmp_path: Path) -> None:
    with pytest.raises(FinetuneError, match="there is nothing to tune"):
        finetune.tune(recipe(workspace, tmp_path / "run"), budget=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_it_is_compared_with_other_optimisers(workspace: Path, tmp_path: Path) -> None:
    both = recipe(workspace, tmp_path / "run", train={"optimiser": "adamw", "epochs": 2})
    vary = {"train.optimiser": ["adamw", "gauss-newton"]}
    result = finetune.compare(both, vary=vary, seeds=2, budget=2)
    first, second = result.choices.values()
    assert first["trials"] == 2 and second == {"values": {}}
    for arm in result.outcomes:
        assert all("test" in outcome for outcome in result.outcomes[arm].values())


def test_members_that_would_be_the_same_are_refused(workspace: Path, tmp_path: Path) -> None:
    with pytest.raises(FinetuneError, match="committee.labels=bootstrap"):
        recipe(workspace, tmp_path, committee={"members": 2})
    for changes in ({"committee": {"members": 2, "labels": "bootstrap"}}, {"adapter": "lora"}):
        recipe(workspace, tmp_path, **{"committee": {"members": 2}, **changes})
