"""What is written is read, validated and trained on, and says what it is."""

import json
import re
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
from finetune.data.reading import read_structures
from tests.conftest import recipe_for
from tests.labelling.springs import ROOT, XTB, assert_springs, pool_of, springs

pytest.importorskip("tblite")


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
    assert "take reference_energies: estimate" in done.output
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
