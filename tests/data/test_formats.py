"""Every format gives the same structures, in eV and Å."""

import json
from pathlib import Path
from typing import Any

import ase.io
import h5py
import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect
from ase.units import Bohr, Hartree, kcal, mol
from typer.testing import CliRunner

import finetune
from finetune.commands import app
from finetune.core.errors import DataError, RecipeError
from finetune.core.units import Units, parse_units
from finetune.data.reading import Reader, read_structures
from finetune.data.store import Store
from finetune.data.structures import Structure
from finetune.recipe.sections import LabelKeys
from tests.conftest import recipe_for

RESULTS = LabelKeys(energy="energy", forces="forces")
COUNT = 5
NUMBERS = molecule("CH3OH").numbers
POSITIONS = molecule("CH3OH").positions + np.random.default_rng(0).normal(0, 0.05, (COUNT, 6, 3))
ENERGIES = np.linspace(-3100.0, -3101.0, COUNT)
FORCES = np.random.default_rng(1).normal(size=(COUNT, 6, 3))


def frames(energy: float = 1.0, length: float = 1.0, forces: float | None = None) -> list[Atoms]:
    """Return the structures in units that are so many eV and Å."""
    found = []
    force = energy / length if forces is None else forces
    for index in range(COUNT):
        atoms = Atoms(NUMBERS, POSITIONS[index] / length)
        atoms.info["REF_energy"] = ENERGIES[index] / energy
        atoms.arrays["REF_forces"] = FORCES[index] / force
        found.append(atoms)
    return found


def calculated() -> list[Atoms]:
    found = []
    for index in range(COUNT):
        atoms = Atoms(NUMBERS, POSITIONS[index])
        results = {"energy": ENERGIES[index], "forces": FORCES[index]}
        atoms.calc = SinglePointCalculator(atoms, **results)
        found.append(atoms)
    return found


def check(structures: Any, tolerance: float = 1e-6) -> None:
    assert len(structures) == COUNT
    for index, item in enumerate(structures):
        assert isinstance(item, Structure)
        assert item.numbers.tolist() == NUMBERS.tolist()
        assert item.energy == pytest.approx(ENERGIES[index], abs=tolerance)
        np.testing.assert_allclose(item.positions, POSITIONS[index], atol=tolerance)
        np.testing.assert_allclose(item.forces, FORCES[index], atol=tolerance)


def test_databases_and_trajectories(tmp_path: Path) -> None:
    ase.io.write(tmp_path / "a.traj", calculated())
    check(read_structures(tmp_path / "a.traj", RESULTS))
    with connect(tmp_path / "a.db") as database:
        for atoms in calculated():
            database.write(atoms)
    check(read_structures(tmp_path / "a.db", RESULTS))
    (second,) = read_structures(f"{tmp_path / 'a.db'}@id=2", RESULTS)
    assert second.energy == ENERGIES[1]


def test_sgdml_and_rmd17_archives_are_in_kcal_per_mol(tmp_path: Path) -> None:
    unit = kcal / mol
    labels = {"E": ENERGIES[:, None] / unit, "F": FORCES / unit, "theory": np.array("PBE")}
    np.savez(tmp_path / "sgdml.npz", R=POSITIONS, z=NUMBERS, **labels)
    found = read_structures(tmp_path / "sgdml.npz")
    check(found)
    assert found[0].level_of_theory == "PBE"
    stated = {"E": ENERGIES, "F": FORCES, "e_unit": np.array(b"eV"), "r_unit": np.array(b"Ang")}
    np.savez(tmp_path / "stated.npz", R=POSITIONS, z=NUMBERS, **stated)
    check(Reader(units=Units(energy="Hartree")).read(tmp_path / "stated.npz"))
    np.savez(
        tmp_path / "rmd17.npz",
        coords=POSITIONS,
        nuclear_charges=NUMBERS,
        energies=ENERGIES / unit,
        forces=FORCES / unit,
    )
    reader = Reader()
    check(reader.read(tmp_path / "rmd17.npz"))
    assert reader.records[0].units["forces"] == "kcal/mol/Å"


