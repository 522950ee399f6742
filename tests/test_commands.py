"""The command as a user meets it: tables, exit codes, messages without tracebacks."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from finetune.commands import app
from tests.conftest import recipe_for

runner = CliRunner()


@pytest.fixture(scope="module")
def recipe(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("command")
    path = folder / "recipe.yaml"
    path.write_text(recipe_for(workspace, folder / "run", train={"epochs": 2}).dump())
    return path


@pytest.fixture(scope="module")
def run_folder(recipe: Path) -> Path:
    done = runner.invoke(app, ["run", str(recipe)])
    assert done.exit_code == 0, done.output
    assert "fine-tuned" in done.output
    assert "force MAE (components)" in done.output
    assert "epoch 2/2" in done.output
    assert "load_calculator" in done.output
    return recipe.parent / "run"


def test_evaluate_prints_a_table_or_json(run_folder: Path, workspace: Path) -> None:
    path = str(workspace / "test.xyz")
    assert "energy MAE per atom" in runner.invoke(app, ["evaluate", str(run_folder), path]).output
    done = runner.invoke(app, ["evaluate", str(run_folder), path, "--json"])
    assert json.loads(done.stdout)["finetuned"]["structures"] == 6


def test_evaluate_takes_other_keys(run_folder: Path, workspace: Path) -> None:
    arguments = ["evaluate", str(run_folder), str(workspace / "test.xyz"), "--energy-key", "nope"]
    done = runner.invoke(app, [*arguments, "--json"])
    assert json.loads(done.stdout)["finetuned"]["energy_mae"] is None


def test_export_writes_once(run_folder: Path, tmp_path: Path) -> None:
    arguments = ["export", str(run_folder), "--to", str(tmp_path / "tuned.model")]
    assert runner.invoke(app, arguments).exit_code == 0
    again = runner.invoke(app, arguments)
    assert again.exit_code == 2
    assert "exists" in again.stderr
    assert runner.invoke(app, [*arguments, "--overwrite"]).exit_code == 0


def test_an_earlier_run_needs_overwrite(run_folder: Path, recipe: Path) -> None:
    done = runner.invoke(app, ["run", str(recipe)])
    assert done.exit_code == 2
    assert "--overwrite" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "nowhere.yaml"], "no recipe 'nowhere.yaml'"),
        (["run", "quikstart.yaml"], "Did you mean 'quickstart.yaml'?"),
        (["evaluate", "nowhere", "x.xyz"], "no foundation 'nowhere'"),
        (["export", "nowhere", "--to", "x.model"], "no foundation 'nowhere'"),
        (["recipes", "nowhere"], "no recipe 'nowhere'"),
    ],
)
def test_mistakes_get_one_message_and_exit_code_two(arguments: list[str], message: str) -> None:
    done = runner.invoke(app, arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert "Traceback" not in done.output


def test_faulty_overrides_leave_no_folder(recipe: Path, tmp_path: Path) -> None:
    output = tmp_path / "never"
    done = runner.invoke(app, ["run", str(recipe), f"output={output}", "train.epochs=-1"])
    assert done.exit_code == 2
    assert "train.epochs" in done.stderr
    assert not output.exists()


def test_validate_checks_all_and_writes_nothing(recipe: Path, tmp_path: Path) -> None:
    output = tmp_path / "never"
    done = runner.invoke(app, ["validate", str(recipe), f"output={output}"])
    assert done.exit_code == 0, done.output
    assert "12 structures (12 with energies, 0 with forces)" in done.output
    assert "before training, validation energy MAE:" in done.output
    assert "with the foundation's own reference energies" in done.output
    assert "trained: node_embedding 16, interactions.0 " in done.output
    assert "an epoch: 3 steps" in done.output
    assert not output.exists()
    dry = runner.invoke(app, ["run", str(recipe), f"output={output}", "--dry-run"])
    assert dry.exit_code == 0
    assert "valid" in dry.output
    assert not output.exists()
    done = runner.invoke(app, ["validate", str(recipe), f"output={output}", "--json"])
    found = json.loads(done.stdout)
    assert found["coverage"]["train"]["energy"] == 12
    assert found["coverage"]["train"]["compositions"] == 2
    assert found["coverage"]["test"]["forces"] == 6
    assert found["unfitted"]["energy_per_atom_mae"] > 10 * found["before"]["energy_per_atom_mae"]
    assert sum(found["trainable"].values()) == found["parameters"]
    assert found["memory"] > 2**20
    assert found["epoch_seconds"] > 0
    assert not output.exists()
    done = runner.invoke(app, ["validate", str(recipe), "data.train=nowhere.xyz"])
    assert done.exit_code == 2


def test_recipes_are_listed_printed_and_copied(tmp_path: Path) -> None:
    assert "quickstart.yaml" in runner.invoke(app, ["recipes"]).output
    text = runner.invoke(app, ["recipes", "quickstart"]).output
    assert text.startswith("#")
    copy = tmp_path / "mine.yaml"
    assert runner.invoke(app, ["recipes", "quickstart", "--to", str(copy)]).exit_code == 0
    assert copy.read_text() == text
    assert runner.invoke(app, ["recipes", "quickstart", "--to", str(copy)]).exit_code == 2


def test_the_version_is_printed() -> None:
    assert runner.invoke(app, ["--version"]).stdout.startswith("piwsl-finetune 0.")


def test_the_schema_is_printed() -> None:
    assert "properties" in json.loads(runner.invoke(app, ["schema"]).stdout)


def test_help_imports_neither_torch_nor_mace() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from finetune.commands import app;"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0;"
        "import finetune.recipe;"
        "assert not {'torch', 'mace', 'ase', 'e3nn'} & set(sys.modules)"
    )
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    assert time.perf_counter() - started < 10.0
