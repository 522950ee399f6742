"""Data that can be read but are probably not what was meant get a note."""

from dataclasses import replace
from pathlib import Path

import ase.io
import pytest

import finetune
from finetune.data.graphs import graph
from finetune.data.labels import Structure
from finetune.export.calculator import PotentialCalculator
from finetune.losses.options import EnergyOptions, ForcesOptions
from finetune.sanity import energy_spread, idle_losses, mixed_levels, shared_frames
from finetune.testing import tiny_mace
from tests.conftest import rattled, recipe_for, structure


@pytest.fixture(scope="module")
def labelled() -> list[Structure]:
    calculator = PotentialCalculator(tiny_mace())
    found = []
    for seed in range(8):
        atoms = rattled("CH3OH", seed)
        atoms.calc = calculator
        energy = atoms.get_potential_energy()
        atoms.calc = None
        found.append(replace(structure(atoms), energy=energy, level_of_theory="PBE"))
    return found


@pytest.mark.parametrize("unit", [1.0, 1 / 27.2114, 23.06, 96.49])
def test_the_spread_of_energies_reveals_their_unit(labelled: list[Structure], unit: float) -> None:
    """A constant offset, as between levels of theory, does not matter."""
    graphs = [
        graph(replace(item, energy=unit * (item.energy or 0.0) - 4000.0), 4.0) for item in labelled
    ]
    assert energy_spread(tiny_mace(), graphs) == pytest.approx(unit, rel=1e-3)
    assert energy_spread(tiny_mace(), graphs[:4]) is None


def test_a_run_warns_of_hartree(workspace: Path, tmp_path: Path) -> None:
    frames = ase.io.read(workspace / "train.xyz", ":")
    for atoms in frames:
        atoms.info["REF_energy"] /= 27.2114
    ase.io.write(tmp_path / "hartree.xyz", frames)
    recipe = recipe_for(
        workspace,
        tmp_path / "run",
        data={"train": str(tmp_path / "hartree.xyz"), "valid": str(workspace / "valid.xyz")},
    )
    prepared = finetune.validate(recipe)
    assert any("Hartree" in note for note in prepared.notes)
    assert not any("eV is" in note for note in finetune.validate(recipe_for(workspace, "x")).notes)


def test_idle_losses_mixed_levels_and_shared_frames(labelled: list[Structure]) -> None:
    losses = {"energy": EnergyOptions(kind="energy"), "far": ForcesOptions(kind="forces")}
    (note,) = idle_losses(labelled, [], losses)
    assert "'far' is idle" in note
    other = [replace(item, level_of_theory="CCSD(T)") for item in labelled]
    splits = {"train": labelled, "valid": labelled[:2], "test": [], "unlabelled": other}
    assert mixed_levels(splits) == []
    assert "train: PBE; valid: CCSD(T)" in mixed_levels({**splits, "valid": other})[0]
    assert "2 of the valid structures" in shared_frames(splits)[0]
    assert shared_frames({**splits, "valid": []}) == []


def test_energies_of_other_compositions_are_not_passed_off(workspace: Path, tmp_path: Path) -> None:
    ethanol = str(workspace / "train.xyz") + "@::2"
    data = {"train": ethanol, "valid": str(workspace / "valid.xyz") + "@::2"}
    result = finetune.run(recipe_for(workspace, tmp_path / "run", data=data, train={"epochs": 1}))
    both = finetune.evaluate(result.folder, workspace / "test.xyz")
    assert "C2H6O alone, so total energies of CH4O mean nothing" in both.note
    assert finetune.evaluate(result.folder, f"{workspace / 'test.xyz'}@::2").note == ""
