"""JSON of pymatgen structures, MLIP configurations, and energies in CSV files."""

import gzip
import json
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.units import GPa, Hartree, kcal, mol
from pydantic import ValidationError

import finetune
from finetune.core.errors import DataError
from finetune.data.reading import Reader, read_structures
from finetune.data.structures import to_atoms
from finetune.recipe.sections import DataRecipe, LabelKeys
from finetune.studies.tuning import with_absolute_paths
from tests.conftest import recipe_for

CELL = np.array([[4.0, 0, 0], [0.5, 5.0, 0], [0, 0, 6.0]])
SCALED = np.array([[0.0, 0.0, 0.0], [0.5, 0.5, 0.25]])
FORCES = np.array([[0.1, 0.2, 0.3], [-0.1, -0.2, -0.3]])
KBAR = np.array([[1.0, 2.0, 3.0], [2.0, 4.0, 5.0], [3.0, 5.0, 6.0]])
STRESS = -KBAR * 0.1 * GPa
VOIGT = KBAR[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]


def structure(**change: Any) -> dict[str, Any]:
    sites = [
        {"species": [{"element": symbol, "occu": 1}], "abc": list(place), "properties": {}}
        for symbol, place in zip(("Na", "Cl"), SCALED, strict=True)
    ]
    return {"@class": "Structure", "lattice": {"matrix": CELL.tolist()}, "sites": sites, **change}


def entry(energy: float, **more: Any) -> dict[str, Any]:
    labels = {"force": FORCES.tolist(), "stress": KBAR.tolist(), "magmom": None}
    return {"structure": structure(), "uncorrected_total_energy": energy, **labels, **more}


def check(item: Any, energy: float) -> None:
    assert item.numbers.tolist() == [11, 17]
    assert item.pbc.all()
    assert item.energy == pytest.approx(energy)
    np.testing.assert_allclose(item.positions, SCALED @ CELL)
    np.testing.assert_allclose(item.forces, FORCES)
    np.testing.assert_allclose(item.stress, STRESS)


def test_mptrj(tmp_path: Path) -> None:
    """The energy without corrections is taken, and this is told; stress has VASP's sign."""
    corrections = {"corrected_total_energy": -8.0, "energy_per_atom": -4.0, "bandgap": 1.5}
    frames = {"mp-1-0": entry(-7.0, **corrections), "mp-1-1": entry(-6.0, **corrections)}
    path = tmp_path / "mptrj.json"
    path.write_text(json.dumps({"mp-1": frames, "mp-2": {"mp-2-0": entry(-5.0, **corrections)}}))
    reader = Reader()
    found = reader.read(path)
    assert len(found) == 3
    for item, energy in zip(found, (-7.0, -6.0, -5.0), strict=True):
        check(item, energy)
    assert (found[1].tags["id"], found[1].tags["bandgap"]) == ("mp-1-1", 1.5)
    (note,) = reader.notes()
    assert "the energy is 'uncorrected_total_energy'; data.keys.energy takes another" in note
    assert reader.records[0].units["stress"] == "-kbar"
    check(read_structures(path, LabelKeys(energy="corrected_total_energy"))[0], -8.0)
    reader = Reader(LabelKeys(energy="energy_per_atom"))
    check(reader.read(path)[0], -8.0)
    assert "'energy_per_atom' times the number of atoms" in reader.notes()[0]


@pytest.mark.parametrize("lines", [False, True])
def test_matpes(lines: bool, tmp_path: Path) -> None:
    """A list, or an entry a line; stress in Voigt's order, and the functional."""
    items = [
        {
            "structure": structure(charge=1),
            "energy": energy,
            "forces": FORCES.tolist(),
            "stress": VOIGT.tolist(),
            "functional": "r2SCAN",
        }
        for energy in (-7.0, -6.0)
    ]
    text = "\n".join(map(json.dumps, items)) if lines else json.dumps(items, indent=1)
    path = tmp_path / ("a.jsonl" if lines else "a.json.gz")
    path.write_bytes(text.encode() if lines else gzip.compress(text.encode()))
    first, second = read_structures(path)
    check(first, -7.0)
    check(second, -6.0)
    assert (first.level_of_theory, first.charge) == ("r2SCAN", 1)


