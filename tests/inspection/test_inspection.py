"""An inspection finds the mistakes that data sets come with, and is quiet without them."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.units import Bohr, Hartree
from typer.testing import CliRunner

import finetune
from finetune.commands import app
from finetune.core.units import Units
from finetune.data.reading import read_structures
from finetune.data.structures import Structure
from finetune.data.writing import write_structures
from finetune.inspection.geometry import Finding
from finetune.inspection.labels import FREE_ATOMS, Read, gfn2, origin, statistical_energy, zeros
from finetune.inspection.report import inspect
from finetune.inspection.slopes import (
    Slope,
    force_findings,
    force_slope,
    minimum_image,
    stress_check,
    stress_findings,
)
from tests.conftest import structure
from tests.inspection.exact import exact

runner = CliRunner()
ROOT = Path(finetune.__file__).resolve().parents[1]
Change = Callable[[Structure], Structure]


def labelled(atoms: Atoms, index: int, origin: float = 0.0) -> Structure:
    atoms.calc = EMT()
    item = structure(atoms, f"'made.xyz', structure {index}")
    stress = atoms.get_stress(voigt=False) if atoms.pbc.all() else None
    energy = origin + float(atoms.get_potential_energy())
    return replace(item, energy=energy, forces=atoms.get_forces(), stress=stress)


@pytest.fixture(scope="module")
def molecules() -> list[Structure]:
    """Ethanol around its minimum, total energies."""
    base = molecule("CH3CH2OH")
    random = np.random.default_rng(0)
    origin = statistical_energy(base.numbers)
    found = []
    for index in range(60):
        atoms = base.copy()
        atoms.positions += random.normal(0, 0.02, atoms.positions.shape)
        atoms.rotate(float(random.uniform(0, 360)), random.normal(size=3))
        found.append(labelled(atoms, index, origin))
    return found


@pytest.fixture(scope="module")
def crystals() -> list[Structure]:
    """Strained and rattled copper."""
    random = np.random.default_rng(0)
    found = []
    base = bulk("Cu", cubic=True)
    for index in range(40):
        atoms = base.copy()
        strain = random.normal(0, 0.01, (3, 3))
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + strain + strain.T), scale_atoms=True)
        atoms.positions += random.normal(0, 0.01, atoms.positions.shape)
        found.append(labelled(atoms, index))
    return found


def warnings(structures: list[Structure]) -> str:
    found = inspect({"made": structures}).findings
    return "\n".join(item.text for item in found if item.level == "warning")


def test_nothing_is_said_against_good_data(
    molecules: list[Structure], crystals: list[Structure]
) -> None:
    slope = inspect({"made": molecules}).force_slope
    assert slope is not None and slope.right and slope.correlation > 0.99
    assert warnings(molecules) == ""
    assert "units and signs agree" in "\n".join(inspect({"m": molecules}).lines())
    stress = inspect({"made": crystals}).stress
    assert stress is not None and stress.diagnosis() == ""
    assert stress.slope.value == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize(
    ("energy", "forces", "expected"),
    [
        ("eV", "-eV/Å", "gradients.*data.units.forces=-eV/Å"),
        ("kcal/mol", "eV/Å", "23.*data.units.energy=kcal/mol"),
        ("eV", "kcal/mol/Å", "data.units.forces=kcal/mol/Å"),
        ("Hartree", "eV/Å", "0.036.*data.units.energy=Hartree"),
        ("eV", "Hartree/Bohr", "51.*data.units.forces=Hartree/Bohr"),
        ("Hartree", "Hartree/Bohr", "energy=Hartree data.units.forces=Hartree/Bohr"),
        ("kcal/mol", "-eV/Å", "-23.*wrong sign"),
    ],
)
def test_units_that_do_not_fit_are_named(
    energy: str, forces: str, expected: str, molecules: list[Structure]
) -> None:
    import re

    factors = Units(energy=energy, forces=forces).factors()

    def changed(item: Structure) -> Structure:
        assert item.energy is not None and item.forces is not None
        wrong = item.forces / factors["forces"]
        return replace(item, energy=item.energy / factors["energy"], forces=wrong)

    assert re.search(expected, warnings([changed(item) for item in molecules]), re.DOTALL)


def _per_atom(item: Structure) -> Structure:
    return replace(item, energy=(item.energy or 0.0) / len(item))


def _hartree(item: Structure) -> Structure:
    return replace(item, energy=(item.energy or 0.0) / 27.2114, forces=item.forces / 27.2114)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (_per_atom, "energies are per atom"),
        (_hartree, "total energies in Hartree"),
        (lambda i: replace(i, energy=27.2114 * (i.energy or 0.0)), "eV read as Hartree"),
        (lambda i: replace(i, energy=3.0 * (i.energy or 0.0)), "which nothing does"),
        (lambda i: replace(i, positions=i.positions / 0.529177), "data.units.length=Bohr"),
        (lambda i: replace(i, energy=0.01 * np.sin(i.positions.sum())), "relative ones"),
        (lambda i: replace(i, energy=-(i.energy or 0.0)), "atomisation energies"),
        (lambda i: replace(i, forces=np.zeros_like(i.forces)), "forces of exactly zero"),
        (lambda i: replace(i, energy=0.0), "energy of exactly zero"),
        (lambda i: replace(i, forces=i.forces + 1.0), "do not add up to zero"),
        (
            lambda i: replace(i, energy=i.energy - 5e3) if i.where.endswith(" 7") else i,
            "structure 7: its energy is",
        ),
        (
            lambda i: replace(i, forces=30 * i.forces) if i.where.endswith(" 7") else i,
            "structure 7: a force of",
        ),
        (
            lambda i: replace(i, level_of_theory="PBE" if i.where.endswith(" 7") else "CCSD(T)"),
            "different levels of theory",
        ),
        (
            lambda i: replace(i, cell=np.eye(3) * 5.5),
            "fill their cell but are not periodic",
        ),
    ],
)
def test_mistakes_are_noticed(change: Change, expected: str, molecules: list[Structure]) -> None:
    assert expected in warnings([change(item) for item in molecules])


def _reordered(item: Structure) -> Structure:
    """Swap the shear components as VASP's order xy, yz, xz would."""
    stress: Any = item.stress
    swapped = np.diag(np.diag(stress)).copy()
    for (a, b), value in zip(
        ((1, 2), (0, 2), (0, 1)), (stress[0, 1], stress[1, 2], stress[0, 2]), strict=True
    ):
        swapped[a, b] = swapped[b, a] = value
    return replace(item, stress=swapped)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda i: replace(i, stress=-i.stress), "opposite sign: set data.units.stress=-eV/Å³"),
        (lambda i: replace(i, stress=i.stress * -1602.18), "set data.units.stress=-kbar"),
        (lambda i: replace(i, stress=i.stress * 160.218), "set data.units.stress=GPa"),
        (
            lambda i: replace(i, stress=i.stress * np.linalg.det(i.cell)),
            "set data.keys.virial to their name and data.units.virial=-eV",
        ),
        (
            lambda i: replace(i, stress=-i.stress * np.linalg.det(i.cell)),
            "set data.keys.virial to their name",
        ),
        (_reordered, "shear components are in the order xy, yz, xz"),
    ],
)
def test_wrong_stresses_are_told(change: Change, expected: str, crystals: list[Structure]) -> None:
    assert expected in warnings([change(item) for item in crystals])


