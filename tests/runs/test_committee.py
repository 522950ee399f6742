"""Committees: several runs of one recipe, from the recipe to what they are used for."""

import json
import signal
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
from ase import Atoms
from typer.testing import CliRunner

import finetune
from finetune.commands import app
from finetune.core.errors import (
    DataError,
    FoundationError,
    RecipeError,
    RunFolderError,
    RunStoppedError,
)
from finetune.data.splitting import bootstrap
from finetune.export.formats import export
from finetune.runs.committee import _learnt_nothing, nearly_the_same
from finetune.runs.preparation import summary
from finetune.runs.workflow import validate_stages
from tests.conftest import Heard, committee_recipe, rattled, recipe_for
from tests.training.test_resume import StopAt

runner = CliRunner()


def test_members_differ_in_seeds_alone(workspace: Path, tmp_path: Path) -> None:
    whole = committee_recipe(
        workspace,
        tmp_path,
        adapter={"kind": "lora", "rank": 2, "seed": 5},
        train={"seed": 3},
        committee={"members": 3},
        stages={"one": {}, "two": {"adapter": {"kind": "lora"}, "train": {"seed": 7}}},
    )
    first, second, third = whole.member_recipes().values()
    assert [item.train.seed for item in (first, second, third)] == [3, 4, 5]
    assert [item.adapter["seed"] for item in (first, second, third)] == [5, 6, 7]
    assert {item.data.seed for item in (first, second, third)} == {3}  # one validation set
    assert second.stages["two"]["adapter"]["seed"] == 1
    assert second.stages["two"]["train"]["seed"] == 8
    assert first.committee is None and third.output == f"{tmp_path}/members/3"
    assert set(first.differences(second)) == {
        *("train.seed", "adapter.seed", "stages.two.adapter.seed", "stages.two.train.seed"),
    }
    drawing = committee_recipe(workspace, tmp_path, committee={"members": 2, "labels": "bootstrap"})
    assert [item.data.bootstrap for item in drawing.member_recipes().values()] == [0, 1]
    for given, seeds in ((None, [3, 4]), (0, [0, 1]), (7, [7, 8])):
        changes = {"data": {"train": "x", "bootstrap": given}, "train": {"seed": 3}}
        members = committee_recipe(workspace, tmp_path, **changes).member_recipes().values()
        assert [item.data.bootstrap for item in members] == seeds
    with pytest.raises(RecipeError, match="committee.members"):
        committee_recipe(workspace, tmp_path, committee={"members": 1})


@pytest.mark.slow
def test_members_that_learnt_nothing_are_told_of(workspace: Path, tmp_path: Path) -> None:
    result = finetune.run(
        committee_recipe(workspace, tmp_path / "run", train={"learning_rate": 1e-30})
    )
    assert all(member.best_epoch == 0 for member in result.members.values())
    assert "2 of 2 members kept the foundation's weights" in result.notes[-1]
    linear = committee_recipe(workspace, tmp_path / "x", train={"optimiser": "gauss-newton"})
    advice = _learnt_nothing(result.members, linear.last_optimiser.kept_foundation)
    assert "learning_rate" in result.notes[-1] and "learning_rate" not in advice[0]


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
    given = committee_recipe(workspace, tmp_path / "run", **changes)
    assert len(nearly_the_same(given)) == told