def test_charge_and_spin_of_entries(tmp_path: Path) -> None:
    """Those of the structure, of which 0 is pymatgen's default charge, or beside it."""
    state = structure(charge=0, spin_multiplicity=2)
    items = [entry(-7.0, structure=state), entry(-7.0, structure=state, total_charge=-1)]
    path = tmp_path / "a.json"
    path.write_text(json.dumps(items))
    assert [(i.charge, i.spin) for i in read_structures(path)] == [(0, 2), (-1, 2)]
    path.write_text(json.dumps([entry(-7.0, structure=structure(charge=1), total_charge=-1)]))
    with pytest.raises(DataError, match="structure 0 has the charge 1 in its structure, and -1 be"):
        read_structures(path)


def test_chgnet(tmp_path: Path) -> None:
    """A list for each name, and energies by atom."""
    columns = {
        "structure": [structure(), structure()],
        "energy_per_atom": [-3.5, -3.0],
        "force": [FORCES.tolist()] * 2,
        "stress": [KBAR.tolist()] * 2,
        "magmom": [None, None],
    }
    path = tmp_path / "a.json"
    path.write_text(json.dumps(columns))
    first, second = read_structures(path)
    check(first, -7.0)
    check(second, -6.0)
    path.write_text(json.dumps({name: values[0] for name, values in columns.items()}))
    check(read_structures(path)[0], -7.0)
    path.write_text(json.dumps(columns | {"force": [FORCES.tolist()]}))
    with pytest.raises(DataError, match="'force' has 1 values for 2 structures"):
        read_structures(path)


def test_entries_longer_than_a_block_are_read_and_damage_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = json.dumps([entry(-7.0), entry(-6.0), entry(-5.0)])
    path = tmp_path / "a.json"
    path.write_text(text)
    monkeypatch.setattr("finetune.data.formats.entries._BLOCK", 300)
    assert [item.energy for item in read_structures(path)] == [-7.0, -6.0, -5.0]
    path.write_text(text[: int(0.8 * len(text))])
    with pytest.raises(DataError, match=r"a\.json', structure 2 cannot be read as JSON"):
        read_structures(path)
    path.write_text("\n".join(map(json.dumps, (entry(-7.0), entry(-6.0)))))
    with pytest.raises(DataError, match=r"more follows its end: name entries one a line \.jsonl"):
        read_structures(path)
    path.rename(tmp_path / "a.jsonl")
    assert [item.energy for item in read_structures(tmp_path / "a.jsonl")] == [-7.0, -6.0]
    alloy = [{"element": "Na", "occu": 0.5}, {"element": "K", "occu": 0.5}]
    mixed = structure()
    mixed["sites"][1]["species"] = alloy
    path.write_text(json.dumps([entry(-7.0), entry(-6.0, structure=mixed)]))
    with pytest.raises(DataError, match=r"structure 1 has a disordered site \(1\)"):
        read_structures(path)
    assert len(Reader(faulty="skip").read(path)) == 1


CFG = """BEGIN_CFG
 Size
    2
 Supercell
   4.0 0.0 0.0
   0.5 5.0 0.0
   0.0 0.0 6.0
 AtomData:  id type  cartes_x cartes_y cartes_z  fx fy fz
   1 1  0.0 0.0 0.0  0.1 0.2 0.3
   2 0  2.25 2.5 1.5  -0.1 -0.2 -0.3
 Energy
   -7.0
 PlusStress:  xx yy zz yz xz xy
   12.0 24.0 36.0 48.0 60.0 72.0
 Feature   EFS_by   VASP
END_CFG

"""