@pytest.mark.parametrize("energy", ["eV", "meV", "Hartree", "Rydberg", "kcal/mol", "kJ/mol"])
@pytest.mark.parametrize("sign", ["", "-"])
def test_a_wrong_sign_is_turned_in_the_declared_unit(
    energy: str, sign: str, molecules: list[Structure]
) -> None:
    turned = [replace(i, forces=-i.forces) for i in molecules if i.forces is not None]
    other = "" if sign else "-"
    for length in ("Å", "Bohr", "nm"):
        units = Units(energy=energy, forces=f"{sign}{energy}/{length}")
        (found,) = force_findings(turned, force_slope(turned), units)
        right = f"forces={other}{energy}/{length}"
        assert f"set data.units.{right} (command: --units {right})" in found.text
        assert ("they are gradients" in found.text) == (sign == "")


@pytest.mark.parametrize(
    ("declared", "right"),
    [
        (f"{sign}{unit}", f"{'' if sign else '-'}{unit}")
        for sign in ("", "-")
        for unit in ("eV/Å³", "GPa", "kbar", "bar", "Pa", "TPa", "Hartree/Bohr³", "kcal/mol/Å³")
    ],
)
def test_a_wrong_sign_of_stress_is_turned_in_the_declared_unit(
    declared: str, right: str, crystals: list[Structure]
) -> None:
    turned = [replace(i, stress=-i.stress) for i in crystals if i.stress is not None]
    (found,) = stress_findings(stress_check(turned), Read(Units(stress=declared)))
    assert f"have the opposite sign: set data.units.stress={right} " in found.text
    assert f"(command: --units stress={right})" in found.text


