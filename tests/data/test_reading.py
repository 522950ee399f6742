"""What a user's files may hold, and what each fault in them gets."""

import re
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator

from finetune.core.errors import DataError
from finetune.data.labels import check_keys
from finetune.data.reading import Reader, read_structures
from finetune.data.structures import from_atoms
from finetune.recipe.sections import LabelKeys


def labelled(energy: object = -1.0, forces: object = None) -> Atoms:
    atoms = molecule("H2O")
    atoms.info["REF_energy"] = energy
    if forces is not None:
        atoms.arrays["REF_forces"] = np.asarray(forces)
    return atoms


def written(folder: Path, *frames: Atoms, name: str = "data.xyz") -> Path:
    path = folder / name
    ase.io.write(path, list(frames))
    return path


def test_labels_are_read_where_they_are(tmp_path: Path) -> None:
    forces = np.arange(9.0).reshape(3, 3)
    path = written(tmp_path, labelled(-2.5, forces), labelled(-3.0))
    first, second = read_structures(path)
    assert first.energy == -2.5
    np.testing.assert_allclose(first.forces, forces)
    assert second.energy == -3.0
    assert second.forces is None
    assert second.where.endswith("data.xyz', structure 1")


def test_ase_results_are_labels_too(tmp_path: Path) -> None:
    atoms = bulk("Si")
    stress = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    atoms.calc = SinglePointCalculator(atoms, energy=-10.0, forces=np.zeros((2, 3)), stress=stress)
    path = tmp_path / "si.traj"
    ase.io.write(path, atoms)
    (found,) = read_structures(path, LabelKeys(energy="energy", forces="forces", stress="stress"))
    assert found.energy == -10.0
    assert found.forces is not None
    assert found.stress is not None
    assert found.stress[1, 2] == 4.0


def test_index_expressions_select(tmp_path: Path) -> None:
    path = written(tmp_path, *(labelled(-float(i)) for i in range(5)))
    assert [item.energy for item in read_structures(f"{path}@1:3")] == [-1.0, -2.0]
    assert len(read_structures([f"{path}@0", path])) == 6


def test_names_with_an_at_sign_are_names(tmp_path: Path) -> None:
    assert len(read_structures(written(tmp_path, labelled(), name="set@2.xyz"))) == 1


def test_stress_without_a_volume_is_no_label(tmp_path: Path) -> None:
    atoms = labelled()
    atoms.info["REF_stress"] = np.zeros(6)
    (found,) = read_structures(written(tmp_path, atoms))
    assert found.stress is None


def test_a_folder_may_be_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fold").mkdir()
    (tmp_path / "fold/a.xyz").write_text("1\nREF_energy=-1.5\nHe 0 0 0\n")
    monkeypatch.chdir(tmp_path)
    (found,) = read_structures("fold")
    assert found.energy == -1.5


def test_files_are_found_beside_the_recipe(tmp_path: Path) -> None:
    written(tmp_path, labelled())
    assert len(read_structures("data.xyz", recipe_folder=tmp_path)) == 1


