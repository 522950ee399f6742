"""Labels under the names, in the forms and in the units that files have."""

from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.units import GPa, Hartree

from finetune.core.errors import DataError
from finetune.core.units import Units
from finetune.data.labels import USUAL_NAMES, check_keys, label_names
from finetune.data.reading import Reader
from finetune.data.structures import Structure, from_atoms, to_atoms
from finetune.data.writing import write_structures
from finetune.recipe.sections import LabelKeys

STRESS = np.array([[0.01, 0.002, -0.003], [0.002, 0.02, 0.004], [-0.003, 0.004, -0.01]])
"""eV/Å³."""
VOIGT = STRESS[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]


def crystal(**info: Any) -> Atoms:
    atoms = bulk("Cu", cubic=True)
    atoms.info |= {"REF_energy": -3.0, **info}
    return atoms


def read(atoms: Atoms, keys: LabelKeys | None = None, units: Units | None = None) -> Structure:
    return from_atoms(atoms, keys or LabelKeys(), "'made.xyz', structure 0", units)


VOLUME = crystal().get_volume()


@pytest.mark.parametrize("name", USUAL_NAMES["virial"])
@pytest.mark.parametrize("form", ["nine", "row", "six"])
def test_a_virial_is_minus_the_volume_times_stress(name: str, form: str) -> None:
    virial = -VOLUME * {"nine": STRESS, "row": STRESS.ravel(), "six": VOIGT}[form]
    found = read(crystal(**{name: virial}))
    assert found.stress is not None
    np.testing.assert_allclose(found.stress, STRESS, rtol=1e-14)


def test_names_and_units_of_virials() -> None:
    virial = -VOLUME * STRESS
    given: list[tuple[Atoms, LabelKeys | None, Units | None]] = [
        (crystal(mine=virial), LabelKeys(virial="mine"), None),
        (crystal(REF_stress=virial), LabelKeys(virial="REF_stress"), None),
        (crystal(virial=-virial), None, Units(virial="-eV")),
        (crystal(virial=virial / Hartree), None, Units(energy="Hartree")),
        (crystal(virial=virial, REF_stress=STRESS), None, None),
    ]
    for atoms, keys, units in given:
        found = read(atoms, keys, units).stress
        assert found is not None
        np.testing.assert_allclose(found, STRESS, rtol=1e-9)
    assert read(crystal(REF_virials=virial), LabelKeys(virial=None)).stress is None
    assert read(crystal(REF_virials=virial), LabelKeys(virial="mine")).stress is None
    with pytest.raises(DataError, match="'virial' has shape"):
        read(crystal(virial=np.ones(5)))


def test_a_file_with_virials_has_stress(tmp_path: Path) -> None:
    """ASE knows `virial` and `stress` as special names of nine numbers."""
    path = tmp_path / "made.xyz"
    ase.io.write(path, [crystal(virial=-VOLUME * STRESS), crystal(REF_virials=-VOLUME * VOIGT)])
    reader = Reader()
    for item in reader.read(path):
        assert item.stress is not None
        np.testing.assert_allclose(item.stress, STRESS, rtol=1e-6)
    assert "stress" in reader.found and reader.notes() == []


@pytest.mark.parametrize("name", ["stress", "virial"])
def test_six_numbers_in_a_header_are_in_the_order_of_voigt(name: str, tmp_path: Path) -> None:
    path = tmp_path / "six.xyz"
    header = (
        'Lattice="3 0 0 0 3 0 0 0 3" REF_energy=-1 {}="1 2 3 4 5 6" Properties=species:S:1:pos:R:3'
    )
    path.write_text(f"1\n{header.format(name)}\nH 0 0 0\n")
    (item,) = Reader(LabelKeys(stress="stress")).read(path)
    expected = np.array([[1.0, 6, 5], [6, 2, 4], [5, 4, 3]]) / (1 if name == "stress" else -27)
    assert item.stress is not None
    np.testing.assert_allclose(item.stress, expected, rtol=1e-14)


def test_stress_of_slabs_is_counted_where_it_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "slab.xyz"
    frames = [crystal(REF_stress=STRESS), crystal(REF_virials=STRESS), crystal()]
    for atoms in frames:
        atoms.pbc = [True, True, False]
    ase.io.write(path, [*frames, crystal(REF_stress=STRESS)])
    reader = Reader()
    stresses = [item.stress is not None for item in reader.read(path)]
    assert stresses == [False, False, False, True]
    (note,) = reader.notes()
    assert note.startswith(f"warning: 2 of 4 structures of '{path}' have stress but are not")
    assert reader.records[0].unused_stress == 2


