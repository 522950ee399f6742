"""XYZ as programs and people write it, and dumps of LAMMPS."""

from pathlib import Path

import numpy as np
import pytest
from ase.units import Hartree, kcal, mol

from finetune.core.errors import DataError
from finetune.core.units import Units
from finetune.data.reading import Reader, read_structures
from finetune.recipe.sections import LabelKeys

WATER = "O 0 0 0.12\nH 0 0.76 -0.48\nH 0 -0.76 -0.48\n"
COMMENT = LabelKeys(energy="comment")


def written(path: Path, *comments: str, atoms: str = WATER) -> Path:
    path.write_text("".join(f"3\n{comment}\n{atoms}" for comment in comments))
    return path


@pytest.mark.parametrize(
    "comment",
    [
        "Coordinates from ORCA-job water E -76.25",
        " energy: -76.25 gnorm: 0.000312 xtb: 6.7.1 (edcfbbe)",
    ],
)
def test_energies_that_a_comment_names_are_read(comment: str, tmp_path: Path) -> None:
    path = written(tmp_path / "a.xyz", comment, comment.replace("76.25", "75.25"))
    reader = Reader()
    found = reader.read(path)
    assert [i.energy for i in found] == pytest.approx([-76.25 * Hartree, -75.25 * Hartree])
    assert reader.records[0].units["energy"] == "Hartree"
    assert not reader.notes()
    assert Reader(units=Units(energy="eV")).read(path)[0].energy == -76.25


def test_each_comment_itself_says_that_a_number_is_the_energy(tmp_path: Path) -> None:
    said = "Coordinates from ORCA-job water E -76.25"
    path = written(tmp_path / "a.xyz", said, "300.0 K step", said.replace("76.25", "75.25"))
    reader = Reader()
    first, second, third = reader.read(path)
    assert first.energy == pytest.approx(-76.25 * Hartree)
    assert second.energy is None
    assert third.energy == pytest.approx(-75.25 * Hartree)
    (note,) = reader.notes()
    assert "the numbers in the comment lines are not read" in note
    for name in ("REF_energy", "energy"):
        written(path, said, f"{name}=-2000.0")
        with pytest.raises(DataError, match=f"structure 1 has '{name}', but the file begins with"):
            read_structures(path)


@pytest.mark.parametrize(
    ("lattice", "properties", "pbc"),
    [("lattice", "properties", "PBC"), ("LATTICE", "PROPERTIES", "Pbc")],
)
def test_the_geometry_of_a_header_is_read_in_any_case(
    lattice: str, properties: str, pbc: str, tmp_path: Path
) -> None:
    header = f'{lattice}="9 0 0 0 8 0 0 0 7" {properties}=species:S:1:pos:R:3:REF_forces:R:3'
    rows = "O 0 0 0.12 0.1 0 -0.3\nH 0 0.76 -0.48 0 0.2 0.1\nH 0 -0.76 -0.48 -0.1 -0.2 0.2\n"
    path = written(tmp_path / "a.xyz", header, f'{header} {pbc}="T F T"', atoms=rows)
    bulk, slab = read_structures(path)
    np.testing.assert_array_equal(bulk.cell, np.diag([9.0, 8.0, 7.0]))
    np.testing.assert_array_equal(bulk.forces[0], [0.1, 0, -0.3])
    assert (bulk.pbc.tolist(), slab.pbc.tolist()) == ([True] * 3, [True, False, True])
    (tagged,) = read_structures(written(path, "REF_energy=-1 lattice=fcc pbc_kind=full"))
    assert tagged.tags == {"lattice": "fcc", "pbc_kind": "full"}
    written(path, f'{header} Lattice="9 0 0 0 8 0 0 0 7"', atoms=rows)
    with pytest.raises(DataError, match="names 'Lattice' twice in its header"):
        read_structures(path)


@pytest.mark.parametrize(
    "comment", ["        -5.0705", "-5.0705 converged=true", "E = x E -5.0705"]
)
def test_bare_numbers_in_comments_are_read_where_asked(comment: str, tmp_path: Path) -> None:
    path = written(tmp_path / "a.xyz", comment, "no number")
    reader = Reader(COMMENT)
    first, second = reader.read(path)
    assert first.energy == pytest.approx(-5.0705 * Hartree)
    assert second.energy is None
    reader = Reader()
    assert reader.read(path, need_labels=False)[0].energy is None
    (note,) = reader.notes()
    assert "numbers in the comment lines are not read" in note
    assert "data.keys.energy=comment (command: --energy-key comment)" in note
    with pytest.raises(DataError, match=r"no energies under 'REF_energy'.*--energy-key comment"):
        read_structures(path)


def test_extended_headers_are_no_comments(tmp_path: Path) -> None:
    header = "Properties=species:S:1:pos:R:3 REF_energy=-3.5 step=1 E -1.5"
    path = written(tmp_path / "a.xyz", header)
    reader = Reader()
    assert reader.read(path)[0].energy == -3.5
    assert not reader.notes()


def test_columns_without_names_are_told(tmp_path: Path) -> None:
    rows = "O 0 0 0.12 0.1 0 -0.3\nH 0 0.76 -0.48 0 0.2 0.1\nH 0 -0.76 -0.48 -0.1 -0.2 0.2\n"
    path = written(tmp_path / "a.xyz", "REF_energy=-3.5", atoms=rows)
    reader = Reader()
    assert reader.read(path)[0].forces is None
    (note,) = reader.notes()
    assert "columns 5 to 7 have no names" in note
    mend = note.partition("add ")[2].partition(" ")[0]
    mended = written(tmp_path / "b.xyz", f"{mend} REF_energy=-3.5", atoms=rows)
    reader = Reader()
    np.testing.assert_array_equal(
        reader.read(mended)[0].forces, [[0.1, 0, -0.3], [0, 0.2, 0.1], [-0.1, -0.2, 0.2]]
    )
    assert not reader.notes()


