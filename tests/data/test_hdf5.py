"""Data sets in HDF5, and systems of DeePMD-kit: each layout in its units, with its sign."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from ase.units import Bohr, Hartree, kcal, mol

from finetune.core.errors import DataError
from finetune.core.units import Units
from finetune.data.reading import Reader, read_structures
from finetune.recipe.sections import LabelKeys

NUMBERS = np.array([8, 1, 1])
WATER = np.array([[0.0, 0.0, 0.12], [0.0, 0.76, -0.48], [0.0, -0.76, -0.48]])
POSITIONS = WATER + np.array([0.0, 0.05])[:, None, None] * WATER
ENERGIES = np.array([-2070.0, -2069.5])
FORCES = np.arange(18.0).reshape(2, 3, 3) - 8.5
BOX = np.diag([9.0, 10.0, 11.0])
VIRIAL = np.arange(9.0).reshape(3, 3) + 1


def write(path: Path, group: str, **arrays: Any) -> Path:
    with h5py.File(path, "a") as file:
        for name, values in arrays.items():
            file[f"{group}/{name.replace('__', '.')}"] = values
    return path


def check(found: Any, forces: bool = True) -> None:
    assert len(found) == 2
    for index, item in enumerate(found):
        assert item.numbers.tolist() == [8, 1, 1]
        np.testing.assert_allclose(item.positions, POSITIONS[index], atol=1e-6)
        assert item.energy == pytest.approx(ENERGIES[index], abs=1e-6)
        if forces:
            np.testing.assert_allclose(item.forces, FORCES[index], atol=1e-6)
        else:
            assert item.forces is None


def test_ani_1(tmp_path: Path) -> None:
    """Symbols, and conformers of high energy in arrays of their own."""
    arrays = {"coordinates": POSITIONS, "species": [b"O", b"H", b"H"], "smiles": [b"O"]}
    high = {"coordinatesHE": 1.1 * POSITIONS[:1], "energiesHE": [-76.0]}
    arrays["energies"] = ENERGIES / Hartree
    path = write(tmp_path / "a.h5", "gdb11_s01/gdb11_s01-0", **arrays, **high)
    reader = Reader()
    check(reader.read(path), forces=False)
    assert reader.records[0].format == "ANI HDF5"
    assert "'coordinatesHE' are not read. data.keys.energy=energiesHE" in reader.notes()[0]
    (found,) = read_structures(path, LabelKeys(energy="energiesHE"))
    assert found.energy == pytest.approx(-76.0 * Hartree)
    np.testing.assert_allclose(found.positions, 1.1 * POSITIONS[0])


def test_ani_2x(tmp_path: Path) -> None:
    """One group for each number of atoms, with the elements of every conformer."""
    species = np.array([[8, 1, 1], [1, 8, 1]])
    positions = np.stack([POSITIONS[0], POSITIONS[1][[1, 0, 2]]])
    arrays = {"coordinates": positions, "species": species, "energies": ENERGIES / Hartree}
    path = write(tmp_path / "a.h5", "003", **arrays, forces=FORCES / Hartree, dipole=np.ones(2))
    first, second = read_structures(path)
    assert second.numbers.tolist() == [1, 8, 1]
    np.testing.assert_allclose(second.positions[1], POSITIONS[1][0])
    assert first.energy == pytest.approx(ENERGIES[0])
    np.testing.assert_allclose(second.forces, FORCES[1])


def test_spice(tmp_path: Path) -> None:
    """Bohr, Hartree, and gradients; the charge is that of the SMILES string."""
    arrays = {
        "conformations": POSITIONS / Bohr,
        "atomic_numbers": NUMBERS,
        "dft_total_energy": ENERGIES / Hartree,
        "dft_total_gradient": -FORCES / (Hartree / Bohr),
        "subset": [b"Ions"],
        "smiles": [b"[O-:1]([H:2])[H:3].[N+2:4][O--]"],
    }
    path = write(tmp_path / "a.hdf5", "water", **arrays)
    reader = Reader()
    found = reader.read(path)
    check(found)
    assert (found[0].charge, found[0].spin, found[0].tags["subset"]) == (-1, 1, "Ions")
    assert reader.records[0].units["forces"] == "-Hartree/Bohr"
    check(Reader(units=Units(energy="Hartree", length="Bohr")).read(path))
    with h5py.File(path, "r+") as file:
        file["water/conformations"].attrs["units"] = "angstrom"
        file["water/dft_total_energy"].attrs["units"] = "kcal/mol"
        file["water/dft_total_gradient"].attrs["units"] = "hartree/bohr"
    assert Reader().read(path)[0].positions[1, 1] == pytest.approx(0.76 / Bohr)
    np.testing.assert_allclose(read_structures(path)[0].forces, FORCES[0])
    with h5py.File(path, "r+") as file:
        file["water/dft_total_energy"].attrs["units"] = "barrel"
    with pytest.raises(DataError, match="units that are unknown .*barrel"):
        read_structures(path)


def test_units_of_attributes_hold_for_their_group_and_quantity(tmp_path: Path) -> None:
    """What a group does not state is as published, with its sign."""
    path, arrays = tmp_path / "a.h5", {"atomic_numbers": NUMBERS, "dft_total_energy": ENERGIES}
    gradient = {"dft_total_gradient": -FORCES}
    write(path, "a", conformations=POSITIONS, **arrays)
    write(path, "b", conformations=POSITIONS, **arrays, **gradient)
    write(path, "c", conformations=POSITIONS, **arrays, **gradient)
    with h5py.File(path, "r+") as file:
        for name, energy in {"a": "eV", "b": "Hartree"}.items():
            file[f"{name}/conformations"].attrs["units"] = "angstrom"
            file[f"{name}/dft_total_energy"].attrs["units"] = energy
        file["c/conformations"].attrs["units"] = "nm"
        file["c/dft_total_gradient"].attrs["units"] = "eV/angstrom"
    found = Reader(units=Units(energy="kcal/mol", forces="eV/Å")).read(path)
    assert [item.energy for item in found[::2]] == pytest.approx(
        [ENERGIES[0] * unit for unit in (1, Hartree, kcal / mol)]
    )
    check(found[:2], forces=False)
    np.testing.assert_allclose(found[2].positions, POSITIONS[0])
    np.testing.assert_allclose(found[4].positions, 10 * POSITIONS[0])
    np.testing.assert_allclose(found[2].forces, -FORCES[0])  # as the recipe says
    np.testing.assert_allclose(found[4].forces, FORCES[0])
    published = read_structures(path)
    np.testing.assert_allclose(published[2].forces, FORCES[0] * Hartree / Bohr)


def test_units_of_attributes_of_arrays_chosen_by_name(tmp_path: Path) -> None:
    arrays = {"cc__energy": ENERGIES, "cc__forces": FORCES}
    path = write(tmp_path / "a.h5", "g", coordinates=POSITIONS, atomic_numbers=NUMBERS, **arrays)
    keys = LabelKeys(energy="cc.energy", forces="cc.forces")
    with h5py.File(path, "r+") as file:
        file["g/cc.energy"].attrs["units"] = "eV"
        file["g/cc.forces"].attrs["units"] = "eV/A"
    check(read_structures(path, keys))
    gradients = Reader(keys, Units(forces="-eV/Å")).read(path)
    np.testing.assert_array_equal(gradients[1].forces, -FORCES[1])


def test_transition1x(tmp_path: Path) -> None:
    """eV; each group is read once, however many links lead to it, and so are those within."""
    level = "wB97x_6-31G(d)"
    arrays = {"positions": POSITIONS, "atomic_numbers": NUMBERS, f"{level}.energy": ENERGIES}
    labels = {f"{level}.forces": FORCES, f"{level}.atomization_energy": ENERGIES + 2060}
    path = write(tmp_path / "a.h5", "data/H2O/rxn0000", **arrays, **labels)
    with h5py.File(path, "r+") as file:
        file["train/H2O/rxn0000"] = file["data/H2O/rxn0000"]
        file["val"] = h5py.SoftLink("/data")
    found = read_structures(path)
    check(found)
    assert found[0].level_of_theory == level
    inner = {
        name: values[:1] if name != "atomic_numbers" else values for name, values in arrays.items()
    }
    write(path, "data/H2O/rxn0000/product", **inner)
    assert [item.energy for item in read_structures(path)] == [*ENERGIES, ENERGIES[0]]


def test_qm7x(tmp_path: Path) -> None:
    """eV; a group for each structure."""
    for index in range(2):
        arrays = {"atNUM": NUMBERS, "atXYZ": POSITIONS[index], "totFOR": FORCES[index]}
        energies = {"ePBE0+MBD": ENERGIES[index : index + 1], "ePBE0": [-1.0]}
        write(tmp_path / "a.hdf5", f"1/Geom-m1-i1-c1-d{index}", **arrays, **energies)
    reader = Reader()
    check(reader.read(tmp_path / "a.hdf5"))
    assert reader.records[0].format == "QM7-X HDF5"


def test_aimnet2(tmp_path: Path) -> None:
    """eV; every conformer has a charge."""
    arrays = {"coord": POSITIONS, "numbers": np.tile(NUMBERS, (2, 1)), "energy": ENERGIES}
    path = write(tmp_path / "a.h5", "003", **arrays, forces=FORCES, charge=np.array([0.0, -1.0]))
    found = read_structures(path)
    check(found)
    assert [item.charge for item in found] == [0, -1]


def test_what_is_ambiguous_or_unknown_is_refused(tmp_path: Path) -> None:
    both = {"coord": POSITIONS, "numbers": NUMBERS, "energy": ENERGIES}
    more = {"coordinates": POSITIONS, "species": NUMBERS}
    path = write(tmp_path / "a.h5", "x", **both, **more)
    with pytest.raises(DataError, match="group '/x' has positions of ANI and of AIMNet2"):
        read_structures(path)
    path = write(tmp_path / "b.h5", "x", **both)
    write(path, "y", **more, energies=ENERGIES)
    with pytest.raises(DataError, match="in the layouts of AIMNet2 and ANI. Divide it"):
        read_structures(path)
    path = write(tmp_path / "c.h5", "x", positions=POSITIONS, atomic_numbers=NUMBERS)
    with pytest.raises(DataError, match=r"in a layout that is known \(ANI-1x, .*QM7-X"):
        read_structures(path)
    path = write(tmp_path / "d.h5", "x", **(both | {"numbers": NUMBERS[:2]}))
    with pytest.raises(DataError, match=r"numbers of shape \(2,\) .* do not fit"):
        read_structures(path)


def tables() -> dict[str, Any]:
    return {
        "coord": POSITIONS.reshape(2, 9),
        "energy": ENERGIES[:, None],
        "force": FORCES.reshape(2, 9),
        "box": np.stack([BOX.ravel()] * 2),
        "virial": np.stack([VIRIAL.ravel()] * 2),
    }


def folder(path: Path, text: bool = False, **change: Any) -> Path:
    """Write a system of two structures: sets of one each, or tables as text."""
    path.mkdir(parents=True)
    (path / "type.raw").write_text("1\n0\n0\n")
    (path / "type_map.raw").write_text("H\nO\n")
    for name, values in {**tables(), **change}.items():
        if values is None:
            continue
        if text:
            np.savetxt(path / f"{name}.raw", values)
            continue
        for part in range(2):
            (path / f"set.00{part}").mkdir(exist_ok=True)
            np.save(path / f"set.00{part}/{name}.npy", values[part : part + 1])
    return path


@pytest.mark.parametrize("kind", ["npy", "raw", "hdf5"])
def test_deepmd(kind: str, tmp_path: Path) -> None:
    """eV; the stress is minus the virial over the volume."""
    path = tmp_path / "a.h5"
    if kind == "hdf5":
        sets = {f"set.000/{name}.npy": values for name, values in tables().items()}
        write(path, "water", **{"type.raw": [1, 0, 0], "type_map.raw": [b"H", b"O"]}, **sets)
    else:
        path = folder(tmp_path / "systems/water", text=kind == "raw")
    found = read_structures(path)
    check(found)
    assert found[0].pbc.all()
    np.testing.assert_allclose(found[1].cell, BOX)
    np.testing.assert_allclose(found[1].stress, -VIRIAL / 990.0)


def test_deepmd_systems_without_cells_elements_or_one_composition(tmp_path: Path) -> None:
    open_ = folder(tmp_path / "sets/open", box=None)
    with pytest.raises(DataError, match="neither 'box' nor 'nopbc'"):
        read_structures(open_)
    (open_ / "nopbc").touch()
    (found, _) = read_structures(open_)
    assert not found.pbc.any() and found.stress is None
    mixed = np.array([[0, 1, 1], [0, 0, -1]])
    folder(tmp_path / "sets/mixed", real_atom_types=mixed)
    first, second, *rest = read_structures(tmp_path / "sets")
    assert (first.numbers.tolist(), second.numbers.tolist()) == ([1, 8, 8], [1, 1])
    np.testing.assert_allclose(second.forces, FORCES[1][:2])
    assert len(rest) == 2
    (open_ / "type_map.raw").unlink()
    with pytest.raises(DataError, match="has types without elements"):
        read_structures(open_)
    assert read_structures(f"{open_}@F,N")[0].numbers.tolist() == [7, 9, 9]
    short = folder(tmp_path / "short", force=FORCES.reshape(2, 9)[:, :6])
    with pytest.raises(DataError, match=r"'force' of shape \(1, 6\) in 'set.000'; it needs"):
        read_structures(short)
