"""What a test is asked for and cannot do is said, before it begins."""

from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.build import molecule
from ase.units import Hartree

import finetune
from finetune.core.errors import DataError, RecipeError
from finetune.evaluation import scans
from finetune.evaluation.trajectory import Settings
from finetune.export.calculator import PotentialCalculator
from finetune.potentials.storage import save
from tests.conftest import rattled
from tests.tiny import tiny_mace


def test_a_tag_that_no_structure_has_is_refused(workspace: Path) -> None:
    with pytest.raises(DataError, match="no structure has a 'config' to name its subset"):
        finetune.evaluate(
            workspace / "foundation", workspace / "test.xyz", subset_key="config", dtype="float32"
        )


def test_units_of_the_recipe_are_told_and_may_be_replaced(tmp_path: Path) -> None:
    potential = tiny_mace(seed=0)
    units = {"energy": "Hartree", "length": "Å"}
    facts = {"name": "tiny", "recipe": {"data": {"units": units}}}
    save(potential, tmp_path / "model", facts)
    frames = []
    for seed in range(4):
        atoms = rattled("CH3CH2OH", seed, 0.2)
        atoms.calc = PotentialCalculator(potential)
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        atoms.calc = None
        atoms.info["REF_energy"], atoms.arrays["REF_forces"] = energy, forces
        frames.append(atoms)
    path = tmp_path / "ev.xyz"
    ase.io.write(path, frames)
    read = finetune.evaluate(tmp_path / "model", path)
    size = np.abs([item.arrays["REF_forces"] for item in frames]).mean()
    assert read.finetuned.forces_mae == pytest.approx((Hartree - 1) * size, rel=1e-5)
    told = f"'{path}' is read in energy Hartree, forces Hartree/Å, stress Hartree/Å³, as the run's"
    assert told in read.note and "--units says otherwise" in read.note
    assert "warning: forces are 27.21 times what the potential predicts" in read.note
    assert "data.units.forces=eV/Å" in read.note
    right = finetune.evaluate(tmp_path / "model", path, units={"energy": "eV"})
    assert right.finetuned.forces_mae == pytest.approx(0.0, abs=1e-5)
    assert "is read in" not in right.note and "warning" not in right.note
    for frame in frames:
        frame.info |= {"energy-unit": "eV", "force-unit": "eV/Å"}
    ase.io.write(path, frames)
    stated = finetune.evaluate(tmp_path / "model", path)
    assert stated.finetuned.forces_mae == pytest.approx(0.0, abs=1e-5)
    with pytest.raises(RecipeError, match="--units"):
        finetune.evaluate(tmp_path / "model", path, units={"energy": "furlong"})


def test_a_reference_of_other_atoms_is_refused(workspace: Path, tmp_path: Path) -> None:
    for name in ("CH4", "H2O"):
        ase.io.write(tmp_path / f"{name}.xyz", molecule(name))
    with pytest.raises(DataError, match="no structure of the reference has the same atoms"):
        finetune.md(
            workspace / "foundation",
            tmp_path / "CH4.xyz",
            reference=tmp_path / "H2O.xyz",
            settings=Settings(length=0.001),
            to=tmp_path / "md",
        )
    assert not (tmp_path / "md").exists()


def test_forgetting_says_what_it_lacks(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, water = workspace / "foundation", tmp_path / "H2O.xyz"
    ase.io.write(water, molecule("H2O"))
    alone = finetune.scan(path, water, only=("forgetting",), to=tmp_path / "a")
    assert alone.note == scans.NO_BASELINE and alone.forgetting == {}
    other = workspace / "foundation" / ".." / "foundation"  # the same under another name
    asked = []
    monkeypatch.setattr(scans, "elsewhere", lambda *given: asked.append(given) or [])
    found = finetune.scan(path, water, only=("forgetting",), against=other, to=tmp_path / "b")
    assert found.note == scans.NONE_AWAY and set(found.forgetting) == {"as given"}
    assert asked == [([1, 6, 7, 8], ["H2O"])]