@pytest.mark.parametrize("said", [{}, {"r_unit": "Ang"}, {"e_unit": "Hartree"}])
def test_units_that_an_archive_leaves_open_are_those_of_the_recipe(
    said: dict[str, str], tmp_path: Path
) -> None:
    arrays = {"R": [[[0, 0, 0.5]]], "z": [2], "E": [-2.5], "F": [[[0.5, 0, 0]]]}
    np.savez(tmp_path / "a.npz", **arrays, **said)
    units = Units(energy="Hartree", forces="-Hartree/Å")
    (found,) = Reader(units=units).read(tmp_path / "a.npz")
    assert found.energy == pytest.approx(-2.5 * Hartree)
    np.testing.assert_allclose(found.forces, [[-0.5 * Hartree, 0, 0]])
    assert found.positions[0, 2] == 0.5


def test_archives_of_whole_numbers_and_charges(tmp_path: Path) -> None:
    path, forces = tmp_path / "a.npz", np.array([[[1, 0, -2]], [[0, 3, 0]]])
    arrays = {"R": [[[0, 0, 1]], [[0, 0, 2]]], "Z": [[2], [2]], "N": [1, 1], "F": forces}
    np.savez(path, **arrays, E=[-2, -3], Q=[1.0, -1.0], multiplicity=2)
    found = read_structures(path)
    assert [item.energy for item in found] == [-2.0, -3.0]
    assert [item.charge for item in found] == [1, -1]
    assert [item.spin for item in found] == [2, 2]
    np.testing.assert_array_equal([item.forces for item in found], forces)
    np.savez(path, **arrays, E=[-2, -3], charge=np.array([1, 0]), spin=np.array(3))
    found = read_structures(path)
    assert [(item.charge, item.spin) for item in found] == [(1, 3), (0, 3)]
    np.savez(path, **arrays, E=[-2, -3], Q=[1, 0, 0])
    with pytest.raises(DataError, match="'Q' has 3 numbers for 2 structures"):
        read_structures(path)


def test_padded_archives_hold_molecules_of_different_sizes(tmp_path: Path) -> None:
    positions, numbers = np.zeros((2, 4, 3)), np.array([[8, 1, 1, 0], [7, 1, 1, 1]])
    positions[0, :3] = molecule("H2O").positions
    positions[1] = molecule("NH3").positions
    energies = np.array([-2000.0, -1500.0])
    np.savez(tmp_path / "p.npz", R=positions, Z=numbers, N=np.array([3, 4]), E=energies)
    first, second = read_structures(tmp_path / "p.npz")
    assert (len(first), len(second), second.energy) == (3, 4, -1500.0)


def test_ani_files_give_the_level_asked_for_and_nan_is_no_label(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "ani.h5", "w") as file:
        group = file.create_group("C1H4O1")
        group["coordinates"] = POSITIONS.astype(np.float32)
        group["atomic_numbers"] = NUMBERS.astype(np.uint8)
        group["wb97x_dz.energy"] = ENERGIES / Hartree
        group["wb97x_dz.forces"] = FORCES / Hartree
        best = ENERGIES / Hartree - 0.1
        best[[0, 3]] = np.nan
        group["ccsd(t)_cbs.energy"] = best
    path = tmp_path / "ani.h5"
    check(read_structures(path, LabelKeys(energy="wb97x_dz.energy", forces="wb97x_dz.forces")))
    reader = Reader(LabelKeys(energy="ccsd(t)_cbs.energy"))
    found = reader.read(path)
    assert [item.where[-1] for item in found] == ["1", "2", "4"]
    assert found[0].energy == pytest.approx(ENERGIES[1] - 0.1 * Hartree)
    assert found[0].forces is None
    assert found[0].level_of_theory == "ccsd(t)_cbs"
    assert "2 of 5 structures" in reader.notes()[0]
    assert len(reader.read(path, need_labels=False)) == COUNT
    with pytest.raises(DataError, match=r"Keys present: ccsd\(t\)_cbs.energy, wb97x_dz.energy"):
        read_structures(path)