def test_corrections_replace_the_declared_unit(
    molecules: list[Structure], crystals: list[Structure]
) -> None:
    small = [replace(i, forces=i.forces * Bohr) for i in molecules if i.forces is not None]
    (found,) = force_findings(small, force_slope(small), Units(energy="Hartree"))
    assert "energies in Hartree with forces in Hartree/Bohr: set data.units.energy" in found.text
    kbar = [replace(i, stress=-10 * i.stress) for i in crystals if i.stress is not None]
    (found,) = stress_findings(stress_check(kbar), Read(Units(stress="GPa")))
    assert "are in kbar and the opposite sign: set data.units.stress=-kbar " in found.text
    turned = [replace(i, stress=-i.stress) for i in crystals if i.stress is not None]
    for unit, right in (("eV", "-eV"), ("-Hartree", "Hartree")):
        (found,) = stress_findings(stress_check(turned), Read(Units(virial=unit), virials="virial"))
        assert f"have the opposite sign: set data.units.virial={right} " in found.text


def test_charges_and_spins_are_counted(molecules: list[Structure]) -> None:
    ions = [replace(i, charge=1, spin=2) for i in molecules[:5]] + molecules[5:8]
    found = inspect({"made": ions})
    assert "charge: 0 in 3, 1 in 5 structures" in found.lines()
    assert "spin: 1 in 3, 2 in 5 structures" in found.lines()
    assert found.as_dict()["states"] == {"charge": {0: 3, 1: 5}, "spin": {1: 3, 2: 5}}
    assert not any(line.startswith("charge") for line in inspect({"m": molecules}).lines())
    tagged = [replace(i, tags={"q": 1.0, "mult": "two"}) for i in molecules[:3]]
    notes = [item.text for item in inspect({"made": tagged}).findings if item.level == "note"]
    told = "3 structures have a number 'q', which is not read. If it is the total charge, set "
    assert f"{told}data.keys.charge=q" in notes and not any("'mult'" in note for note in notes)


def test_what_a_foundation_explains_is_not_diagnosed_again(molecules: list[Structure]) -> None:
    turned = [replace(i, forces=-i.forces) for i in molecules if i.forces is not None]
    told = Finding("warning", "the forces are gradients: set data.units.forces=-eV/Å")
    found = [item.text for item in inspect({"made": turned}, further=[told]).findings]
    assert sum("set data." in text for text in found) == 1
    assert any("not 1: the labels do not agree" in text for text in found)


@pytest.mark.parametrize(
    ("symbol", "hartree"),  # Chakravorty et al., Phys. Rev. A 47, 3649 (1993)
    [("B", -24.654), ("C", -37.845), ("N", -54.589), ("O", -75.067), ("Si", -289.359)]
    + [("S", -398.110), ("Ar", -527.540)],
)
def test_the_energies_of_free_atoms_are_near_the_exact_ones(symbol: str, hartree: float) -> None:
    found = statistical_energy(Atoms(symbol).numbers)
    assert found == pytest.approx(27.2114 * hartree, rel=0.02)


def test_coupled_cluster_energies_are_known_as_total_ones() -> None:
    (found,) = origin(list(read_structures(ROOT / "data/ccsdt/ethanol/valid.xyz")))
    assert found.level == "ok" and "all-electron total energies in eV" in found.text