@pytest.mark.parametrize(
    ("atoms", "message"),
    [
        (labelled(float("nan")), "structure 0: 'REF_energy' contains NaN"),
        (labelled(forces=np.full((3, 3), np.inf)), "structure 0: 'REF_forces' contains NaN or inf"),
        (labelled(forces=np.zeros((3, 2))), r"shape \(3, 2\); forces need \(3, 3\)"),
        (labelled("low"), "'REF_energy' is not numeric"),
        (labelled(True), "'REF_energy' is not numeric"),
        (labelled([1.0, 2.0]), "must be one number in eV"),
    ],
)
def test_bad_labels_are_named(tmp_path: Path, atoms: Atoms, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_structures(written(tmp_path, atoms))


def collided() -> Atoms:
    atoms = labelled()
    atoms.positions[2] = atoms.positions[1] + 0.1
    return atoms


def lost() -> Atoms:
    atoms = labelled()
    atoms.positions[0, 0] = np.nan
    return atoms


def flat() -> Atoms:
    atoms = labelled()
    atoms.set_cell([[8, 0, 0], [8, 0, 0], [0, 0, 8]])
    atoms.pbc = (True, True, False)
    return atoms


def ghost() -> Atoms:
    atoms = labelled()
    atoms.numbers[0] = 0
    return atoms


@pytest.mark.parametrize(
    ("atoms", "message"),
    [
        (collided(), r"atoms 1 and 2 are 0\.173 Å apart"),
        (lost(), "positions or a cell that are NaN"),
        (ghost(), "unknown element"),
        (flat(), "cell vectors are parallel"),
    ],
)
def test_bad_geometries_are_named(tmp_path: Path, atoms: Atoms, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_structures(written(tmp_path, atoms, name="data.traj"))


def test_absent_and_misspelt_keys_list_what_is_there(tmp_path: Path) -> None:
    path = written(tmp_path, labelled(forces=np.zeros((3, 3))))
    with pytest.raises(DataError, match="Keys present: REF_energy, REF_forces"):
        read_structures(path, LabelKeys(energy="dft_energy", forces="dft_forces"))
    with pytest.raises(DataError, match="Set data.keys.forces=REF_forces"):
        read_structures(path, LabelKeys(forces="REF_force"))
    assert len(read_structures(path, LabelKeys(energy="none", forces="no"), need_labels=False)) == 1


@pytest.mark.parametrize(
    ("name", "quantity"), [("my_forces", "forces"), ("virial_stress", "stress")]
)
def test_what_may_be_labels_under_other_names_is_told(
    tmp_path: Path, name: str, quantity: str
) -> None:
    atoms = bulk("Cu")
    atoms.info["REF_energy"] = -3.7
    if quantity == "forces":
        atoms.arrays[name] = np.zeros((1, 3))
    else:
        atoms.info[name] = np.zeros(6)
    path = written(tmp_path, atoms)
    reader = Reader()
    assert reader.read(path)[0].energy == -3.7
    (note,) = reader.notes()
    assert f"'{name}' is not read" in note and f"data.keys.{quantity}={name}" in note

    reader = Reader(LabelKeys(**{quantity: name}))
    assert getattr(reader.read(path)[0], quantity) is not None
    assert not reader.notes()


def test_missing_unreadable_and_empty_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no structure file 'nothing.xyz'"):
        read_structures("nothing.xyz")
    broken = tmp_path / "broken.xyz"
    broken.write_text("3\nProperties=species:S:1:pos:R:3\nO 0 0\n")
    with pytest.raises(DataError, match="should have 3 atoms, but the file ends after 1 line"):
        read_structures(broken)
    empty = tmp_path / "empty.xyz"
    empty.write_text("")
    with pytest.raises(DataError, match="empty.xyz"):
        read_structures(empty)
    path = written(tmp_path, labelled())
    with pytest.raises(DataError, match="contains no structures at that index"):
        read_structures(f"{path}@5:7")
    with pytest.raises(DataError, match="no structure file is named"):
        read_structures([])


@pytest.mark.parametrize(
    ("atoms", "message"),
    [
        (Atoms([200], [[0, 0, 0]]), r"unknown element \(atomic number 200\)"),
        (Atoms("C", [[0, 0, 0]], cell=[0.003] * 3, pbc=True), "cell vector of 0.003 Å"),
        (Atoms("C", [[0, 0, 0]], info={"charge": 1e20}), "'charge' must be one whole number from"),
        (Atoms("C", [[0, 0, 0]], info={"spin": -3}), "'spin' must be one whole number from 1"),
    ],
)
def test_absurd_structures_are_refused_at_once(atoms: Atoms, message: str) -> None:
    with pytest.raises(DataError, match=message):
        from_atoms(atoms, LabelKeys(), "here")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "REF_energy",
            1e300,
            r"'REF_energy' reaches .* eV/atom; no structure has more than 1e\+07",
        ),
        ("REF_forces", np.full((6, 3), -1e20), r"'REF_forces' reaches 1e\+20 eV/Å"),
        ("REF_stress", np.full(6, 1e4), r"'REF_stress' reaches 1e\+04 eV/Å³"),
    ],
)
def test_absurd_labels_are_named(key: str, value: Any, message: str) -> None:
    atoms = molecule("CH3OH")
    atoms.set_cell(np.eye(3) * 9)
    atoms.pbc = True
    if key == "REF_forces":
        atoms.arrays[key] = value
    else:
        atoms.info[key] = value
    with pytest.raises(DataError, match=message):
        from_atoms(atoms, LabelKeys(), "a.xyz, structure 3")
    atoms.info["REF_energy"] = -8e5 * 6  # as of six uranium atoms
    atoms.arrays.pop("REF_forces", None)
    atoms.info.pop("REF_stress", None)
    assert from_atoms(atoms, LabelKeys(), "a.xyz").energy == -8e5 * 6


@pytest.mark.parametrize(
    ("present", "told"),
    [
        (
            ["ccsdt_energy", "my_forces"],
            "Set data.keys.energy=ccsdt_energy, data.keys.forces=my_forces "
            "(command: --energy-key ccsdt_energy --forces-key my_forces)",
        ),
        (["REF_stress", "config"], "Set data.keys.energy=NAME (command: --energy-key NAME)"),
    ],
)
def test_all_names_that_labels_may_have_are_told(present: list[str], told: str) -> None:
    with pytest.raises(DataError, match=re.escape(told)):
        check_keys(present, LabelKeys(), "here", need_labels=True)