def test_folders_of_xsf_as_aenet_writes_them(tmp_path: Path) -> None:
    """Its energies stand in a comment, and its forces are in eV/Å."""
    for index in range(COUNT):
        rows = [
            f"{symbol} " + " ".join(f"{value:.9f}" for value in (*position, *force))
            for symbol, position, force in zip(
                "COHHHH", POSITIONS[index], FORCES[index], strict=True
            )
        ]
        cell = "12 0 0\n0 12 0\n0 0 12"
        header = f"# total energy = {ENERGIES[index]:.9f} eV\n\nCRYSTAL\nPRIMVEC\n{cell}\nPRIMCOORD"
        text = f"{header}\n{len(rows)} 1\n" + "\n".join(rows) + "\n"
        (tmp_path / f"structure{index:04}.xsf").write_text(text)
    (tmp_path / "README").touch()
    for source in (str(tmp_path), f"{tmp_path}/structure*.xsf"):
        reader = Reader()
        structures = reader.read(source)
        check(structures)
        assert structures[0].pbc.all()
        assert reader.records[0].files == COUNT
    assert "structure0004.xsf', structure 0" in structures[-1].where


@pytest.mark.parametrize(("count", "fits"), [(1, False), (2, True), (3, False), (10**11, False)])
def test_rows_of_an_xsf_file_are_as_many_as_it_says(count: int, fits: bool, tmp_path: Path) -> None:
    path, cell = tmp_path / "a.xsf", "CRYSTAL\nPRIMVEC\n9 0 0\n0 9 0\n0 0 9\n"
    step = "PRIMCOORD\n{} 1\nO 0 0 0\nH 0 0 1\n"
    path.write_text("ANIMSTEPS 2\n" + cell + step.format(2) + step.format(count))
    if fits:
        assert [len(item) for item in read_structures(path, need_labels=False)] == [2, 2]
        return
    with pytest.raises(DataError, match=f"structure 1 should have {count} atoms, but has 2 rows"):
        read_structures(path, need_labels=False)


def test_an_orca_output_needs_no_names(tmp_path: Path) -> None:
    text = """
                                 * O   R   C   A *
CARTESIAN COORDINATES (ANGSTROEM)
---------------------------------
  H      0.000000    0.000000    0.000000
  H      0.000000    0.000000    0.740000

Number of atoms                             ...      2
----------------------------
 Total Charge           Charge          ....    0
FINAL SINGLE POINT ENERGY        -1.172000000000
                             ****ORCA TERMINATED NORMALLY****
"""
    (tmp_path / "orca.out").write_text(text)
    (found,) = read_structures(tmp_path / "orca.out")
    assert found.energy == pytest.approx(-1.172 * Hartree)


@pytest.mark.parametrize(
    ("units", "sizes"),
    [
        ({"energy": "kcal/mol"}, (kcal / mol, 1.0, None)),
        ({"energy": "Ha", "length": "bohr"}, (Hartree, Bohr, None)),
        ({"energy": "hartree", "forces": "-Ha/Bohr"}, (Hartree, 1.0, -Hartree / Bohr)),
        ({"forces": "meV/A"}, (1.0, 1.0, 1e-3)),
    ],
)
def test_declared_units_are_converted_once(
    units: dict[str, str], sizes: tuple[float, float, float | None], tmp_path: Path
) -> None:
    ase.io.write(tmp_path / "a.xyz", frames(*sizes))
    reader = Reader(units=Units(**units))
    check(reader.read(tmp_path / "a.xyz"), 1e-5)
    pairs = [f"{name}={unit}" for name, unit in units.items()]
    options = [part for pair in pairs for part in ("--units", pair)]
    for name in ("a.h5", "b.xyz"):
        target = str(tmp_path / name)
        done = CliRunner().invoke(
            app, ["data", "convert", str(tmp_path / "a.xyz"), "--to", target, *options]
        )
        assert done.exit_code == 0, done.output
        check(Reader(units=Units(**units) if name == "a.h5" else None).read(target), 1e-5)