def test_mlip_configurations(tmp_path: Path) -> None:
    """The stress is minus the virial over the volume, 120 Å³; types are named after @."""
    path = tmp_path / "train.cfg"
    path.write_text(CFG + CFG.replace("-7.0", "-6.0").replace(" Feature   EFS_by   VASP\n", ""))
    first, second = read_structures(f"{path}@Cl,Na")
    assert (first.numbers.tolist(), first.energy, second.energy) == ([11, 17], -7.0, -6.0)
    np.testing.assert_allclose(first.positions, SCALED @ CELL)
    np.testing.assert_allclose(first.forces, FORCES)
    np.testing.assert_allclose(
        first.stress, -np.array([[0.1, 0.6, 0.5], [0.6, 0.2, 0.4], [0.5, 0.4, 0.3]])
    )
    assert first.tags == {"EFS_by": "VASP"}
    with pytest.raises(DataError, match=r"types of atoms without elements.*train\.cfg@Si,O"):
        read_structures(path)
    with pytest.raises(DataError, match="structure 0 has the type 1, but 1 elements are named"):
        read_structures(f"{path}@Na")
    for wrong in ("-1", "0.5", "2"):
        path.write_text(CFG.replace("2 0  2.25", f"2 {wrong}  2.25"))
        with pytest.raises(DataError, match=f"has the type {wrong}, but 2 elements are named"):
            read_structures(f"{path}@Cl,Na")
    path.write_text(CFG.replace("END_CFG", "") + CFG)
    reader = Reader(faulty="skip")
    assert len(reader.read(f"{path}@Cl,Na")) == 1
    assert "structure 0 has no END_CFG" in reader.records[0].left_out[0]
    path.write_text(CFG.replace("END_CFG", ""))
    with pytest.raises(DataError, match="structure 0 has no END_CFG"):
        read_structures(f"{path}@Cl,Na")
    (tmp_path / "cut.cfg.gz").write_bytes(gzip.compress(20 * CFG.encode())[:-100])
    with pytest.raises(DataError, match=r"cut\.cfg\.gz.*EOFError"):
        read_structures(f"{tmp_path}/cut.cfg.gz@Cl,Na")
    path.write_text(CFG.replace("PlusStress", "Stress"))
    with pytest.raises(DataError, match="has a line that is unknown: 'Stress:"):
        read_structures(f"{path}@Cl,Na")


def geometries(folder: Path, *comments: str) -> Path:
    path = folder / "g.xyz"
    path.write_text("".join(f"1\n{text}\nHe 0 0 0\n" for text in comments))
    return path


def joined(source: Any, table: Path, text: str, faulty: Any = "stop") -> Any:
    table.write_text(text)
    data = DataRecipe(train=str(source), energies=str(table), units={"energy": "Hartree"})
    return Reader.of(data.model_copy(update={"faulty": faulty}), None).read(str(source))


