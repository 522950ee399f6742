"""The command as a user meets it: tables, exit codes, messages without tracebacks."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from ase.io import read, write
from ase.units import Hartree
from click import unstyle
from typer.testing import CliRunner

import finetune
from finetune.commands import app
from finetune.core.errors import RunStoppedError
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
    shown = runner.invoke(app, ["evaluate", str(run_folder), path]).output
    for text in ("energy per atom", "force components", "forces by element", "worst energies"):
        assert text in shown
    done = runner.invoke(app, ["evaluate", str(run_folder), path, "--json"])
    found = json.loads(done.stdout)
    assert found["finetuned"]["structures"] == 6
    mae = found["finetuned"]["statistics"]["forces"]["mae"]
    assert mae == pytest.approx(found["finetuned"]["forces_mae"])
    assert [row["index"] for row in found["worst"]["by_forces"]] != list(range(5))


def test_tables_fit_a_narrow_terminal(
    run_folder: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workspace)
    monkeypatch.setenv("COLUMNS", "80")
    shown = runner.invoke(app, ["evaluate", str(run_folder), "test.xyz", "train.xyz"]).output
    rows = [line.split("│")[1].strip() for line in shown.splitlines() if line.startswith("│")]
    for text in (
        *("energy, mean error removed [meV]", "energy per atom [meV/atom]"),
        *("force components [meV/Å]", "force direction, mean cosine"),
    ):
        assert rows[rows.index(text) + 1 : rows.index(text) + 3] == ["foundation", "fine-tuned"]
    assert "│ test.xyz" in shown
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    for arguments in (["data", "inspect", "test.xyz", "train.xyz"], ["foundations"]):
        done = runner.invoke(app, arguments)
        assert done.exit_code == 0, done.output
        lines = unstyle(done.output).splitlines()
        assert len(lines) > 5
        assert max(map(len, lines)) <= 80


def test_evaluate_writes_json_csv_and_a_plot(
    run_folder: Path, workspace: Path, tmp_path: Path
) -> None:
    to = tmp_path / "deep" / "evaluation"
    arguments = ["evaluate", str(run_folder), str(workspace / "test.xyz"), "--to", str(to)]
    assert runner.invoke(app, arguments).exit_code == 0
    assert json.loads((to / "evaluation.json").read_text())["names"] == ["fine-tuned", "foundation"]
    rows = (to / "structures.csv").read_text().splitlines()
    assert len(rows) == 1 + 6
    assert rows[0].startswith("index,where,subset,formula,atoms,energy,foundation energy error")
    statistics = (to / "statistics.csv").read_text()
    assert "fine-tuned,element,H,forces," in statistics
    cosine = json.loads((to / "evaluation.json").read_text())["finetuned"]["statistics"]
    assert f",{cosine['force_cosine']}\n" in statistics.replace("\r", "")
    assert (to / "parity.png").read_bytes().startswith(b"\x89PNG")
    assert runner.invoke(app, arguments).exit_code == 0  # an evaluation replaces another
    (to / "evaluation.json").unlink()
    refused = runner.invoke(app, arguments)
    assert refused.exit_code == 2
    assert "contains files ('parity.png') that no evaluation writes" in refused.stderr


def test_evaluate_asks_about_energies_that_spread_as_in_hartree(
    run_folder: Path, workspace: Path, tmp_path: Path
) -> None:
    frames = read(workspace / "train.xyz", ":")
    for frame in frames:
        frame.info["REF_energy"] /= Hartree
    write(tmp_path / "hartree.xyz", frames)
    note = finetune.evaluate(run_folder, tmp_path / "hartree.xyz").note
    assert "times what the potential predicts" in note and "in Hartree" in note
    assert "Are they in eV" not in finetune.evaluate(run_folder, workspace / "train.xyz").note


def test_evaluate_puts_any_two_potentials_side_by_side(
    run_folder: Path, workspace: Path, tmp_path: Path
) -> None:
    files = [str(workspace / "test.xyz")]
    model = tmp_path / "tuned.model"
    assert runner.invoke(app, ["export", str(run_folder), "--to", str(model)]).exit_code == 0
    beside = json.loads(runner.invoke(app, ["evaluate", str(model), *files, "--json"]).stdout)
    assert beside["names"] == ["fine-tuned", "foundation"]  # the file says what it was tuned from
    bare = str(workspace / "foundation")
    alone = json.loads(runner.invoke(app, ["evaluate", bare, *files, "--json"]).stdout)
    assert alone["foundation"] is None
    against = ["--against", str(run_folder), "--json"]
    both = json.loads(runner.invoke(app, ["evaluate", str(model), *files, *against]).stdout)
    assert both["names"] == ["tuned.model", "run"]
    assert both["note"] == ""
    plain = runner.invoke(app, ["evaluate", bare, *files]).output
    assert "a different zero of energy" in plain
    for quantity in ("energy", "forces"):
        same = [both[key]["statistics"][quantity]["mae"] for key in ("finetuned", "foundation")]
        assert same[0] == pytest.approx(same[1], rel=1e-6)


def test_evaluate_takes_other_keys(run_folder: Path, workspace: Path) -> None:
    arguments = ["evaluate", str(run_folder), str(workspace / "test.xyz"), "--energy-key"]
    found = json.loads(runner.invoke(app, [*arguments, "REF_energy", "--json"]).stdout)
    assert found["finetuned"]["labelled_energies"] == 6
    missing = runner.invoke(app, [*arguments, "nope"])
    assert missing.exit_code == 2
    assert "'nope'" in missing.stderr


def test_md_is_run_once_and_goes_on(run_folder: Path, workspace: Path, tmp_path: Path) -> None:
    arguments = ["md", str(run_folder), str(workspace / "test.xyz"), "--to", str(tmp_path / "md")]
    arguments += ["--length", "0.003", "--interval", "1", "--replicas", "1", "--ensemble"]
    done = runner.invoke(app, [*arguments, "nvt"])
    assert done.exit_code == 0, done.output
    assert "foundation nvt-300K-structure0-replica0: " in done.output
    assert "NVT 300 K" in done.output
    assert (tmp_path / "md" / "fine-tuned" / "nvt-300K-structure0-replica0.traj").is_file()
    again = runner.invoke(app, [*arguments, "nvt", "--ensemble", "nve", "--json"])
    found = json.loads(again.stdout)
    assert [len(found["trajectories"][name]) for name in found["names"]] == [2, 2]
    assert "foundation nvt" not in again.stderr
    other = runner.invoke(app, [*arguments, "nvt", "--seed", "1"])
    assert other.exit_code == 2
    assert "other settings" in other.stderr
    (tmp_path / "md" / "mine.txt").write_text("")
    refused = runner.invoke(app, [*arguments, "nvt", "--seed", "1", "--overwrite"])
    assert refused.exit_code == 2
    assert "contains files ('mine.txt')" in refused.stderr
    (tmp_path / "md" / "mine.txt").unlink()
    assert runner.invoke(app, [*arguments, "nvt", "--seed", "1", "--overwrite"]).exit_code == 0


def test_a_stopped_md_does_not_advise_to_erase_what_was_saved(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise RunStoppedError("at 3 of 9 steps; all is saved.", 143)

    monkeypatch.setattr("finetune.evaluation.dynamics.md", stopped)
    arguments = ["md", "runs/a b", "--overwrite", "--seed", "1"]
    monkeypatch.setattr(sys, "argv", ["piwsl-finetune", *arguments])
    done = runner.invoke(app, arguments)
    assert done.exit_code == 143
    assert done.stderr.endswith("resume with  piwsl-finetune md 'runs/a b' --seed 1\n")


def test_scan_prints_tables_and_writes(run_folder: Path, workspace: Path, tmp_path: Path) -> None:
    arguments = ["scan", str(run_folder), "--only", "dimers", "--only", "forgetting"]
    arguments += ["--away", str(workspace / "valid.xyz")]
    done = runner.invoke(app, [*arguments, "--to", str(tmp_path / "scans")])
    assert done.exit_code == 0, done.output
    for text in ("pairs of atoms", "H-C", "what has changed", "elsewhere"):
        assert text in done.output
    stored = json.loads((tmp_path / "scans" / "scans.json").read_text())
    assert stored["names"] == ["foundation", "fine-tuned"]
    assert (tmp_path / "scans" / "dimer.png").is_file()


def test_tests_of_a_model_file_need_a_place(
    run_folder: Path, workspace: Path, tmp_path: Path
) -> None:
    model = str(tmp_path / "tuned.model")
    assert runner.invoke(app, ["export", str(run_folder), "--to", model]).exit_code == 0
    frames = str(workspace / "test.xyz@:2")
    bare = str(workspace / "foundation")
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / ".env").write_text("secret")
    for arguments, message in (
        (["scan", model, frames], "is not a run folder"),
        (["md", model, frames], "is not a run folder"),
        (["scan", bare, "--to", str(tmp_path / "x")], "no structures are named"),
        (["scan", model, frames, "--only", "dimer"], "Did you mean 'dimers'?"),
        (["md", model, frames, "--ensemble", "npt"], "choose nve or nvt"),
        (["md", model, frames, "--temperature", "0"], "temperature is 0"),
        (["md", model, frames, "--temperature", "300", "--temperature", "nan"], "temperature is n"),
        (["md", model, frames, "--temperature", "300", "--temperature", "inf"], "temperature is i"),
        (
            ["md", model, frames, "--bond-limit", "-1"],
            "bond limit is -1; it must be above",
        ),
        (["md", model, frames, "--bond-limit", "nan"], "bond limit is nan"),
        (["md", model, frames, "--bond-limit", "inf"], "bond limit is inf"),
        *(
            (
                ["md", model, frames, f"--{option}", number],
                f"{option.replace('-', ' ')} is {number}",
            )
            for option in ("length", "time-step", "friction", "interval")
            for number in ("nan", "inf")
        ),
        (["data", "inspect", frames, "--tolerance", "inf"], "tolerance is inf"),
        (["data", "split", frames, "--to", bare, "--tolerance", "inf"], "tolerance is inf"),
        (["md", model, frames, "--to", str(run_folder)], "is a run folder; choose another --to"),
        (["scan", model, frames, "--to", str(run_folder)], "is a run folder; choose another --to"),
        (
            ["evaluate", model, frames, "--to", str(run_folder)],
            "contains files ('adapter/adapter.json')",
        ),
        (["evaluate", model, frames, "--to", model], "is a file. Choose another folder"),
        (["evaluate", model, frames, "--to", f"{model}/x"], "is a file, so"),
        (["md", model, frames, "--to", bare], "that no test writes"),
        (["md", model, frames, "--to", str(hidden), "--overwrite"], "contains files ('.env')"),
        (["scan", model, frames, "--to", bare], "that no test writes"),
        (["md", model, frames, "--length", "1e12"], "are 2e+15 steps; at most 1e+09"),
        (["evaluate", model, frames, "--device", "cuda:99"], "Choose cpu"),
    ):
        done = runner.invoke(app, arguments)
        assert done.exit_code == 2, arguments
        assert message in done.stderr
    place = ["--to", str(tmp_path / "scans"), "--only", "dimers", "--element", "H"]
    done = runner.invoke(app, ["scan", model, frames, *place])
    assert done.exit_code == 0, done.output
    assert "fine-tuned" in done.output


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
    before = {path: path.stat().st_mtime_ns for path in run_folder.rglob("*")}
    ladder = recipe.with_name("ladder.yaml")
    ladder.write_text(recipe.read_text().replace("stages: {}", "stages: {a: {}}"))
    for arguments in ([str(recipe)], [str(recipe), "committee.members=2"], [str(ladder)]):
        checked = runner.invoke(app, ["validate", *arguments])
        assert checked.exit_code == 0, checked.output
        told = "note: `run` would stop: '.*' holds an earlier run. Choose another output=FOLDER, or"
        assert re.search(told, checked.output)
        assert checked.output.rstrip().endswith("valid")
    assert {path: path.stat().st_mtime_ns for path in run_folder.rglob("*")} == before
    (run_folder / "mine.txt").write_text("")
    refused = runner.invoke(app, ["validate", str(recipe)])
    assert refused.exit_code == 2
    assert "contains files ('mine.txt')" in refused.stderr
    (run_folder / "mine.txt").unlink()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "nowhere.yaml"], "no recipe 'nowhere.yaml'"),
        (["run", "quikstart.yaml"], "Did you mean 'quickstart.yaml'?"),
        (["evaluate", "nowhere", "x.xyz"], "no foundation 'nowhere'"),
        (["export", "nowhere", "--to", "x.model"], "no foundation 'nowhere'"),
        (["recipes", "nowhere"], "no recipe 'nowhere'"),
        (["validate", "folder.yaml"], "'folder.yaml' is a folder, not a recipe"),
        (["validate", "quickstart", "output=ring/x"], "a symbolic link in it leads back to itself"),
    ],
)
def test_mistakes_get_one_message_and_exit_code_two(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "ring").symlink_to(tmp_path / "ring")
    done = runner.invoke(app, arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert "Traceback" not in done.output


@pytest.mark.slow
def test_a_dry_run_takes_resume_as_the_run_does(run_folder: Path, recipe: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in run_folder.rglob("*")}
    for command in (["run", str(recipe), "--dry-run"], ["validate", str(recipe)]):
        done = runner.invoke(app, [*command, "--resume", "auto"])
        assert done.exit_code == 0, done.output
        assert done.output.rstrip().endswith("valid")
        other = runner.invoke(app, [*command, "--resume", "auto", "train.epochs=3"])
        assert other.exit_code == 2
        assert "another recipe: train.epochs differs" in other.stderr
        free = runner.invoke(app, [*command, "--resume", "must", f"output={recipe.parent / 'no'}"])
        assert "no run with a checkpoint to resume" in free.stderr
    assert {path: path.stat().st_mtime_ns for path in run_folder.rglob("*")} == before


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


@pytest.mark.parametrize(("width", "theory"), [(30, False), (60, True), (120, True)])
def test_the_catalogue_keeps_names_whole(
    width: int, theory: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    lines = runner.invoke(app, ["foundations"]).output.splitlines()
    assert any("mace-matpes-r2scan-0" in line for line in lines)
    assert any("ωB97M-D3(BJ)/def2-TZVPPD" in line for line in lines) == theory
    assert not any("…" in line for line in lines)
    assert max(map(len, lines)) <= width


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


def test_what_no_run_needs_is_not_imported() -> None:
    """And MACE's own packages are complete as soon as someone uses them."""
    code = (
        "import sys; from typer.testing import CliRunner; from finetune.commands import app;"
        "done = CliRunner().invoke(app, ['validate', 'recipes/quickstart.yaml']);"
        "assert done.exit_code == 0, done.output;"
        "heavy = {'torchmetrics', 'transformers', 'pandas', 'wandb', 'matplotlib', 'scipy.stats'};"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules);"
        "import mace.tools, e3nn.io;"
        "assert mace.tools.train.__module__ == 'mace.tools.train';"
        "assert e3nn.io.SphericalTensor and mace.tools.cg"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


def test_help_imports_neither_torch_nor_mace() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from finetune.commands import app;"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0;"
        "import finetune.recipe.recipe;"
        "assert not {'torch', 'mace', 'ase', 'e3nn'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