@pytest.mark.parametrize(
    ("tags", "units", "energy", "force", "stress"),
    [
        ({"stress-unit": "kbar"}, {}, 1.0, 1.0, 0.1 * GPa),
        ({"stress-unit": "kbar"}, {"stress": "-kbar"}, 1.0, 1.0, -0.1 * GPa),
        ({"stress-unit": "GPa"}, {"stress": "-kbar"}, 1.0, 1.0, GPa),
        ({"energy-unit": "Hartree"}, {}, Hartree, Hartree, Hartree),
        ({"energy_units": "Hartree", "forces-unit": "eV/Å"}, {}, Hartree, 1.0, Hartree),
        ({"Force_Unit": "kcal/mol/Å"}, {"energy": "meV"}, 1e-3, 0.0433641, 1e-3),
    ],
)
def test_units_that_a_structure_names(
    tags: dict[str, str],
    units: dict[str, str],
    energy: float,
    force: float,
    stress: float,
    tmp_path: Path,
) -> None:
    atoms = crystal(REF_stress=STRESS, temperature=300, **tags)
    atoms.arrays["REF_forces"] = np.eye(4, 3)
    plain = crystal(REF_stress=STRESS)
    plain.arrays["REF_forces"] = np.eye(4, 3)
    path = tmp_path / "units.xyz"
    ase.io.write(path, [plain, atoms])
    reader = Reader(units=Units(**units))
    first, second = reader.read(path)
    assert second.energy == pytest.approx(-3 * energy)
    assert second.forces is not None and second.stress is not None and first.stress is not None
    assert second.forces[0, 0] == pytest.approx(force)
    assert second.stress[0, 0] == pytest.approx(0.01 * stress, rel=1e-6)
    usual = Units(**units).factors()
    assert first.energy == pytest.approx(-3 * usual["energy"])
    assert first.stress[0, 0] == pytest.approx(0.01 * usual["stress"], rel=1e-6)
    assert dict(second.tags) == {"temperature": 300.0}  # the unit is no longer that of the labels
    written = tmp_path / "written.xyz"
    write_structures(written, [second])
    assert Reader().read(written)[0].energy == pytest.approx(second.energy, rel=1e-9)


def test_an_unknown_unit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "units.xyz"
    ase.io.write(path, crystal(**{"energy-unit": "eV/atom"}))
    with pytest.raises(DataError, match=r"structure 0 has energy-unit=eV/atom: .* no|not a unit"):
        Reader().read(path)


def test_names_that_hold_no_numbers_are_no_labels(tmp_path: Path) -> None:
    atoms = crystal(calculate_stress=True, stress_method="finite", my_stress=STRESS)
    assert label_names(atoms) == {"REF_energy", "my_stress"}
    path = tmp_path / "made.xyz"
    ase.io.write(path, atoms)
    reader = Reader()
    reader.read(path)
    (note,) = reader.notes()
    assert "data.keys.stress=my_stress" in note


@pytest.mark.parametrize(
    ("info", "charge", "spin"),
    [
        ({}, 0, 1),
        ({"charge": 1, "spin": 2}, 1, 2),
        ({"total_charge": -1, "total_spin": 2}, -1, 2),
        ({"charge": 1, "multiplicity": 3}, 1, 3),
        ({"charge": 1, "total_charge": 1.0, "spin_multiplicity": 2, "spin": 2}, 1, 2),
        ({"multiplicity": "singlet"}, 0, 1),
    ],
)
def test_charge_and_spin_under_usual_names(info: dict[str, Any], charge: int, spin: int) -> None:
    found = from_atoms(molecule("H2O", info=info), LabelKeys(), "made")
    assert (found.charge, found.spin) == (charge, spin)
    said = {name for name in ("charge", "spin") if name in found.tags}
    assert said == {
        name for name in ("charge", "spin") if any(key in info for key in USUAL_NAMES[name])
    }
    again = from_atoms(to_atoms(found, labels=True), LabelKeys(), "made")
    assert (again.charge, again.spin, again.tags) == (charge, spin, found.tags)


def test_contradicting_charges_are_refused() -> None:
    atoms = molecule("H2O", info={"charge": 0, "total_charge": 1})
    with pytest.raises(DataError, match="'charge' is 0, 'total_charge' is 1.*data.keys.charge="):
        from_atoms(atoms, LabelKeys(), "made")
    assert from_atoms(atoms, LabelKeys(charge="total_charge"), "made").charge == 1
    assert from_atoms(atoms, LabelKeys(charge=None), "made").charge == 0
    atoms = molecule("H2O", info={"total_spin": 0})
    with pytest.raises(DataError, match="'total_spin' must be one whole number from 1"):
        from_atoms(atoms, LabelKeys(), "made")


@pytest.mark.parametrize(("name", "word"), [("total_charge", "-1e"), ("multiplicity", "high")])
def test_charge_and_spin_in_words_are_refused(name: str, word: str) -> None:
    atoms = molecule("H2O", info={name: word})
    with pytest.raises(DataError, match=f"'{name}' is not numeric ..{word}"):
        from_atoms(atoms, LabelKeys(), "made")
    assert (
        from_atoms(molecule("OH", info={"multiplicity": "Doublet"}), LabelKeys(), "made").spin == 2
    )


@pytest.mark.parametrize("left_out", ["energy", "forces", "stress"])
def test_a_key_that_is_null_leaves_its_label_out(left_out: str, tmp_path: Path) -> None:
    atoms = crystal(REF_stress=STRESS)
    atoms.arrays["REF_forces"] = np.zeros((4, 3))
    path = tmp_path / "made.xyz"
    ase.io.write(path, atoms)
    reader = Reader(LabelKeys(**{left_out: None, "virial": None}))
    (item,) = reader.read(path)
    for name in ("energy", "forces", "stress"):
        assert (getattr(item, name) is None) == (name == left_out)
    assert reader.notes() == [] and reader.unnamed() == {}
    with pytest.raises(DataError, match="no forces under 'REF_forces'"):
        check_keys(["other"], LabelKeys(energy=None), "here", need_labels=True)
