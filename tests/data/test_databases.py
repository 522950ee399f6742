"""ASE databases: where a label stands in a row, and the unit that the metadata state."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect
from ase.units import Bohr, GPa, Hartree, kcal, mol

from finetune.core.errors import DataError
from finetune.core.units import Units
from finetune.data.reading import Reader, read_structures
from finetune.recipe.sections import LabelKeys

FORCES = np.array([[0.1, 0.0, -0.3], [0.0, 0.2, 0.1], [-0.1, -0.2, 0.2]])
NAMED = LabelKeys(energy="E", forces="F")


def write(path: Path, *rows: dict[str, Any], **metadata: Any) -> Path:
    with connect(path) as database:
        for row in rows:
            atoms = row.get("atoms", molecule("H2O"))
            database.write(atoms, key_value_pairs=row.get("pairs", {}), data=row.get("data", {}))
        if metadata:
            database.metadata = metadata
    return path


@pytest.mark.parametrize("name", ["a.db", "a.json"])
def test_labels_stand_in_columns_pairs_or_data(name: str, tmp_path: Path) -> None:
    computed = molecule("H2O")
    computed.calc = SinglePointCalculator(computed, energy=-1.5, forces=FORCES)
    state = {"charge": 1, "spin": 2, "config_type": "ion"}
    path = write(
        tmp_path / name,
        {"atoms": computed, "pairs": {"E": -2.5, **state}, "data": {"F": 2 * FORCES}},
        {"pairs": {"config_type": "none"}, "data": {"E": np.array([-3.5]), "charge": -1}},
    )
    first, second = read_structures(path, NAMED)
    assert (first.energy, first.charge, first.spin) == (-2.5, 1, 2)
    np.testing.assert_array_equal(first.forces, 2 * FORCES)
    assert first.tags["config_type"] == "ion"
    assert (second.energy, second.forces, second.charge, second.spin) == (-3.5, None, -1, 1)
    column, _ = read_structures(path, LabelKeys(energy="energy", forces="forces"))
    assert column.energy == -1.5
    np.testing.assert_array_equal(column.forces, FORCES)


def test_units_are_those_of_the_metadata(tmp_path: Path) -> None:
    atoms = molecule("H2O")
    scaled = Atoms(atoms.numbers, atoms.positions / Bohr)
    row = {"atoms": scaled, "data": {"E": [-76.4], "F": FORCES, "U": [-100.0]}}
    units = {"E": "Ha", "F": "Ha/Bohr", "U": "kcal/mol", "gap": "unheard of"}
    path = write(tmp_path / "a.db", row, _property_unit_dict=units, _distance_unit="Bohr")
    reader = Reader(NAMED)
    (found,) = reader.read(path)
    assert found.energy == pytest.approx(-76.4 * Hartree)
    np.testing.assert_allclose(found.forces, FORCES * Hartree / Bohr)
    np.testing.assert_allclose(found.positions, atoms.positions)
    assert reader.records[0].units["forces"] == "Hartree/Bohr"
    (other,) = read_structures(path, LabelKeys(energy="U"))
    assert other.energy == pytest.approx(-100.0 * kcal / mol)
    with pytest.raises(DataError, match=r"metadata of '.*a\.db' state a unit that is unknown"):
        read_structures(path, LabelKeys(energy="gap"))


def test_units_that_the_metadata_leave_open_are_those_of_the_recipe(tmp_path: Path) -> None:
    crystal = bulk("NaCl", "rocksalt", 5.6)
    data = {"E": [-76.4], "F": FORCES[:2], "S": np.arange(6.0)}
    row = {"atoms": crystal, "data": data}
    units = Units(energy="Hartree", forces="-Hartree/Bohr", stress="-kbar")
    keys = LabelKeys(energy="E", forces="F", stress="S")
    said = {"_distance_unit": "Ang", "_property_unit_dict": {"S": "kbar"}}
    path = write(tmp_path / "a.db", row, **said)
    (found,) = Reader(keys, units).read(path)
    assert found.energy == pytest.approx(-76.4 * Hartree)
    np.testing.assert_allclose(found.forces, -FORCES[:2] * Hartree / Bohr)
    assert found.stress[2, 2] == pytest.approx(-2 * 0.1 * GPa)
    (found,) = Reader(keys, Units(stress="-GPa")).read(path)
    assert found.stress[2, 2] == pytest.approx(2 * 0.1 * GPa)


def test_a_name_with_two_values_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.db", {"pairs": {"E": -1.0}, "data": {"E": -1.0}})
    assert read_structures(path, NAMED)[0].energy == -1.0
    write(path, {"pairs": {"E": -1.0}, "data": {"E": -2.0}})
    with pytest.raises(DataError, match="structure 1: 'E' has different values"):
        read_structures(path, NAMED)
    assert len(Reader(NAMED, faulty="skip").read(path)) == 1


def test_a_kind_that_needs_a_package_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ase_db_backends", None)
    (tmp_path / "a.aselmdb").write_bytes(b"\0" * 100)
    with pytest.raises(DataError, match="pip install ase-db-backends"):
        read_structures(tmp_path / "a.aselmdb", NAMED)