@pytest.mark.slow
def test_a_committee_climbs_stages(workspace: Path, tmp_path: Path) -> None:
    cheap = {
        "data": {"train": str(workspace / "test.xyz")},
        "losses": {"energy": {}, "forces": {}},
        "train": {"epochs": 2, "learning_rate": 0.01},
    }
    stages = {"cheap": cheap, "dear": {"train": {"epochs": 2, "learning_rate": 1e-30}}}
    given = committee_recipe(
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
    items = list(bootstrap(list(range(400)), seed=1))  # type: ignore[arg-type]
    assert len(items) == 400 and len(set(items)) == pytest.approx(400 * (1 - np.exp(-1)), abs=25)
    assert items == list(bootstrap(list(range(400)), seed=1))  # type: ignore[arg-type]
    assert items != list(bootstrap(list(range(400)), seed=2))  # type: ignore[arg-type]
    for seed in range(9):
        kept = list(bootstrap(range(6), seed, [1, 5]))  # type: ignore[arg-type]
        assert len(kept) == 6 and kept.count(1) == kept.count(5) == 1
    assert list(bootstrap(range(2), 0, [0, 1])) == [0, 1]  # type: ignore[arg-type]


def test_every_member_has_the_free_atoms_of_its_reference_energies(
    workspace: Path, tmp_path: Path
) -> None:
    frames = ase.io.read(workspace / "train.xyz", ":4")
    for symbol in "HCO":
        frames.append(Atoms(symbol, info={"REF_energy": -7.0}))
    ase.io.write(tmp_path / "train.xyz", frames)
    data = {"train": str(tmp_path / "train.xyz"), "valid": str(workspace / "valid.xyz")}
    changes: dict[str, Any] = {"data": data, "reference_energies": "isolated"}
    given = committee_recipe(workspace, tmp_path / "run", **changes)
    for member in given.member_recipes().values():
        assert len(finetune.validate(member).data.train) == 4


def test_a_note_on_all_members_is_told_once(workspace: Path, tmp_path: Path) -> None:
    heard = Heard()
    train = {"learning_rate": 1e-30, "epochs": 1}
    given = committee_recipe(
        workspace,
        tmp_path / "run",
        reference_energies="keep",
        train=train,
        committee={"members": 2},
    )
    result = finetune.run(given, reporter=heard)
    (wrong,) = [note for note in result.notes if "the foundation is wrong by" in note]
    assert heard.lines.count(wrong) == 1
    kept = [line for line in heard.lines if line.startswith("warning: no epoch validated better")]
    assert len(kept) == 2  # of each member
    assert [line for line in heard.lines if line.startswith("member ")] == [
        "member 1 of 2",
        "member 2 of 2",
    ]


def test_different_structures_are_counted_where_they_are_drawn(
    workspace: Path, tmp_path: Path
) -> None:
    for seed, member in enumerate(committee_recipe(workspace, tmp_path).member_recipes().values()):
        different = len(set(bootstrap(range(12), seed)))  # type: ignore[arg-type]
        assert different < 12
        told = f"12 structures, drawn with replacement, {different} of them different (12 with"
        assert told in summary(finetune.validate(member))


def test_a_member_that_draws_no_label_is_refused_before_any_is_trained(
    workspace: Path, tmp_path: Path
) -> None:
    frames = ase.io.read(workspace / "train.xyz", ":4")
    first, *_ = bootstrap(range(4), 0)  # type: ignore[arg-type]
    for atoms in (*frames[:first], *frames[first + 1 :]):
        del atoms.info["REF_energy"]
    ase.io.write(tmp_path / "train.xyz", frames)
    data = {"train": str(tmp_path / "train.xyz"), "valid": str(workspace / "valid.xyz")}
    many = {"members": 8, "labels": "bootstrap"}
    given = committee_recipe(workspace, tmp_path / "run", data=data, committee=many)
    with pytest.raises(
        DataError, match=r"^member \d of 8 draws too few labels: .* no energy labels"
    ):
        finetune.run(given)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_stopped_committee_goes_on_to_the_same_weights(
    committee: Any, workspace: Path, tmp_path: Path
) -> None:
    again = committee_recipe(workspace, tmp_path / "again")
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
    with pytest.raises(FoundationError, match="is a committee.*members/1"):
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
    path.write_text(committee_recipe(workspace, tmp_path / "run", committee=None).dump())
    done = runner.invoke(app, ["run", str(path), "--committee", "3", "--dry-run"])
    assert done.exit_code == 0 and "valid" in done.output, done.output
    assert not (tmp_path / "run").exists()
    done = runner.invoke(app, ["run", str(path), "--committee", "1"])
    assert done.exit_code == 2 and "committee.members" in done.output


@pytest.mark.parametrize("stages", [{}, {"cheap": {}, "dear": {}}])
def test_a_member_that_draws_too_few_labels_is_refused_before_any_is_trained(
    stages: dict[str, Any], workspace: Path, tmp_path: Path
) -> None:
    ethanol = ase.io.read(workspace / "train.xyz", "::2")
    assert [len(set(bootstrap(range(6), seed))) for seed in range(4)] == [4, 5, 5, 3]  # type: ignore[arg-type]
    ase.io.write(tmp_path / "train.xyz", ethanol)
    changes: dict[str, Any] = {
        "data": {"train": str(tmp_path / "train.xyz"), "valid": str(workspace / "valid.xyz")},
        "train": {"optimiser": "gauss-newton"},
        "stages": stages,
    }
    many = {"members": 4, "labels": "bootstrap"}
    given = committee_recipe(workspace, tmp_path / "run", committee=many, **changes)
    where = r"^member 4 of 4( \(stage cheap\))? draws too few labels: .*train.seed"
    with pytest.raises(DataError, match=where):
        finetune.run(given, resume="auto")
    assert not (tmp_path / "run").exists()
    fewer = {"members": 3, "labels": "bootstrap"}
    validate_stages(committee_recipe(workspace, tmp_path / "run", committee=fewer, **changes))
