"""Nothing that was computed is lost, nothing that failed is hidden, and what is written is read."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from typer.testing import CliRunner

import finetune
from finetune.commands import app
from finetune.data.labels import Structure
from finetune.data.reading import read_structures
from finetune.errors import DataError, FinetuneError, RecipeError
from finetune.labelling.label import Task
from finetune.labelling.recipe import LabelRecipe
from finetune.labelling.workers import Worker
from tests.conftest import rattled, recipe_for

pytest.importorskip("tblite")
SLOW = "tests.labelling.slow_calculator.Slow"
XTB = {"program": "tblite"}
ROOT = Path(__file__).resolve().parents[2]


def springs(pool: Path, output: Path, seconds: float = 0.0, **changes: Any) -> dict[str, Any]:
    arguments = {"seconds": seconds, "log": str(output.with_suffix(".log"))}
    level = {"program": "ase", "calculator": SLOW, "arguments": arguments}
    return {"structures": str(pool), "level": level, "output": str(output), **changes}


def computed(output: Path) -> list[str]:
    """Return what the calculator was asked for, structure by structure."""
    log = output.with_suffix(".log")
    return [line.split()[0] for line in log.read_text().splitlines()] if log.exists() else []


def pool_of(path: Path, count: int = 6, numbers: tuple[int, ...] = ()) -> Path:
    frames = [Atoms([1], [[index + 1.0, 0.5, 0.0]]) for index in range(count)]
    frames += [Atoms([number], [[100.0 + number, 0.0, 0.0]]) for number in numbers]
    ase.io.write(path, frames)
    return path


def assert_springs(structures: Any) -> None:
    for item in structures:
        assert isinstance(item, Structure)
        assert item.energy == pytest.approx((item.positions**2).sum())
        np.testing.assert_allclose(item.forces, -2 * item.positions)


@pytest.fixture(scope="module")
def molecules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pool") / "pool.xyz"
    frames = [rattled(name, seed) for seed, name in enumerate(("CH3OH", "H2O", "CH3OH", "CH4"))]
    radical = molecule("OH")
    radical.info.update(spin=2, config_type="radical", REF_energy=1.0, level_of_theory="guess")
    ase.io.write(path, [*frames, radical])
    return path


def test_labels_are_read_and_validated(molecules: Path, workspace: Path, tmp_path: Path) -> None:
    plain = finetune.label(
        {"structures": str(molecules), "level": XTB, "output": str(tmp_path / "a.xyz")}
    )
    assert (plain.labelled, plain.computed, plain.failures) == (5, 5, ())
    found = finetune.label(
        {
            "structures": f"{molecules}@:4",
            "level": XTB,
            "output": str(tmp_path / "a.h5"),
            "isolated_atoms": True,
            "workers": 2,
        }
    )
    assert list(found.reference_energies) == ["H", "C", "O"]
    first, second = read_structures(tmp_path / "a.xyz"), read_structures(tmp_path / "a.h5")
    for one, other in zip(first, second, strict=False):
        assert one.energy == pytest.approx(other.energy, abs=1e-9)
        assert other.level_of_theory == "GFN2-xTB"
        assert str(other.tags["program"]).startswith("tblite ")
        assert other.tags["units"] == "eV, eV/Angstrom, eV/Angstrom^3"
    assert first[4].spin == 2
    assert first[4].tags["config_type"] == "radical"
    assert first[4].energy != 1.0
    assert found.atoms is not None
    atoms = read_structures(found.atoms)
    assert [item.spin for item in atoms] == [2, 3, 3]
    data = {"train": [str(tmp_path / "a.h5"), str(found.atoms)], "valid": f"{tmp_path}/a.xyz@:4"}
    recipe = recipe_for(workspace, "x", data=data, reference_energies="isolated")
    assert len(finetune.validate(recipe).data.train) == 4


@pytest.mark.slow
@pytest.mark.parametrize("references", ["isolated", "estimate", "given"])
def test_labels_are_trained_on(
    references: str, molecules: Path, workspace: Path, tmp_path: Path
) -> None:
    recipe = {"structures": str(molecules), "level": XTB, "output": f"{tmp_path}/a.xyz"}
    found = finetune.label(recipe, ["isolated_atoms=true"])
    assert found.atoms is not None
    train = [str(found.output), *([str(found.atoms)] if references == "isolated" else [])]
    tuning = recipe_for(
        workspace,
        tmp_path / "run",
        data={"train": train, "valid": f"{found.output}@:3"},
        reference_energies=found.reference_energies if references == "given" else references,
        train={"epochs": 1},
    )
    result = finetune.run(tuning)
    labels = [item.energy for item in read_structures(found.output)]
    predicted, known = result.valid.finetuned_predictions.energy
    np.testing.assert_allclose(known, labels[:3], rtol=1e-9)
    assert np.abs(predicted - known).max() < 50  # eV; with references of its own it is off by 1000
    first, last = result.history
    assert first["valid/loss"] != last["valid/loss"]
    told = json.loads((tmp_path / "run" / "environment.json").read_text())["data"]["files"]
    assert told[0]["structures"] == 5


def test_a_worker_that_is_closed_as_it_starts_leaves_no_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worker, made = Worker({"threads": 1}), []
    start = subprocess.Popen

    def slow_start(*given: Any, **options: Any) -> Any:
        made.append(start(*given, **options))
        worker.close()
        return made[0]

    monkeypatch.setattr(subprocess, "Popen", slow_start)
    reply = worker.compute(Task([1], [[0.0] * 3], [[0.0] * 3] * 3, [False] * 3, 0, 2), False)
    assert reply == {"reason": "it was given up"}
    assert made[0].returncode == -signal.SIGKILL


def test_several_workers_give_what_one_gives(molecules: Path, tmp_path: Path) -> None:
    for workers in (1, 2):
        finetune.label(
            {"structures": str(molecules), "level": XTB, "output": f"{tmp_path}/{workers}.xyz"},
            [f"workers={workers}"],
        )
    assert (tmp_path / "1.xyz").read_text() == (tmp_path / "2.xyz").read_text()


def test_workers_have_their_threads_and_compute_side_by_side(tmp_path: Path) -> None:
    pool, output = pool_of(tmp_path / "pool.xyz", 6), tmp_path / "a.xyz"
    finetune.label(springs(pool, output, 0.5, workers=3, threads=2))
    assert_springs(read_structures(output))
    lines = output.with_suffix(".log").read_text().splitlines()
    assert [line.split()[1] for line in lines] == ["2"] * 6
    assert not (tmp_path / "a.xyz.files").exists()


def test_failures_are_listed_kept_and_retried(tmp_path: Path) -> None:
    pool, output = pool_of(tmp_path / "pool.xyz", 2, (2, 3, 4, 5)), tmp_path / "a.xyz"
    found = finetune.label(springs(pool, output, workers=2))
    assert found.labelled == 2
    assert_springs(read_structures(output))
    reasons = {failure.index: failure.reason for failure in found.failures}
    assert list(reasons) == [2, 3, 4, 5]
    for index, text in ((2, "not converge"), (3, "killed"), (4, "RuntimeError"), (5, "NaN")):
        assert text in reasons[index]
    assert f"'{pool}', structure 3" in found.failures[1].where
    record = json.loads((tmp_path / "a.xyz.json").read_text())
    assert [failure["index"] for failure in record["failures"]] == [2, 3, 4, 5]
    assert len(computed(output)) == 6
    again = finetune.label(springs(pool, output))
    assert (again.computed, again.failures) == (0, found.failures)
    retried = finetune.label(springs(pool, output), retry_failed=True)
    assert (retried.computed, retried.failures) == (4, found.failures)
    pool_of(pool, 4)  # more of them, and those that failed taken out
    more = finetune.label(springs(pool, output))
    assert (more.computed, more.labelled, more.failures) == (2, 4, ())
    ase.io.write(pool, Atoms([4], [[1.0, 0.0, 0.0]]))
    with pytest.raises(DataError, match=r"none of 1 structure has a label.*RuntimeError"):
        finetune.label(springs(pool, tmp_path / "none.xyz"))
    assert not (tmp_path / "none.xyz").exists()


def test_programs_that_work_with_files_do_not_meet(tmp_path: Path) -> None:
    pool, output = pool_of(tmp_path / "pool.xyz", 6, (2, 3)), tmp_path / "a.xyz"
    recipe = springs(pool, output, workers=3, forces=False)
    recipe["level"] = {"program": "ase", "calculator": "tests.labelling.file_calculator.Springs"}
    found = finetune.label(recipe)
    for item in read_structures(output):
        assert item.energy == pytest.approx((item.positions**2).sum())
    assert [failure.index for failure in found.failures] == [6, 7]
    for failure in found.failures:  # no answer is none, not that of the structure before
        (place,) = re.findall(r"its files: (a\.xyz\.files/failed-\w+)", failure.reason)
        left = sorted(path.name for path in (tmp_path / place).iterdir())
        assert left == ["springs.in", "springs.log"]
        said = (tmp_path / place / "springs.log").read_text()
        assert ("no basis for He" in said) == (failure.index == 6)


def command(recipe: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "finetune", "label", str(recipe), "--plain"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def begun(output: Path, count: int) -> None:
    deadline = time.time() + 60
    while len(computed(output)) < count:
        assert time.time() < deadline
        time.sleep(0.02)


def test_a_kill_loses_what_is_in_progress_alone(tmp_path: Path) -> None:
    pool, output = pool_of(tmp_path / "pool.xyz", 9), tmp_path / "a.xyz"
    recipe = tmp_path / "label.yaml"
    recipe.write_text(json.dumps(springs(pool, output, 0.3, workers=2)))
    with command(recipe) as process:
        begun(output, 5)
        process.kill()
    assert not output.exists()
    journal = output.with_name("a.xyz.journal")
    stored = len(journal.read_bytes().splitlines()) - 1
    assert stored >= len(computed(output)) - 2
    with journal.open("ab") as file:
        file.write(b'0123456789abcdef {"key": "cut sh')
    time.sleep(0.5)  # workers end with the one that they work for
    before = len(computed(output))
    done = finetune.label(json.loads(recipe.read_text()))
    assert (done.labelled, done.failures) == (9, ())
    assert "1 line " in done.notes[0]
    assert len(computed(output)) == before + done.computed <= 9 + 2
    assert_springs(read_structures(output))


def test_a_signal_waits_for_what_is_begun_and_says_how_to_go_on(tmp_path: Path) -> None:
    pool, output = pool_of(tmp_path / "pool.xyz", 9), tmp_path / "a.xyz"
    recipe = tmp_path / "label.yaml"
    recipe.write_text(json.dumps(springs(pool, output, 0.3)))
    with command(recipe) as process:
        begun(output, 2)
        process.send_signal(signal.SIGTERM)
        shown, errors = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "stopping: waiting for what is begun" in shown
    assert f"resume with  piwsl-finetune label {recipe}" in errors
    stored = len(computed(output))
    assert f"{stored} of 9 computed" in errors
    some = finetune.label(json.loads(recipe.read_text()), collect=True)
    assert (some.labelled, some.computed) == (stored, 0)
    assert some.failures[0].reason == "not computed yet."
    assert finetune.label(json.loads(recipe.read_text())).computed == 9 - stored


@pytest.mark.slow
def test_a_signal_to_all_processes_makes_no_failures(tmp_path: Path) -> None:
    pool, output = pool_of(tmp_path / "pool.xyz", 9), tmp_path / "a.xyz"
    recipe = tmp_path / "label.yaml"
    recipe.write_text(json.dumps(springs(pool, output, 0.3)))
    with command(recipe) as process:
        begun(output, 2)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        if not children.exists():
            process.kill()
            pytest.skip("the system does not tell the children of a process")
        threads = children.parent.parent.iterdir()
        found = [int(c) for t in threads for c in (t / "children").read_text().split()]
        assert found
        for number in (*found, process.pid):
            os.kill(number, signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 143
    done = finetune.label(json.loads(recipe.read_text()))
    assert (done.labelled, done.failures) == (9, ())
    assert len(computed(output)) == 9


def test_python_on_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyscf")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    page = (ROOT / "docs" / "label.md").read_text(encoding="utf-8")
    for block in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL):
        exec(block, names)
    assert names["result"].labelled == 3
    assert names["label"].energy == pytest.approx(-1.1298 * 27.2114, abs=0.01)


def test_the_recipe_with_a_calculator_on_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "label.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(# label emt\.yaml.*?)```", page, flags=re.DOTALL)
    (before,) = re.findall(r'python -c "(.*)"', block)
    exec(before, {})
    Path("emt.yaml").write_text(block)
    done = CliRunner().invoke(app, ["label", "emt.yaml"])
    assert done.exit_code == 0, done.output
    (item,) = read_structures(Path("emt.xyz"))
    assert item.level_of_theory == "EMT" and item.stress is not None


def test_damage_of_a_journal_costs_a_calculation_not_a_label(tmp_path: Path) -> None:
    pool, output = pool_of(tmp_path / "pool.xyz", 3), tmp_path / "a.xyz"
    finetune.label(springs(pool, output))
    journal = tmp_path / "a.xyz.journal"
    lines = journal.read_bytes().split(b"\n")
    lines[2] = lines[2].replace(b'"energy": ', b'"energy": 9')
    journal.write_bytes(b"\n".join(lines))
    mended = finetune.label(springs(pool, output))
    assert mended.computed == 1
    assert_springs(read_structures(output))
    journal.write_bytes(b"x" + journal.read_bytes())
    with pytest.raises(DataError, match="does not begin like a journal"):
        finetune.label(springs(pool, output))
    assert finetune.label(springs(pool, output), overwrite=True).computed == 3


def test_overwriting_by_mistake_loses_no_label(tmp_path: Path) -> None:
    pool, output = pool_of(tmp_path / "pool.xyz", 3), tmp_path / "a.xyz"
    finetune.label(springs(pool, output))
    wrong = {**springs(pool, output), "level": {"method": "hf", "basis": "no-such-basis"}}
    with pytest.raises(FinetuneError, match="no basis set"):
        finetune.label(wrong, overwrite=True)
    assert finetune.label(springs(pool, output)).computed == 0
    assert not list(tmp_path.glob("*.before"))


def test_failures_alone_are_no_labels_of_another_level(tmp_path: Path) -> None:
    pool, output = pool_of(tmp_path / "pool.xyz", 1), tmp_path / "a.xyz"
    wrong = springs(pool, output)
    wrong["level"]["calculator"] = f"{SLOW.rpartition('.')[0]}.Broken"
    with pytest.raises(DataError, match=r"none of 1 structure has a label.*out of order"):
        finetune.label(wrong)
    assert finetune.label(springs(pool, output)).computed == 1
    with pytest.raises(DataError, match="another level of theory"):
        finetune.label(wrong)


def test_the_case_of_a_basis_set_makes_no_other_level(molecules: Path, tmp_path: Path) -> None:
    level = {"method": "hf", "basis": "STO-3G"}
    given = {"structures": f"{molecules}@1:2", "level": level, "output": str(tmp_path / "a.xyz")}
    assert finetune.label(given).computed == 1
    assert finetune.label({**given, "level": {**level, "basis": "sto-3g"}}).computed == 0


def test_energies_only_and_forces_later(tmp_path: Path) -> None:
    pool, output = pool_of(tmp_path / "pool.xyz", 2), tmp_path / "a.xyz"
    finetune.label(springs(pool, output, forces=False))
    assert [item.forces for item in read_structures(output)] == [None, None]
    assert finetune.label(springs(pool, output)).computed == 2
    assert_springs(read_structures(output))
    assert finetune.label(springs(pool, output, forces=False)).computed == 0
    assert [item.forces for item in read_structures(output)] == [None, None]


def test_forces_that_fail_later_leave_the_energy_and_are_told(tmp_path: Path) -> None:
    pool, output = pool_of(tmp_path / "pool.xyz", 1, (6,)), tmp_path / "a.xyz"
    assert finetune.label(springs(pool, output, forces=False)).labelled == 2
    later = finetune.label(springs(pool, output))
    assert (later.labelled, later.computed) == (2, 2)
    assert [note for note in later.notes if "its forces failed: RuntimeError: no slope" in note]
    assert [item.forces is None for item in read_structures(output)] == [False, True]
    assert finetune.label(springs(pool, output)).computed == 0


def test_more_cycles_are_the_same_level(molecules: Path, tmp_path: Path) -> None:
    recipe = {"structures": f"{molecules}@:2", "level": XTB, "output": f"{tmp_path}/a.xyz"}
    with pytest.raises(DataError, match="none of 2 structures has a label.*converge"):
        finetune.label(recipe, ["level.max_cycles=1"])
    with pytest.raises(DataError, match="converge"):
        finetune.label(recipe)
    assert finetune.label(recipe, retry_failed=True).labelled == 2


def test_charge_and_spin_of_the_recipe_hold_where_the_file_is_silent(tmp_path: Path) -> None:
    silent, cation = molecule("H2O"), molecule("H2O")
    cation.info.update(total=1, spin=2)
    neutral = molecule("H2O")
    neutral.positions += 0.1
    neutral.info.update(total=0, spin=1)
    ase.io.write(tmp_path / "pool.xyz", [silent, cation, neutral])
    recipe = {"structures": f"{tmp_path}/pool.xyz", "level": XTB, "keys": {"charge": "total"}}
    recipe |= {"charge": -1, "spin": 2, "output": f"{tmp_path}/a.xyz"}
    assert finetune.label(recipe).labelled == 3
    found = read_structures(tmp_path / "a.xyz")
    assert [(item.charge, item.spin) for item in found] == [(-1, 2), (1, 2), (0, 1)]


def test_pyscf_from_the_command_line(tmp_path: Path) -> None:
    pytest.importorskip("pyscf")
    ase.io.write(tmp_path / "pool.xyz", [molecule("H2"), Atoms("HI", [[0, 0, 0], [0, 0, 1.6]])])
    output = tmp_path / "a.xyz"
    arguments = ["label", f"{tmp_path}/pool.xyz", "--to", str(output), "--method", "CCSD(T)"]
    arguments += ["--basis", "cc-pvdz", "--isolated-atoms", "level.cc_tolerance=1e-7"]
    done = CliRunner().invoke(app, [*arguments, "--plain"])
    assert done.exit_code == 0, done.output
    assert f"structure 1 ('{tmp_path}/pool.xyz', structure 1): the basis set" in done.output
    assert "'cc-pvdz' has no I" in done.output
    assert "reference_energies: {H: -13.58" in done.output
    assert "better off with reference_energies: estimate" in done.output
    (item,) = read_structures(output)
    assert item.level_of_theory == "CCSD(T)/cc-pvdz, frozen core"
    assert item.energy == pytest.approx(-1.1633 * 27.2114, abs=0.02)
    assert item.forces is not None
    for name, value in (("basis", "cc-pvdz"), ("frozen_core_orbitals", 0), ("reference", "RHF")):
        assert item.tags[name] == value
    shown = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert (shown["labelled"], shown["computed"], len(shown["failures"])) == (1, 0, 2)
    other = CliRunner().invoke(app, [*arguments, "--basis", "sto-3g"])
    assert other.exit_code == 2
    assert "another level of theory (basis cc-pvdz → sto-3g)" in other.stderr


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"level": {"program": "tblit"}}, "Did you mean 'tblite'?"),
        ({"level": {"program": "tblite", "basis": "x"}}, "level.basis: unknown key"),
        ({"level": {"method": "hf", "frozen_core": 1.5}}, "level.frozen_core"),
        ({"level": {"basis": ""}}, "level.basis: name a basis set"),
        ({"level": "hf"}, "level: write `level:"),
        ({"structures": []}, "structures: name at least one file"),
        ({"structures": "nowhere.xyz"}, "no structure file 'nowhere.xyz'"),
        ({"workers": 0}, "workers: must be at least 1"),
        ({"forces": "yes please"}, "forces"),
        ({"isolated_atoms": ["Xx"]}, "'Xx' is no element"),
        ({"charge": 0.5}, "charge: must be a whole number"),
        ({"output": "labels.txt"}, "does not tell the format"),
        ({"output": "."}, "is a folder. Name a file to write"),
        ({"output": "folder.xyz"}, "e.g. 'folder.xyz/structures.xyz'"),
        ({"output": "no/such/folder/a.xyz"}, "there is no folder"),
        ({"output": "pool.xyz"}, "is to be labelled"),
        ({"output": "mine.xyz"}, "is not as this command left it"),
        ({"forces": True, "level": {"method": "mp2", "density_fitting": True}}, "cannot be had"),
        ({"level": {"program": "ase", "calculator": "EMT"}}, "level.calculator"),
        ({"level": {"program": "ase", "calculator": "no.such.thing"}}, "cannot be imported"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_bad_input_is_one_message_and_leaves_all_as_it_was(
    changes: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pool_of(tmp_path / "pool.xyz", 1)
    (tmp_path / "mine.xyz").write_text("mine")
    (tmp_path / "folder.xyz").mkdir()
    recipe = {"structures": "pool.xyz", "level": XTB, "output": "a.xyz", **changes}
    Path("label.yaml").write_text(json.dumps(recipe))
    done = CliRunner().invoke(app, ["label", "label.yaml"])
    assert done.exit_code == 2
    assert message in done.stderr
    assert "Traceback" not in done.output
    left = {path.name for path in tmp_path.iterdir()} - {"a.xyz.journal"}
    assert left == {"pool.xyz", "mine.xyz", "folder.xyz", "label.yaml"}
    assert not list((tmp_path / "folder.xyz").iterdir())
    assert (tmp_path / "mine.xyz").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name what to label"),
        (["pool.xyz"], "name the file to write"),
        (["a.yaml", "b.yaml"], "one recipe at a time"),
        (["missing.yaml"], "no recipe at 'missing.yaml'"),
        (["quickstart.yaml"], "for `piwsl-finetune run`"),
        (["pool.xyz", "--to", "a.xyz", "levl.method=hf"], "Did you mean 'level'?"),
    ],
)
def test_bad_arguments(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart.yaml").write_text("foundation: x\n")
    done = CliRunner().invoke(app, ["label", *arguments])
    assert done.exit_code == 2
    assert message in done.stderr


def test_an_output_that_was_edited_is_not_replaced(tmp_path: Path) -> None:
    pool, output = pool_of(tmp_path / "pool.xyz", 2), tmp_path / "a.xyz"
    finetune.label(springs(pool, output))
    output.write_text(output.read_text() + "\n")
    with pytest.raises(DataError, match="not as this command left it"):
        finetune.label(springs(pool, output))
    assert finetune.label(springs(pool, output), overwrite=True).computed == 2


def test_options_of_another_program_are_dropped_with_it() -> None:
    recipe = {"structures": "a", "output": "b.xyz", "level": {"method": "hf", "basis": "sto-3g"}}
    found = LabelRecipe.parse(recipe, ["level.program=tblite"])
    assert found.level.name == "GFN2-xTB"
    with pytest.raises(FinetuneError):
        LabelRecipe.parse(recipe, ["level"])
    with pytest.raises(RecipeError, match="unknown key"):
        LabelRecipe.parse({**recipe, "foo": 1})
