"""Data that can be read but are probably not what was meant get a note."""

import re
from dataclasses import replace
from pathlib import Path

import ase.io
import pytest
import torch
from ase import Atoms

import finetune
from finetune.core.errors import DataError
from finetune.data.graphs import graph
from finetune.data.structures import Structure
from finetune.export.calculator import PotentialCalculator
from finetune.inspection.data_warnings import (
    frames,
    idle,
    inconsistent_forces,
    shared_frames,
    unmatched_inputs,
    unusual_origin,
)
from finetune.inspection.labels import mixed_levels
from finetune.potentials.errors import predict
from finetune.potentials.loading import load_foundation
from finetune.recipe.loss_options import EnergyOptions, ForcesOptions
from finetune.recipe.recipe import Recipe
from tests.conftest import rattled, recipe_for, structure
from tests.potentials.architectures import CHARGE_AND_SPIN
from tests.tiny import tiny_mace


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


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("total", ""),
        ("total of another method", ""),
        ("relative", "look like relative ones"),
        ("atomisation", "look like atomisation energies .* Change their sign"),
        ("negative atomisation", "look like minus atomisation energies .*{H: 0, C: 0"),
    ],
)
def test_relative_and_atomisation_energies_are_noticed(kind: str, message: str) -> None:
    potential = load_foundation("tiny-xtb-hcno").potential
    graphs = []
    for seed, name in enumerate(("CH3OH", "CH3CH2OH", "CH3OH", "CH4", "HCOOH")):
        item = graph(structure(rattled(name, seed, 0.05)), potential.cutoff)
        energy = potential(item, forces=False).energy.detach()
        energies = {
            "total": energy,
            "total of another method": energy * 10.0,
            "relative": energy - energy.round(),
            "atomisation": 4.3 * item.atoms,
            "negative atomisation": -4.3 * item.atoms,
        }
        has = torch.tensor([True])
        graphs.append(replace(item, energy=energies[kind].double(), has_energy=has))
    found = unusual_origin(predict(potential, graphs))
    assert bool(found) == bool(message)
    if message:
        assert re.search(message, found[0])


@pytest.mark.slow
def test_charges_that_nothing_takes_are_not_ignored_silently(
    labelled: list[Structure], workspace: Path, tmp_path: Path
) -> None:
    ions = [replace(labelled[0], charge=1, spin=2), replace(labelled[1], charge=-1)]
    charge, spin = unmatched_inputs(tiny_mace(), [*ions, *labelled])
    assert "2 structures have a charge other than 0, which the foundation ignores" in charge
    assert "1 structure has a spin other than 1" in spin
    assert unmatched_inputs(tiny_mace(), labelled) == []
    atom = replace(structure(Atoms("O")), energy=-2040.0, spin=3)
    assert unmatched_inputs(tiny_mace(), [atom, *labelled]) == []
    assert (
        "1 structure has a charge" in unmatched_inputs(tiny_mace(), [replace(atom, charge=-1)])[0]
    )
    charged = tiny_mace(embedding_specs=CHARGE_AND_SPIN)
    said = [replace(item, tags={"charge": 0.0, "spin": 1.0}) for item in labelled]
    assert unmatched_inputs(charged, [ions[0], *said]) == []
    (note,) = unmatched_inputs(charged, ions)
    assert note.startswith("note: 1 structure does not say the spin, which the foundation reads: 1")
    charge, spin = unmatched_inputs(charged, labelled)
    assert "8 structures do not say the charge" in charge and "do not say the spin" in spin
    atoms = rattled("CH3OH", 1)
    atoms.info["charge"] = 1
    atoms.calc = PotentialCalculator(tiny_mace())
    with pytest.warns(UserWarning, match=r"no input for the charge \(1\) of CH4O"):
        atoms.get_potential_energy()
    frames = ase.io.read(workspace / "train.xyz", ":")
    frames[0].info["charge"] = 1
    ase.io.write(tmp_path / "ions.xyz", frames)
    data = {"train": str(tmp_path / "ions.xyz"), "valid": str(workspace / "valid.xyz")}
    notes = finetune.validate(recipe_for(workspace, "x", data=data)).notes
    assert sum("a charge other than 0" in note for note in notes) == 1


def test_idle_losses_mixed_levels_and_shared_frames(labelled: list[Structure]) -> None:
    losses = {"energy": EnergyOptions(kind="energy"), "far": ForcesOptions(kind="forces")}
    assert idle(labelled, [], losses) == {"far": "no training structure has forces labels"}
    other = [replace(item, level_of_theory="CCSD(T)") for item in labelled]
    splits = {"train": labelled, "valid": labelled[:2], "test": [], "unlabelled": other}
    assert mixed_levels(splits) == []
    assert "train: PBE; valid: CCSD(T)" in mixed_levels({**splits, "valid": other})[0].text
    found = frames(splits)
    assert "2 of the valid structures are in" in shared_frames(found, found["train"])[0]
    assert shared_frames({**found, "valid": []}, found["train"]) == []


