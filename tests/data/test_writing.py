"""What the commands write, and what they refuse to write."""

import os
import stat
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.io import write
from typer.testing import CliRunner

from finetune.commands import app
from finetune.core.errors import DataError
from finetune.core.files import write_atomically
from finetune.data.reading import read_structures
from finetune.data.writing import write_structures
from finetune.recipe.sections import LabelKeys
from tests.conftest import structure


def refused(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["data", *arguments])
    assert done.exit_code == 2, done.output
    return " ".join(done.stderr.split())


@pytest.fixture
def labelled(tmp_path: Path) -> str:
    """Ten molecules with ``dft_energy`` and ``dft_forces``."""
    frames = []
    for index in range(10):
        atoms = molecule("CH3OH")
        atoms.rattle(0.05, seed=index)
        atoms.info["dft_energy"] = float(index)
        atoms.arrays["dft_forces"] = np.zeros((len(atoms), 3))
        frames.append(atoms)
    write(tmp_path / "mine.xyz", frames)
    return str(tmp_path / "mine.xyz")


def test_labels_under_other_names_are_not_lost_in_a_split(labelled: str, tmp_path: Path) -> None:
    parts = tmp_path / "parts"
    assert "--energy-key dft_energy" in refused("split", labelled, "--to", str(parts))
    assert not parts.exists()
    names = ["--energy-key", "dft_energy", "--forces-key", "dft_forces"]
    done = CliRunner().invoke(app, ["data", "split", labelled, "--to", str(parts), *names])
    assert done.exit_code == 0, done.output
    assert "'dft_energy' is 'REF_energy', 'dft_forces' is 'REF_forces'" in done.output
    assert all(item.forces is not None for item in read_structures(parts / "train.xyz"))


def test_structures_without_any_label_can_be_split(tmp_path: Path) -> None:
    frames = [molecule(name) for name in ("H2O", "CH4", "NH3", "C2H6", "CH3OH")]
    write(tmp_path / "pool.xyz", frames)
    arguments = [str(tmp_path / "pool.xyz"), "--to", str(tmp_path / "parts"), "--valid", "1"]
    done = CliRunner().invoke(app, ["data", "split", *arguments, "--test", "1"])
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("command", ["convert", "split"])
def test_a_name_given_and_found_nowhere_is_refused(
    command: str, labelled: str, tmp_path: Path
) -> None:
    target = tmp_path / ("new.xyz" if command == "convert" else "parts")
    names = ["--energy-key", "typo", "--forces-key", "dft_forces"]
    message = refused(command, labelled, "--to", str(target), *names)
    assert "no structure has energy under 'typo'. Keys present: dft_energy" in message
    assert not target.exists()
    keys = LabelKeys(energy="typo", forces="dft_forces")
    assert len(read_structures(labelled, keys)) == 10
    with pytest.raises(DataError, match="no structure has energy under 'typo'"):
        read_structures(labelled, keys, named=["energy"])


def test_a_seed_below_zero_is_refused(labelled: str, tmp_path: Path) -> None:
    assert "--seed" in refused("split", labelled, "--to", str(tmp_path / "p"), "--seed", "-1")


@pytest.mark.parametrize("name", ["new.xyz", "new.h5"])
def test_a_folder_that_is_missing_is_named(name: str, labelled: str, tmp_path: Path) -> None:
    message = refused(
        "convert", labelled, "--to", str(tmp_path / "none" / name), "--energy-key", "dft_energy"
    )
    assert f"there is no folder '{tmp_path / 'none'}' to write '{name}' to" in message
    assert sorted(item.name for item in tmp_path.iterdir()) == ["mine.xyz"]


def test_atomic_numbers_of_an_archive_are_whole(tmp_path: Path) -> None:
    arrays = {"R": np.eye(3)[None, :2], "E": np.zeros(1), "F": np.zeros((1, 2, 3))}
    np.savez(tmp_path / "set.npz", z=np.array([1.5, 1.0]), **arrays)
    with pytest.raises(DataError, match="'z' contains 1.5; atomic numbers are whole"):
        read_structures(tmp_path / "set.npz")
    np.savez(tmp_path / "whole.npz", z=np.array([1.0, 1.0]), **arrays)
    assert read_structures(tmp_path / "whole.npz")[0].numbers.tolist() == [1, 1]


def test_what_is_in_the_way_is_told(labelled: str, tmp_path: Path) -> None:
    keys = ["--energy-key", "dft_energy", "--forces-key", "dft_forces"]
    split = ["split", labelled, *keys, "--to"]
    assert "is a file; name a folder with --to" in refused(*split, labelled)
    assert "--suffix is 'cif'; choose xyz or h5" in refused(
        *split, str(tmp_path / "parts"), "--suffix", "cif"
    )
    plot = str(tmp_path / "gone" / "look.png")
    assert "to draw 'look.png' in. Make it." in refused("inspect", labelled, *keys, "--plot", plot)
    twice = ["--units", "energy=eV", "--units", "energy=meV"]
    assert "--units: energy is there twice" in refused("inspect", labelled, *keys, *twice)
    fault = refused("inspect", labelled, *keys, "--units", "energy=parsec")
    assert "--units has 1 fault: energy: 'parsec' is not a unit" in fault
    assert [item.name for item in tmp_path.iterdir()] == [Path(labelled).name]


@pytest.mark.parametrize("name", ["new.xyz", "new.h5", "split.json"])
def test_what_is_written_has_the_rights_that_the_umask_leaves(name: str, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        if name.endswith("json"):
            write_atomically(tmp_path / name, b"{}")
        else:
            write_structures(tmp_path / name, [structure(molecule("H2O"))])
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o640


def test_tags_with_names_that_mean_something_else_are_read_back(tmp_path: Path) -> None:
    atoms = bulk("Si")
    odd = {"stress": 5.0, "Lattice": "hexagonal", "Properties": "x", "dipole": "x"}
    atoms.info = {"REF_energy": -3.0, **odd, "": "empty", "a=b": 2.0, "a_b": 1.0, "kind": "plain"}
    write(tmp_path / "odd.traj", atoms)
    write_structures(tmp_path / "new.xyz", read_structures(tmp_path / "odd.traj"))
    (found,) = read_structures(tmp_path / "new.xyz")
    assert found.energy == -3.0
    np.testing.assert_array_equal(found.cell, atoms.cell.array)
    expected = {f"tag_{key}": value for key, value in odd.items()}
    others = {"tag_": "empty", "tag_a_b": 2.0, "a_b": 1.0, "kind": "plain"}
    assert found.tags == expected | others


@pytest.mark.parametrize("value", [3.0, "low"])
def test_a_tag_named_virial_of_a_molecule_is_read_back(value: float | str, tmp_path: Path) -> None:
    atoms = molecule("H2O")
    atoms.info = {"REF_energy": -3.0, "virial": value}
    write(tmp_path / "odd.traj", atoms)
    write_structures(tmp_path / "new.xyz", read_structures(tmp_path / "odd.traj"))
    assert read_structures(tmp_path / "new.xyz")[0].tags == {"tag_virial": value}
