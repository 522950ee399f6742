"""Labels of tblite and of ASE calculators are what those compute, and failures are none."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import ase.build
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.emt import EMT

from finetune.core.errors import RecipeError
from finetune.labelling.programs import open_program
from finetune.labelling.recipe import AseLevel, TbliteLevel
from finetune.labelling.task import LabelError, Task
from tests.labelling.tasks import WATER, WATER_TASK, task

HERE = "tests.labelling.slow_calculator"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calculators that work with files make their folder in the working one."""
    monkeypatch.chdir(tmp_path)


def test_tblite_is_its_own_calculator() -> None:
    pytest.importorskip("tblite")
    from tblite.ase import TBLite

    opened = open_program(TbliteLevel(program="tblite", method="gfn1-xtb"))
    atoms = Atoms([8, 1, 1], WATER)
    atoms.calc = TBLite(method="GFN1-xTB", verbosity=0)
    label = opened.compute(WATER_TASK, True)
    assert label.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-7)
    np.testing.assert_allclose(label.forces, atoms.get_forces(), atol=1e-6)
    assert label.stress is None
    for at in (replace(WATER_TASK, spin=2), replace(WATER_TASK, charge=1)):
        with pytest.raises(LabelError, match="electrons cannot have the multiplicity"):
            opened.compute(at, True)
    cation = opened.compute(replace(WATER_TASK, charge=1, spin=2), True)
    assert cation.energy > label.energy + 5
    with pytest.raises(LabelError, match="converge"):
        short = TbliteLevel(program="tblite", max_cycles=1)
        open_program(short).compute(WATER_TASK, True)


def test_an_ase_calculator_gives_stress_of_crystals() -> None:
    crystal = ase.build.bulk("Cu", cubic=True)
    crystal.rattle(0.05, seed=1)
    cell = crystal.cell.array.tolist()
    given = Task(crystal.numbers.tolist(), crystal.positions.tolist(), cell, [True] * 3, 0, 1)
    label = open_program(AseLevel(program="ase", calculator="ase.calculators.emt.EMT"))
    found = label.compute(given, True)
    crystal.calc = EMT()
    assert found.energy == pytest.approx(crystal.get_potential_energy(), abs=1e-9)
    np.testing.assert_allclose(found.forces, crystal.get_forces(), atol=1e-9)
    np.testing.assert_allclose(found.stress, crystal.get_stress(voigt=False), atol=1e-9)


@pytest.mark.parametrize(
    ("number", "reason"),
    [(2, "did not converge"), (4, "RuntimeError: no such thing"), (5, "NaN or infinite")],
)
def test_failures_of_ase_calculators_are_no_labels(number: int, reason: str) -> None:
    opened = open_program(AseLevel(program="ase", calculator=f"{HERE}.Slow"))
    with pytest.raises(LabelError, match=reason):
        opened.compute(task([number], [[1.0, 0.0, 0.0]]), True)


def test_ase_calculators_are_told_of_charge_and_spin_or_refuse() -> None:
    charged = task([1], [[1.0, 0.0, 0.0]], charge=1)
    plain = open_program(AseLevel(program="ase", calculator=f"{HERE}.Slow"))
    with pytest.raises(LabelError, match="level.charge_parameter"):
        plain.compute(charged, True)
    for parameter in ("info", "charge"):
        told = AseLevel(program="ase", calculator=f"{HERE}.Slow", charge_parameter=parameter)
        opened = open_program(told)
        assert opened.compute(charged, True).energy == 1.0
    assert opened._calculator({"charge": 1}).parameters["charge"] == 1  # type: ignore[attr-defined]
    bare = open_program(AseLevel(program="ase", calculator=f"{HERE}.energies_only"))
    label = bare.compute(task([1], [[1.0, 0.0, 0.0]]), True)
    assert label.forces is None
    assert "no forces" in label.without_forces


@pytest.mark.slow
def test_outputs_that_share_a_directory_leave_the_files_of_each_other(tmp_path: Path) -> None:
    level = AseLevel(
        program="ase",
        calculator="tests.labelling.file_calculator.Springs",
        arguments={"directory": str(tmp_path / "shared")},
    )
    outputs = ["one/a.xyz", "one/b.xyz", "two/a.xyz"]
    for place, output in enumerate(outputs):
        opened = open_program(level, folder=tmp_path / f"{output}.files" / "worker-1")
        opened.compute(task([1], [[float(place), 0.0, 0.0]]), False)
        with pytest.raises(LabelError, match=r"its files: [ab]\.xyz\.files-\w{8}/failed-"):
            opened.compute(task([2], [[0.0, 0.0, 0.0]]), False)
        opened.compute(task([1], [[float(place), 0.0, 0.0]]), False)
    found = sorted((tmp_path / "shared").glob("*.xyz.files-*/worker-1/springs.out"))
    assert sorted(float(path.read_text()) for path in found) == [0.0, 1.0, 4.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"calculator": "ase.calculators.emt.EMT2"}, "cannot be imported"),
        ({"calculator": "no_such_module.Calculator"}, "cannot be imported"),
        ({"calculator": f"{HERE}.energies_only", "arguments": {"x": 1}}, "cannot be made with"),
        ({"calculator": "math.sqrt", "arguments": {}}, "cannot be made with no arguments"),
        ({"calculator": "builtins.dict"}, "not an ASE calculator"),
    ],
)
def test_calculators_that_are_none_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        open_program(AseLevel(program="ase", **options))
