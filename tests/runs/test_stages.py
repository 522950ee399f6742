"""Stages of a recipe: each a run that starts from the one before."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import finetune
from finetune import FinetuneError, Recipe
from finetune.commands import app
from finetune.core.errors import RecipeError, RunStoppedError, TrainingError
from tests.conftest import recipe_for
from tests.training.test_resume import StopAt, outcome

runner = CliRunner()


def ladder(workspace: Path, output: Path, **changes: Any) -> Recipe:
    stages = {
        "cheap": {
            "data": {"train": str(workspace / "test.xyz")},
            "losses": {"energy": {}, "forces": {"weight": 1.0}},
            "train": {"epochs": 2},
        },
        "dear": {"adapter": {"kind": "readout"}, "train": {"epochs": 3}},
    }
    return recipe_for(
        workspace,
        output,
        losses={"energy": {}, "pitc": {"weight": 0.1, "anchored": True}},
        train={"learning_rate": 0.01, "ema": 0.5, "checkpoint_seconds": 0},
        stages=stages,
        **changes,
    )


@pytest.fixture(scope="module")
def climbed(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return finetune.run(ladder(workspace, tmp_path_factory.mktemp("ladder") / "run"))


def test_a_stage_changes_what_it_names(workspace: Path, tmp_path: Path) -> None:
    cheap, dear = ladder(workspace, tmp_path / "run").stage_recipes().values()
    assert (cheap.train.epochs, dear.train.epochs) == (2, 3)
    assert dear.train.learning_rate == cheap.train.learning_rate == 0.01
    assert set(cheap.losses) == {"energy", "forces"}
    assert set(dear.losses) == {"energy", "pitc"}
    assert cheap.data.train == str(workspace / "test.xyz")
    assert cheap.data.valid == dear.data.valid
    assert dear.foundation == cheap.output == str(tmp_path / "run" / "stages" / "cheap")
    assert (cheap.adapter["kind"], dear.adapter["kind"]) == ("full", "readout")
    recipe = ladder(workspace, tmp_path / "run")
    assert Recipe.parse(recipe.model_dump(mode="json")) == recipe


def test_each_stage_starts_from_the_one_before(climbed: Any) -> None:
    cheap, dear = climbed.stages.values()
    assert (cheap.epochs, dear.epochs) == (2, 3)
    stored = json.loads((climbed.folder / "stages" / "dear" / "environment.json").read_text())
    below = json.loads((cheap.folder / "model" / "config.json").read_text())
    assert stored["foundation"]["fingerprint"] == below["fingerprint"]


def test_the_ladder_is_reported_evaluated_and_exported_as_a_run(
    climbed: Any, workspace: Path, tmp_path: Path
) -> None:
    page = (climbed.folder / "report.html").read_text()
    for name in ("cheap", "dear"):
        assert f'href="stages/{name}/report.html"' in page
        assert (climbed.folder / "stages" / name / "report.html").is_file()
    assert "<th>foundation</th>" in page and "<th>stage cheap</th>" in page
    assert climbed.stages["dear"].shown.table().columns[1].header == "stage cheap*"
    assert climbed.epochs == 5
    assert climbed.summary.startswith("2 stages finished after 5 epochs and")
    stored = json.loads((climbed.folder / "result.json").read_text())
    assert list(stored["stages"]) == ["cheap", "dear"]
    found = finetune.evaluate(climbed.folder, workspace / "test.xyz")
    assert found.finetuned.energy_mae == pytest.approx(climbed.test.finetuned.energy_mae)
    assert found.foundation is not None  # the stage before
    done = runner.invoke(app, ["export", str(climbed.folder), "--to", str(tmp_path / "a.model")])
    assert done.exit_code == 0, done.output


@pytest.mark.slow
def test_a_stopped_ladder_goes_on_where_it_was(
    climbed: Any, workspace: Path, tmp_path: Path
) -> None:
    recipe = ladder(workspace, tmp_path / "run")

    class StopInSecond(StopAt):
        def epoch(self, record: dict[str, Any]) -> None:
            if any("stage dear" in line for line in self.said):
                super().epoch(record)

    with pytest.raises(RunStoppedError, match="stages/dear"):
        finetune.run(recipe, reporter=StopInSecond(1, signal.SIGTERM))
    with pytest.raises(FinetuneError, match="unfinished run"):
        finetune.run(recipe)
    finetune.run(recipe, resume="auto")
    for name in ("cheap", "dear"):
        assert outcome(tmp_path / "run" / "stages" / name) == outcome(
            climbed.folder / "stages" / name
        )
    finetune.run(recipe, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_stage_that_fails_keeps_the_ones_before(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = ladder(workspace, tmp_path / "run").model_dump(mode="json")
    recipe["stages"]["dear"]["train"] = {
        "learning_rate": 1e200,
        "epochs": 9,
        "ema": None,
        "rollbacks": 0,
    }
    with pytest.raises(TrainingError, match="keeps diverging"):
        finetune.run(recipe)
    assert (tmp_path / "run" / "stages" / "cheap" / "model" / "config.json").is_file()


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"foundation": "tiny-xtb-hcno"}, "stages.dear: 'foundation' cannot differ"),
        ({"loss": {}}, "Did you mean 'losses'"),
        ({"train": {"epoch": 3}}, "in the stage 'dear'(.|\n)*Did you mean 'epochs'"),
    ],
)
def test_a_faulty_stage_is_named(
    stage: dict[str, Any], message: str, workspace: Path, tmp_path: Path
) -> None:
    recipe = ladder(workspace, tmp_path / "run").model_dump(mode="json")
    recipe["stages"]["dear"] = stage
    with pytest.raises(RecipeError, match=message):
        Recipe.parse(recipe)


def test_files_of_every_stage_are_checked_before_anything_is_written(
    workspace: Path, tmp_path: Path
) -> None:
    recipe = ladder(workspace, tmp_path / "run").model_dump(mode="json")
    recipe["stages"]["dear"]["data"] = {"train": "nowhere.xyz"}
    with pytest.raises(FinetuneError, match="no structure file 'nowhere.xyz'"):
        finetune.run(recipe)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_every_stage_is_surveyed(workspace: Path, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(ladder(workspace, tmp_path / "run").dump())
    done = runner.invoke(app, ["validate", str(path)])
    assert done.exit_code == 0, done.output
    assert "stage cheap" in done.output
    assert "stage dear" in done.output
    found = json.loads(runner.invoke(app, ["validate", str(path), "--json"]).stdout)
    assert found["stages"]["cheap"]["coverage"]["train"]["forces"] == 6
    assert list(found["stages"]["dear"]["trainable"]) == ["readouts.0", "readouts.1"]
    assert [item.name for item in tmp_path.iterdir()] == ["recipe.yaml"]


def test_structures_of_an_earlier_stage_are_noticed(workspace: Path, tmp_path: Path) -> None:
    from finetune.runs.workflow import validate_stages

    found = validate_stages(ladder(workspace, tmp_path / "run"))  # `cheap` trains on test.xyz
    notes = [note for note in found["dear"].notes if "training set of the stage" in note]
    assert notes == [  # the geometries of valid.xyz and test.xyz are the same
        f"warning: 6 of the {split} structures are in the training set of the stage 'cheap'."
        for split in ("valid", "test")
    ]


def test_errors_that_an_earlier_stage_changes_are_not_measured(
    workspace: Path, tmp_path: Path
) -> None:
    from finetune.runs.validation import measured
    from finetune.runs.workflow import validate_stages

    stages = validate_stages(ladder(workspace, tmp_path / "run"))
    (first, one), (second, two) = ((name, measured(item)) for name, item in stages.items())
    assert one.before is not None and one.unfitted is not None
    assert any("before training, validation" in line for line in one.lines())
    assert two.before is two.unfitted is None and two.as_dict()["before"] is None
    assert f"before training: not measured: starts from stage {first}" in two.lines()
    assert second and not any("before training," in line for line in two.lines())
    assert not any("is wrong by" in line for line in two.lines())
