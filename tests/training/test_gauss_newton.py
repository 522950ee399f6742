"""The optimiser for few labels: what it learns, what it refuses."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms

import finetune
from finetune import FinetuneError
from finetune.core.errors import RunStoppedError
from finetune.data.graphs import graph
from finetune.export.calculator import PotentialCalculator
from finetune.studies.space import with_values
from finetune.training.optimisers import gauss_newton
from finetune.training.optimisers.label_rows import bases, label_rows, without_copies
from finetune.training.records import Silent
from tests.conftest import recipe_for, structure
from tests.tiny import tiny_mace


def recipe(workspace: Path, output: Path, **changes: Any) -> finetune.Recipe:
    data = {name: str(workspace / f"{name}.xyz") for name in ("train", "valid", "test")}
    changes = {"train": {}, "losses": {"energy": {}}, "data": data} | changes
    changes["train"] = {"optimiser": "gauss-newton", "checkpoint_seconds": 0} | changes["train"]
    return recipe_for(workspace, output, **changes)


@pytest.mark.slow
@pytest.mark.parametrize("adapter", ["full", "readout", "lora", "head"])
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


@pytest.mark.parametrize("references", ["keep", pytest.param("estimate", marks=pytest.mark.slow)])
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


@pytest.mark.slow
def test_forces_and_stresses_are_labels_too(
    diamond: Atoms, workspace: Path, tmp_path: Path
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


@pytest.mark.slow
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
        ({"train": {"amsgrad": False}}, "train.amsgrad=False means nothing"),
        ({"train": {"plateau_factor": 0.2}}, "train.plateau_factor=0.2 means nothing"),
        ({"stages": {"a": {}, "b": {"losses": {"pitc": {}}}}}, "in the stage 'b': losses.pitc"),
        ({"train": {"weight_decay": 0.1}}, "train.weight_decay=0.1 means nothing"),
        ({"train": {"schedule": "cosine"}}, "train.schedule=cosine means nothing"),
        ({"train": {"learning_rate": 1.5}}, "is the share of each step"),
        ({"train": {"learning_rate": 3e-4}}, "is the share of each step"),
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
    with pytest.raises(FinetuneError, match="beyond those that fix the reference energies"):
        finetune.run(recipe(workspace, tmp_path / "run", data=data))


@pytest.mark.slow
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
    empty = finetune.Recipe.parse({**plain.written(), "train": None}, ["train.optimiser=adam"])
    assert empty.train.optimiser == "adam"
    stages: dict[str, Any] = {"first": {}, "second": {"train": {"optimiser": "gauss-newton"}}}
    ladder = finetune.Recipe.parse({**plain.written(), "stages": stages})
    assert [item.train.epochs for item in ladder.stage_recipes().values()] == [200, 10]
    scheduled = {**plain.written(), "stages": stages}
    scheduled["train"] = {"epochs": 5, "schedule": "cosine", "ema": 0.9}
    first, second = finetune.Recipe.parse(scheduled).stage_recipes().values()
    assert (first.train.epochs, first.train.schedule, first.train.ema) == (5, "cosine", 0.9)
    assert (second.train.epochs, second.train.schedule, second.train.ema) == (10, "constant", None)
    members = {**plain.written(), "stages": stages, "committee": {"members": 2}}
    finetune.Recipe.parse(members)
    stages["first"] = {"train": {"optimiser": "gauss-newton"}}
    with pytest.raises(FinetuneError, match="committee.labels=bootstrap"):
        finetune.Recipe.parse(members)


@pytest.mark.parametrize("optimisers", [("adamw", "gauss-newton"), ("gauss-newton", "adamw")])
@pytest.mark.parametrize("written", [{}, {"epochs": 7, "patience": 2}])
def test_the_written_recipe_of_a_ladder_gives_the_same_stages(
    workspace: Path, tmp_path: Path, optimisers: tuple[str, str], written: dict[str, Any]
) -> None:
    outer, inner = optimisers
    content = recipe(workspace, tmp_path, train={"optimiser": outer}).written()
    content["train"] |= written
    content["stages"] = {"one": {"train": {"optimiser": inner}}, "two": {}}
    ladder = finetune.Recipe.parse(content)
    again = finetune.Recipe.parse(ladder.complete())
    for name, stage in ladder.stage_recipes().items():
        assert again.stage_recipes()[name].train == stage.train, name
    assert ladder.differences(again) == []


def test_a_comparison_may_change_the_optimiser(workspace: Path, tmp_path: Path) -> None:
    plain = recipe(workspace, tmp_path, train={"optimiser": "adamw", "schedule": "cosine"})
    solved = with_values(plain, {"train.optimiser": "gauss-newton"})
    assert (solved.train.schedule, solved.train.epochs) == ("constant", 10)
    assert with_values(solved, {"train.optimiser": "adamw"}).train.epochs == 200


def test_labels_are_counted_as_they_are_solved(workspace: Path, tmp_path: Path) -> None:
    frames = ase.io.read(workspace / "train.xyz", ":")[:3]
    charged = [atoms.copy() for atoms in frames]
    for atoms, frame in zip(charged, frames, strict=True):
        atoms.info["charge"] = 1
        atoms.info["REF_energy"] = frame.info["REF_energy"] + 1.0
    ase.io.write(tmp_path / "states.xyz", [*frames, *charged])
    data = {"train": str(tmp_path / "states.xyz"), "valid": str(workspace / "valid.xyz")}
    survey = finetune.validate(recipe(workspace, tmp_path / "run", data=data))
    assert survey.coverage["train"].energy == 6  # two states of three geometries are six labels


def test_too_many_gradients_are_refused(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gauss_newton, "free_memory", lambda device: 1000)
    with pytest.raises(
        FinetuneError, match=r"GiB for the gradients of 12 labels by [\d,]+ weights"
    ):
        finetune.run(recipe(workspace, tmp_path / "run"))


def test_several_processes_are_refused(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gauss_newton, "process_count", lambda: 2)
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