def test_a_slope_says_nothing_for_few_points_or_a_cloud() -> None:
    assert Slope(2.0, 0.99, 50, 0.1).significant
    assert not Slope(2.0, 0.3, 50).significant and not Slope(2.0, 0.99, 3).significant
    assert not Slope(2.0, 0.99, 50, 0.5).significant


@pytest.mark.parametrize(
    ("name", "amplitude", "seed"),
    [
        *[("CH3CHO", 0.05, 1), ("NH3", 0.1, 0), ("CH3CH2OH", 0.1, 0), ("HCN", 0.2, 1)],
        *[("HCOOH", 0.2, 1), ("CH3CH2OH", 0.2, 0), ("H2O", 0.3, 1), ("C2H4", 0.2, 2)],
    ],
)
def test_exact_labels_are_not_accused(name: str, amplitude: float, seed: int) -> None:
    """Slopes of 0.4 to 1.3: few neighbours are near enough."""
    random = np.random.default_rng([seed, 20, int(amplitude * 100)])
    frames: list[Atoms] = []
    while len(frames) < 20:
        atoms = molecule(name)
        atoms.positions += random.normal(0, amplitude, atoms.positions.shape)
        if (atoms.get_all_distances() + 9 * np.eye(len(atoms))).min() > 0.55:
            frames.append(atoms)
    right = exact(frames)
    assert all(item.level != "warning" for item in force_findings(right, force_slope(right)))
    if amplitude > 0.1:
        return
    for energy, force, expected in (
        (1.0, -1.0, "gradients"),
        (1.0, 23.0605, "forces=kcal/mol/Å"),
        (1 / 27.2114, 1.0, "energy=Hartree"),
        (1.0, 1 / 51.4221, "forces=Hartree/Bohr"),
        (1 / len(frames[0]), 1.0, "per atom"),
    ):
        wrong = [
            replace(i, energy=(i.energy or 0.0) * energy, forces=i.forces * force)
            for i in right
            if i.forces is not None
        ]
        (found,) = force_findings(wrong, force_slope(wrong))
        assert found.level == "warning" and expected in found.text


@pytest.mark.parametrize(
    ("symbols", "per_atom"), [("Te8", -3.12), ("Na4Cl4", -2.43), ("B2", -0.83), ("SiO2", -7.9)]
)
def test_energies_of_vasp_are_not_taken_for_hartree(symbols: str, per_atom: float) -> None:
    """They are of the size of GFN2-xTB's in Hartree."""
    base = Atoms(symbols, positions=3.0 * np.arange(3 * len(Atoms(symbols))).reshape(-1, 3))
    items = [
        replace(structure(base), energy=len(base) * per_atom + 0.01 * place) for place in range(12)
    ]
    (found,) = origin(items)
    assert found.level == "note" and "VASP" in found.text