def test_energies_of_a_table_by_index_and_by_name(tmp_path: Path) -> None:
    path, table = geometries(tmp_path, "mol-a", "name=mol-b", "x"), tmp_path / "e.csv"
    found = joined(path, table, "Energy,index,method\n-2.5,1,HF\n-1.5,0,HF\n,2,HF\n")
    assert [item.energy for item in found[:2]] == pytest.approx([-1.5 * Hartree, -2.5 * Hartree])
    assert found[2].energy is None
    found = joined(path, table, "name;energy\nx;-3\nmol-b;-2\nmol-a;-1\n")
    assert [item.energy for item in found] == pytest.approx([-Hartree, -2 * Hartree, -3 * Hartree])
    for number in range(2):
        (tmp_path / f"many-{number}.xyz").write_text("1\nany\nHe 0 0 0\n")
    found = joined(tmp_path / "many-*.xyz", table, "name,energy\nmany-1,-2\nmany-0,-1\n")
    assert [item.energy for item in found] == pytest.approx([-Hartree, -2 * Hartree])
    found = joined(tmp_path / "many-*.xyz", table, "index,energy\n1,-2\n0,-1\n")
    assert [item.energy for item in found] == pytest.approx([-Hartree, -2 * Hartree])
    assert len(joined(f"{path}@:2", table, "index,energy\n0,-1\n1,-2\n2,-3\n")) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("index,energy\n0,-1\n", r"structure 1: '.*e\.csv' has no row with the index '1'"),
        ("index,energy\n0,-1\n1,-2\n2,-3\n", "3 energies and '.*' 2 structures: the index '2'"),
        ("name,energy\na,-1\nc,-2\n", "structure 1: .* no row with the name 'b' or 'g'"),
        ("index,energy\n0,-1\n0,-2\n", "line 3: the index '0' is there twice"),
        ("index,energy\n0,low\n", "line 2: the energy 'low' is no number"),
        ("index,energy\n0.5,-1\n", "line 2: '0.5' is no index"),
        ("index,E\n0,-1\n", "columns index, e. It needs the columns 'energy'.* Is 'e' the energy"),
        ("index,energy\n1,-1\n2,-2\n", "structure 0: .*indices start at 1; they must start at 0"),
        ("index,energy\n0,-76,4234\n", "line 2 has 3 cells, the header 2. Write decimals with a"),
        ("index;energy\n0;-76,4\n", "line 2: the energy '-76,4' is no number. Write decimals wi"),
        ("index,energy,note\n0,-1\n", "line 2 has 2 cells, the header 3"),
        ("index,energy,energy\n0,-1,-2\n", "has the column 'energy' twice"),
        (f"index,energy\n0,{'1' * 140000}\n", "line 2 is no CSV .field larger than"),
        ("", "has the columns none"),
    ],
)
def test_tables_that_do_not_fit_are_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        joined(geometries(tmp_path, "a", "b"), tmp_path / "e.csv", text)


@pytest.mark.parametrize("kind", ["cif", "dump"])
def test_energies_of_a_table_have_their_unit_beside_formats_that_state_theirs(
    kind: str, tmp_path: Path
) -> None:
    path = tmp_path / f"g.{kind}"
    if kind == "cif":
        ase.io.write(path, Atoms("NaCl", SCALED @ CELL, cell=CELL, pbc=True))
    else:
        path.write_text(
            "ITEM: UNITS\nreal\nITEM: TIMESTEP\n0\nITEM: NUMBER OF ATOMS\n1\n"
            "ITEM: BOX BOUNDS pp pp pp\n0 9\n0 9\n0 9\n"
            "ITEM: ATOMS id element x y z fx fy fz\n1 O 1 2 3 0.5 0 0\n"
        )
    (found,) = joined(path, tmp_path / "e.csv", "index,energy\n0,-2\n")
    assert found.energy == pytest.approx(-2 * Hartree)
    if kind == "dump":
        np.testing.assert_allclose(found.forces, [[0.5 * kcal / mol, 0, 0]])


def test_names_of_a_table_are_comments_and_names_of_files(tmp_path: Path) -> None:
    path, table = geometries(tmp_path, "He  step=1.5 of run, a", "other"), tmp_path / "e.csv"
    found = joined(path, table, 'name,energy\nother,-2\n"He step=1.5 of run, a",-1\n')
    assert [item.energy for item in found] == pytest.approx([-Hartree, -2 * Hartree])
    for number in range(2):
        (tmp_path / f"mol.{number}.xyz").write_text("1\n\nHe 0 0 0\n")
    found = joined(tmp_path / "mol.*.xyz", table, "name,energy\nmol.1,-2\nmol.0,-1\n")
    assert [item.energy for item in found] == pytest.approx([-Hartree, -2 * Hartree])