def test_stress_units_and_strange_ones() -> None:
    assert Units(stress="-kbar").factors()["stress"] == pytest.approx(-6.2415e-4, rel=1e-4)
    assert Units(stress="GPa").factors()["stress"] == pytest.approx(6.2415e-3, rel=1e-4)
    assert Units(energy="Ha", length="Bohr").factors()["stress"] == pytest.approx(183.63, rel=1e-4)
    strange = ("energy=parsec", "length=ell", "forces=kcal/mol", "stress=eV/Å", "mass=u", "energy")
    for given in strange:
        with pytest.raises(RecipeError):
            parse_units([given])


def test_damaged_structures_are_skipped_when_asked_and_listed(tmp_path: Path) -> None:
    damaged = frames()
    damaged[2].info["REF_energy"] = float("nan")
    ase.io.write(tmp_path / "a.xyz", damaged)
    arguments = ["data", "convert", str(tmp_path / "a.xyz"), "--to", str(tmp_path / "b.h5")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2
    assert "structure 2: 'REF_energy' contains NaN" in done.stderr
    assert not (tmp_path / "b.h5").exists()
    done = CliRunner().invoke(app, [*arguments, "--skip-faulty"])
    assert done.exit_code == 0
    assert "1 in all" in done.stdout
    store = Store(tmp_path / "b.h5")
    assert len(store) == COUNT - 1
    assert store[2].where.endswith("structure 3")


def test_names_of_outputs_tell_the_format(tmp_path: Path) -> None:
    ase.io.write(tmp_path / "a.xyz", frames())
    for command in (["data", "convert"], ["store"]):
        done = CliRunner().invoke(
            app, [*command, str(tmp_path / "a.xyz"), "--to", str(tmp_path / "noext")]
        )
        assert done.exit_code == 2
        assert "noext.h5" in done.stderr
    assert (
        CliRunner()
        .invoke(app, ["store", str(tmp_path / "a.xyz"), "--to", str(tmp_path / "a.h5")])
        .exit_code
        == 0
    )
    (tmp_path / "a.h5").rename(tmp_path / "renamed")
    check(read_structures(tmp_path / "renamed"))


def test_splits_are_written_with_how_they_were_made(tmp_path: Path) -> None:
    ase.io.write(tmp_path / "a.xyz", frames())
    arguments = ["data", "split", str(tmp_path / "a.xyz"), "--to", str(tmp_path / "parts")]
    done = CliRunner().invoke(app, [*arguments, "--valid", "1", "--test", "0.2"])
    assert done.exit_code == 0, done.output
    parts = [len(read_structures(tmp_path / f"parts/{p}.xyz")) for p in ("train", "valid", "test")]
    assert parts == [3, 1, 1]
    record = json.loads((tmp_path / "parts" / "split.json").read_text())
    assert sorted(sum(record["parts"].values(), [])) == list(range(COUNT))
    assert CliRunner().invoke(app, arguments).exit_code == 2


def test_a_run_converts_units_once_and_records_them(workspace: Path, tmp_path: Path) -> None:
    data = {split: f"{tmp_path}/{split}.xyz" for split in ("train", "valid")}
    for split, path in data.items():
        atoms = ase.io.read(workspace / f"{split}.xyz", ":")
        for item in atoms:
            item.info["REF_energy"] /= Hartree
        atoms[1].info["REF_energy"] = float("nan")
        ase.io.write(path, atoms)
    units = {"units": {"energy": "Hartree"}}
    with pytest.raises(DataError, match="structure 1: 'REF_energy' contains NaN"):
        finetune.validate(recipe_for(workspace, "x", data={**data, **units}))
    skipping = recipe_for(workspace, "x", data={**data, **units, "faulty": "skip"})
    prepared = finetune.validate(skipping)
    plain = read_structures(workspace / "train.xyz")
    energies = [float(item.energy) for item in prepared.data.train]
    kept = [item.energy for index, item in enumerate(plain) if index != 1]
    assert energies == pytest.approx(kept)
    assert sum("left out of" in note and "structure 1" in note for note in prepared.notes) == 2
    record = prepared.environment["data"]["files"][0]
    assert record["units"]["energy"] == "Hartree"
    assert record["structures"] == 11
    assert len(record["left_out"]) == 1


def test_a_poscar_that_promises_too_many_atoms_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "POSCAR"
    path.write_text("Si\n1.0\n5 0 0\n0 5 0\n0 0 5\nSi\n999999999\nDirect\n0 0 0\n")
    with pytest.raises(DataError, match="999999999 atoms, but the file has only 9 lines"):
        list(read_structures(path))
    path.write_text("Si\n1.0\n5 0 0\n0 5 0\n0 0 5\nSi\n1\nDirect\n0 0 0\n")
    (silicon,) = read_structures(path, need_labels=False)
    assert len(silicon) == 1


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        (np.where(NUMBERS == 8, 8.5, NUMBERS), "atomic number 8.5, which is no whole number"),
        (np.where(NUMBERS == 8, np.nan, NUMBERS), "atomic number nan"),
        (np.stack([NUMBERS] * 2), "do not fit"),
        (NUMBERS > 1, "are bool"),
    ],
)
def test_ani_files_need_whole_atomic_numbers(numbers: Any, message: str, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "ani.h5", "w") as file:
        group = file.create_group("C1H4O1")
        group["coordinates"], group["atomic_numbers"] = POSITIONS, numbers
        group["e"] = ENERGIES
    with pytest.raises(DataError, match=message):
        read_structures(tmp_path / "ani.h5", LabelKeys(energy="e"))
    with h5py.File(tmp_path / "whole.h5", "w") as file:
        group = file.create_group("C1H4O1")
        group["coordinates"], group["atomic_numbers"] = POSITIONS, NUMBERS.astype(float)
        group["e"] = ENERGIES
    assert len(read_structures(tmp_path / "whole.h5", LabelKeys(energy="e"))) == COUNT