@pytest.mark.parametrize("header", ["", "Properties=species:S:1:pos:R:3"])
def test_isotopes_of_hydrogen_are_hydrogen(header: str, tmp_path: Path) -> None:
    atoms = "O 0 0 0.12\n  D 0 0.76 -0.48\nT 0 -0.76 -0.48\n"
    path = written(tmp_path / "a.xyz", f"{header} REF_energy=-3.5", atoms=atoms)
    (found,) = read_structures(path)
    assert found.numbers.tolist() == [8, 1, 1]
    np.testing.assert_array_equal(found.positions[1:, 1], [0.76, -0.76])
    other = "Properties=tag:S:1:species:S:1:pos:R:3 REF_energy=-3.5"
    atoms = "D O 0 0 0.12\nD H 0 0.76 -0.48\nD H 0 -0.76 -0.48\n"
    (found,) = read_structures(written(path, other, atoms=atoms))
    assert found.numbers.tolist() == [8, 1, 1]


def test_weights_are_told(tmp_path: Path) -> None:
    path = written(tmp_path / "a.xyz", "REF_energy=-3.5 config_weight=0.0")
    reader = Reader()
    assert reader.read(path)[0].tags["config_weight"] == 0.0
    assert "'config_weight' is not used: every structure counts once" in reader.notes()[0]


DUMP = """ITEM: TIMESTEP
{step}
ITEM: NUMBER OF ATOMS
3
ITEM: BOX BOUNDS pp pp pp
0 12
0 12
0 12
ITEM: ATOMS id {kind} x y z {more}
3 {H} 6 5.24 5.52 -0.1 -0.3 0.25
1 {O} 6 6 6.12 0.1 0 -0.5
2 {H} 6 6.76 5.52 0 0.3 0.25
"""
ELEMENTS = {"kind": "element", "H": "H", "O": "O", "more": "fx fy fz"}
TYPES = {"kind": "type", "H": "2", "O": "1", "more": "fx fy fz"}


def test_a_dump_has_forces_and_no_energies(tmp_path: Path) -> None:
    path = tmp_path / "md.dump"
    path.write_text("".join(DUMP.format(step=step, **ELEMENTS) for step in (0, 10)))
    reader = Reader()
    first, second = reader.read(path)
    assert (first.energy, second.energy) == (None, None)
    np.testing.assert_array_equal(first.forces[0], [0.1, 0, -0.5])
    assert first.numbers.tolist() == [8, 1, 1]
    assert second.tags["timestep"] == 10
    assert "a LAMMPS dump has no energies" in reader.notes()[0]
    path.write_text("ITEM: UNITS\nreal\n" + DUMP.format(step=0, **ELEMENTS))
    (real,) = read_structures(path)
    np.testing.assert_allclose(real.forces[0], np.array([0.1, 0, -0.5]) * kcal / mol)
    path.write_text("ITEM: UNITS\nlj\n" + DUMP.format(step=0, **ELEMENTS))
    with pytest.raises(DataError, match="LAMMPS's units 'lj'; metal, real, electron are read"):
        read_structures(path)
    path.write_text(DUMP.format(step=0, **(ELEMENTS | {"more": "vx vy vz"})))
    reader = Reader()
    (moving,) = reader.read(path, need_labels=False)
    assert moving.forces is None
    assert "velocities are no labels" in reader.notes()[1]


def test_types_of_a_dump_get_elements_after_the_name(tmp_path: Path) -> None:
    path = tmp_path / "md.lammpstrj"
    path.write_text(DUMP.format(step=0, **TYPES))
    with pytest.raises(DataError, match=r"types of atoms without elements.*md\.lammpstrj@O,H'"):
        read_structures(path)
    (found,) = read_structures(f"{path}@O,H")
    assert found.numbers.tolist() == [8, 1, 1]
    np.testing.assert_array_equal(found.forces[0], [0.1, 0, -0.5])
    with pytest.raises(DataError, match="has the type 2, but 1 elements are named"):
        read_structures(f"{path}@O")
    path.write_text(DUMP.format(step=0, **(TYPES | {"O": "0"})))
    with pytest.raises(DataError, match="has the type 0, but 2 elements are named"):
        read_structures(f"{path}@O,H")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("2 H 6 6.76 5.52 0 0.3 0.25\n", ""), "should have 3 atoms, but has 2 rows"),
        (("ATOMS\n3", "ATOMS\n2"), "should have 2 atoms, but has 3 rows"),
        (("ATOMS\n3", "ATOMS\n99999999999"), "should have 99999999999 atoms, but has 3 rows"),
        ((" 0.3 0.25\n", " 0.3\n"), "cannot be read .*Is the file complete"),
    ],
)
def test_snapshots_of_a_dump_need_as_many_rows_as_atoms(
    change: tuple[str, str], message: str, tmp_path: Path
) -> None:
    path, sound = tmp_path / "md.dump", DUMP.format(step=0, **ELEMENTS)
    path.write_text(sound + sound.replace(*change) + sound)
    with pytest.raises(DataError, match=f"structure 1 {message}"):
        read_structures(path)
    reader = Reader(faulty="skip")
    assert [len(item) for item in reader.read(path)] == [3, 3]
    assert len(reader.records[0].left_out) == 1