def test_indices_through_a_folder_need_all_of_its_structures(tmp_path: Path) -> None:
    (folder := tmp_path / "set").mkdir()
    for name in ("a", "b"):
        geometries(folder, *"xyz").rename(folder / f"{name}.xyz")
    (folder / "readme.txt").write_text("no structure")
    rows = "".join(f"{index},{-index}\n" for index in range(6))
    with pytest.raises(DataError, match="counts structures through several files.*leave '@:2' out"):
        joined(f"{folder}@:2", tmp_path / "e.csv", f"index,energy\n{rows}")
    found = joined(folder, tmp_path / "e.csv", f"index,energy\n{rows}")
    assert [item.energy for item in found] == pytest.approx([-n * Hartree for n in range(6)])
    with pytest.raises(DataError, match="7 energies and '.*set' 6 structures: the index '6'"):
        joined(folder, tmp_path / "e.csv", f"index,energy\n{rows}6,-6\n")


def test_indices_from_one_are_refused_where_faulty_structures_are_left_out(tmp_path: Path) -> None:
    path = geometries(tmp_path, "a", "b", "c")
    with pytest.raises(DataError, match="3 energies and '.*' 3 structures: the index '3'"):
        joined(path, tmp_path / "e.csv", "index,energy\n1,-1\n2,-2\n3,-3\n", "skip")
    path.write_text(path.read_text().replace("He 0 0 0", "He 0 0", 1))
    found = joined(path, tmp_path / "e.csv", "index,energy\n0,-1\n1,-2\n2,-3\n", "skip")
    assert [item.energy for item in found] == pytest.approx([-2 * Hartree, -3 * Hartree])


def test_two_energies_for_a_structure_are_refused(tmp_path: Path) -> None:
    path = geometries(tmp_path, "REF_energy=-1.0")
    with pytest.raises(DataError, match="two energies, 'REF_energy' and that of"):
        joined(path, tmp_path / "e.csv", "index,energy\n0,-1\n")
    assert not (tmp_path / "none.csv").exists()
    with pytest.raises(DataError, match=r"no file 'none\.csv', which data\.energies names"):
        Reader(energies={str(path): "none.csv"}).read(path)


def test_a_table_belongs_to_one_source() -> None:
    data = DataRecipe(train=("a.xyz", "b.xyz"), energies={"b.xyz": "b.csv"})
    assert data.energy_tables() == {"b.xyz": "b.csv"}
    assert DataRecipe(train="a.xyz", energies="a.csv").energy_tables() == {"a.xyz": "a.csv"}
    with pytest.raises(ValidationError, match="one file for several sources"):
        DataRecipe(train=("a.xyz", "b.xyz"), energies="b.csv")
    with pytest.raises(ValidationError, match="names 'c.xyz', which is no source"):
        DataRecipe(train="a.xyz", energies={"c.xyz": "b.csv"})


def test_a_recipe_elsewhere_finds_its_table(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table labels the training set of a run; `tune` and `compare` write its full name."""
    labelled = list(read_structures(workspace / "train.xyz"))
    bare = [to_atoms(item) for item in labelled]
    ase.io.write(tmp_path / "bare.xyz", bare)
    rows = [f"{index},{item.energy}" for index, item in enumerate(labelled)]
    (tmp_path / "e.csv").write_text("\n".join(["index,energy", *rows]))
    monkeypatch.chdir(tmp_path)
    data = {"train": "bare.xyz", "valid": str(workspace / "valid.xyz"), "energies": "e.csv"}
    recipe = recipe_for(workspace, "run", data=data, losses={"energy": {}})
    found = with_absolute_paths(recipe, None)["data"]
    assert found["energies"] == {str(tmp_path / "bare.xyz"): str(tmp_path / "e.csv")}
    prepared = finetune.validate(recipe)
    assert [item.energy for item in prepared.data.train] == pytest.approx(
        [item.energy for item in labelled]
    )