def test_a_split_says_where_it_misses_the_sizes_asked_for(tmp_path: Path) -> None:
    ase.io.write(tmp_path / "a.xyz", [atoms for _ in range(2) for atoms in frames()])
    for index, atoms in enumerate(found := ase.io.read(tmp_path / "a.xyz", ":")):
        atoms.positions *= 1 + 0.01 * index
    ase.io.write(tmp_path / "a.xyz", found)
    arguments = ["data", "split", str(tmp_path / "a.xyz"), "--valid", "1", "--test", "2"]
    exact = CliRunner().invoke(app, [*arguments, "--to", str(tmp_path / "exact")])
    assert "asked for" not in exact.output
    blocks = [*arguments, "--by", "block", "--block", "3", "--to", str(tmp_path / "blocks")]
    done = CliRunner().invoke(app, blocks)
    assert done.exit_code == 0, done.output
    parts = [len(read_structures(tmp_path / f"blocks/{p}.xyz")) for p in ("valid", "test")]
    for name, size, asked in zip(("valid", "test"), parts, (1, 2), strict=True):
        assert f"{name} has {size} structures, {asked} were asked for" in done.output
    assert "the structures of a block and duplicates are not divided" in done.output
    assert json.loads((tmp_path / "blocks" / "split.json").read_text())["asked"]["test"] == 2