def test_atoms_that_cross_a_face_of_the_cell_have_not_moved_far(crystals: list[Structure]) -> None:
    first = crystals[0]
    across = np.array([[1.0, 0.0, -1.0], [0.0, 2.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    second = replace(first, positions=first.positions + across @ first.cell)
    np.testing.assert_allclose(minimum_image(second, first), 0.0, atol=1e-12)


def test_free_atoms_have_forces_of_zero() -> None:
    atom = replace(structure(Atoms("O")), energy=-2040.0, forces=np.zeros((1, 3)))
    assert list(zeros([atom])) == []


def test_leaks_and_other_labels_of_the_same_structure_are_found(
    molecules: list[Structure],
) -> None:
    turned = molecules[3]
    turned = replace(turned, positions=turned.positions[:, [1, 2, 0]], where="'t', structure 0")
    test = [replace(turned, energy=(turned.energy or 0.0) + 1.0), *molecules[50:]]
    found = inspect({"train": molecules[:50], "test": test}).findings
    text = "\n".join(item.text for item in found)
    assert "1 structures of 'test' are in 'train' too" in text
    assert "energies that differ, the most by 0.111 eV/atom" in text


@pytest.mark.usefixtures("drawn")
def test_the_command_prints_words_json_and_a_picture(
    molecules: list[Structure], tmp_path: Path
) -> None:
    path = tmp_path / "made.xyz"
    write_structures(path, molecules[:30])
    with path.open("a") as file:
        file.write("4\nREF_energy=1\nH 0 0 0\n")
    picture = tmp_path / "a.png"
    done = CliRunner().invoke(app, ["data", "inspect", str(path), "--plot", str(picture)])
    assert done.exit_code == 0, done.output
    assert "30 structures, 270 atoms; 30 with energy" in done.output
    assert "structure 30 (line 331) should have 4 atoms" in done.output
    assert picture.read_bytes().startswith(b"\x89PNG")
    found = json.loads(CliRunner().invoke(app, ["data", "inspect", str(path), "--json"]).stdout)
    assert found["sets"][str(path)]["structures"] == 30
    assert found["slopes"]["forces"]["slope"] == pytest.approx(1.0, abs=0.1)
    assert len(found["files"][0]["left_out"]) == 1
    done = CliRunner().invoke(app, ["data", "inspect", str(path), "--plot", "a.doc"])
    assert done.exit_code == 2
    assert ase.io.read(path, 0).info["REF_energy"] == molecules[0].energy


def test_energies_of_gfn2_are_recognised(tmp_path: Path) -> None:
    """Labels made by tblite, as a file without a word on their level of theory holds them."""
    tblite = pytest.importorskip("tblite.interface")
    frames = []
    for name in ("CH3CH2OH", "NH3", "C6H6", "H2O", "SiH4", "CH3SH", "NaCl", "N2"):
        atoms = molecule(name)
        numbers, positions = atoms.numbers, atoms.positions / Bohr
        calculator = tblite.Calculator("GFN2-xTB", numbers, positions)
        calculator.set("verbosity", 0)
        atoms.info["REF_energy"] = float(np.sum(calculator.singlepoint().get("energy")))
        frames.append(atoms)
    for unit, told in (
        (Hartree, "ok: the energies look like total energies of GFN2-xTB in eV"),
        (1.0, "in Hartree: set data.units.energy=Hartree"),
    ):
        for atoms in frames:
            atoms.info["REF_energy"] *= unit
        path = tmp_path / f"{unit:g}.xyz"
        ase.io.write(path, frames)
        shown = runner.invoke(app, ["data", "inspect", str(path)]).output
        assert told in shown
        for atoms in frames:
            atoms.info["REF_energy"] /= unit


def test_free_atoms_of_gfn2_are_those_of_tblite() -> None:
    tblite = pytest.importorskip("tblite.interface")
    for number, unpaired in ((1, 1), (6, 2), (8, 2), (14, 2), (29, 1), (53, 1)):
        calculator = tblite.Calculator(
            "GFN2-xTB", np.array([number]), np.zeros((1, 3)), uhf=unpaired
        )
        calculator.set("verbosity", 0)
        found = float(np.sum(calculator.singlepoint().get("energy")))
        assert FREE_ATOMS[number - 1] == pytest.approx(found, abs=2e-3)


@pytest.mark.parametrize(
    "per_atom", [-1000.0, -150.0, -90.0, -12.5, -6.0], ids=lambda value: f"{value:g}"
)
def test_energies_of_other_methods_are_not_taken_for_gfn2(per_atom: float) -> None:
    """Of pseudopotentials, and relative to pseudo-atoms."""
    base = molecule("CH3CH2OH")
    items = [
        replace(structure(base), energy=len(base) * per_atom + 0.1 * place) for place in range(5)
    ]
    assert gfn2(items) == []
    hydrogen = replace(structure(molecule("H2")), energy=-31.0)
    assert gfn2([hydrogen]) == []


@pytest.mark.parametrize("name", ["gradient", "grad"])
def test_names_present_are_shown_and_gradients_may_be_forces(name: str, tmp_path: Path) -> None:
    atoms = molecule("H2O")
    atoms.arrays[name] = np.ones((3, 3))
    atoms.info["REF_energy"] = -1.0
    ase.io.write(tmp_path / "made.xyz", [atoms])
    shown = runner.invoke(app, ["data", "inspect", str(tmp_path / "made.xyz")]).output
    assert f"no structure has forces; keys present: REF_energy, {name}" in shown
    assert f"data.keys.forces={name} (command: --forces-key {name})" in shown
    assert "Gradients have a minus sign in their unit: data.units.forces=-eV/Å." in shown