def test_gradients_in_place_of_forces_are_noticed() -> None:
    calculator, found = PotentialCalculator(tiny_mace()), []
    for seed in range(40):
        atoms = rattled("CH3OH", seed, 0.02)
        atoms.calc = calculator
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        atoms.calc = None
        found.append(replace(structure(atoms), energy=energy, forces=forces))
    assert inconsistent_forces(found) == []
    turned = [replace(item, forces=-item.forces) for item in found if item.forces is not None]
    assert "data.units.forces=-eV/Å" in inconsistent_forces(turned)[0]


def test_energies_of_other_compositions_are_not_passed_off(workspace: Path, tmp_path: Path) -> None:
    ethanol = str(workspace / "train.xyz") + "@::2"
    data = {"train": ethanol, "valid": str(workspace / "valid.xyz") + "@::2"}
    result = finetune.run(recipe_for(workspace, tmp_path / "run", data=data, train={"epochs": 1}))
    both = finetune.evaluate(result.folder, workspace / "test.xyz")
    assert "C2H6O only: total energies of CH4O have no meaning" in both.note
    assert finetune.evaluate(result.folder, f"{workspace / 'test.xyz'}@::2").note == ""


@pytest.mark.parametrize("given", ["isolated", {"H": -6.0, "C": -1023.0, "O": -2033.0}])
def test_a_run_takes_the_energies_of_free_atoms(
    given: object, workspace: Path, tmp_path: Path
) -> None:
    """The labels are those of a potential with references 7 eV higher, from -13, -1030, -2040."""
    frames = ase.io.read(workspace / "train.xyz", ":")
    for symbol, energy in (("H", -6.0), ("C", -1023.0), ("O", -2033.0)):
        frames.append(Atoms(symbol, info={"REF_energy": energy}))
    ase.io.write(tmp_path / "train.xyz", frames)
    train = str(tmp_path / "train.xyz") if given == "isolated" else str(workspace / "train.xyz")
    data = {"train": train, "valid": str(workspace / "valid.xyz")}
    recipe = recipe_for(workspace, "x", data=data, reference_energies=given)
    assert Recipe.parse(recipe.model_dump(mode="json")) == recipe
    prepared = finetune.validate(recipe)
    assert prepared.foundation.potential.references()[1] == -6.0
    assert len(prepared.data.train) == len(frames) - 3
    if given == "isolated":  # free atoms are found in the fraction that is set aside, too
        together = recipe_for(workspace, "x", data={**data, "valid": 0.5}, reference_energies=given)
        held_out = finetune.validate(together).data
        assert len(held_out.train) + len(held_out.valid) == len(frames) - 3
    assert not any("eV/atom before training" in note for note in prepared.notes)
    data["train"] = str(workspace / "train.xyz")
    with pytest.raises(DataError, match="no energy of a free atom for H, C, O"):
        finetune.validate(recipe_for(workspace, "x", data=data, reference_energies="isolated"))


def test_what_the_labels_leave_open_is_named(workspace: Path) -> None:
    notes = finetune.validate(recipe_for(workspace, "x")).notes
    (note,) = [note for note in notes if "do not fix" in note]
    assert "2 independent compositions" in note
    assert "Undetermined, as in the foundation: − H + 2 C + 2 O." in note


def test_free_atoms_that_are_trained_on_are_told(workspace: Path, tmp_path: Path) -> None:
    frames = ase.io.read(workspace / "train.xyz", ":")
    for symbol, spin in (("H", 2), ("C", 3), ("O", 3)):
        atoms = Atoms(symbol, info={"REF_energy": -13.0 * Atoms(symbol).numbers[0], "spin": spin})
        frames.append(atoms)
    ase.io.write(tmp_path / "train.xyz", frames)
    data = {"train": str(tmp_path / "train.xyz"), "valid": str(workspace / "valid.xyz")}
    recipe = recipe_for(workspace, tmp_path / "run", data=data)
    told = [note for note in finetune.validate(recipe).notes if "free atom" in note]
    assert len(told) == 1
    assert told[0].startswith("note: 3 training structures are free atoms, used like any other")
    assert "reference_energies=isolated" in told[0]
    assert not any("spin" in note for note in finetune.validate(recipe).notes)
    isolated = finetune.validate(
        recipe_for(workspace, tmp_path / "run", data=data, reference_energies="isolated")
    )
    assert not any("free atom" in note or "spin" in note for note in isolated.notes)
