"""Outputs of quantum chemistry programs: which energy, of which level, of which geometry.

The texts are shortened outputs, written here from one geometry, energy and set of forces.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.units import Bohr, Hartree

from finetune.core.errors import DataError
from finetune.data.formats import frames
from finetune.data.reading import Reader, read_structures
from finetune.recipe.sections import LabelKeys

pytest.importorskip("cclib")

WATER = np.array([[0.0, 0.0, 0.12], [0.0, 0.79, -0.47], [0.0, -0.79, -0.47]])
SYMBOLS, NUMBERS = ("O", "H", "H"), (8, 1, 1)
PAIRS = {(0, 1): 0.031, (0, 2): -0.022, (1, 2): 0.013}
ENERGY = -76.123456


def columns(row: np.ndarray, form: str) -> str:
    return "".join(format(value, form) for value in row)


def forces(positions: np.ndarray) -> np.ndarray:
    """Forces along the distances, Hartree/Bohr, which turn nothing."""
    found = np.zeros_like(positions)
    for (i, j), size in PAIRS.items():
        found[i] += size * (positions[i] - positions[j])
        found[j] -= size * (positions[i] - positions[j])
    return found


def orca_point(
    positions: np.ndarray, energy: float, gradient: bool = False, mark: str = "", before: str = ""
) -> str:
    """One geometry of ORCA; its gradient is minus the forces."""
    rows = zip(SYMBOLS, positions, strict=True)
    places = [f"  {s:3}{columns(row, '14.8f')}" for s, row in rows]
    lines = [
        "CARTESIAN COORDINATES (ANGSTROEM)",
        "---------------------------------",
        *places,
        "",
        f"Total Energy       :    {energy:18.12f} Eh   {energy * Hartree:18.5f} eV",
        before,
        f"FINAL SINGLE POINT ENERGY     {energy:18.12f}{mark}",
    ]
    if gradient:
        rows = zip(SYMBOLS, -forces(positions), strict=True)
        lines += ["------------------", "CARTESIAN GRADIENT", "------------------", ""]
        lines += [
            f"   {i + 1}   {s:3}:  {columns(row, '16.9f')}" for i, (s, row) in enumerate(rows)
        ]
    return "\n".join([*lines, "", ""])


def orca(*points: str, charge: int = 0, multiplicity: int = 1, method: str = "HF") -> str:
    hamiltonian = " Ab initio Hamiltonian  Method          .... Hartree-Fock(GTOs)"
    if method != "HF":
        exchange, correlation = method.split("-")
        hamiltonian = (
            " Density Functional     Method          .... DFT(GTOs)\n"
            f" Exchange Functional    Exchange        .... {exchange}\n"
            f" Correlation Functional Correlation     .... {correlation}"
        )
    head = [
        "                                 * O   R   C   A *",
        "Your calculation utilizes the basis: def2-SVP",
        "Number of atoms                             ...      3",
        "Hamiltonian:",
        hamiltonian,
        f" Total Charge           Charge          ....    {charge}",
        f" Multiplicity           Mult            ....    {multiplicity}",
        "",
    ]
    return "\n".join(head) + "".join(points) + "        ****ORCA TERMINATED NORMALLY****\n"


def written(folder: Path, text: str, name: str = "job.out") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def moved(step: int) -> np.ndarray:
    return WATER + 0.01 * step * np.array([[0, 0, 1.0], [0, 1.0, 0], [0, -1.0, 0]])


def test_every_point_of_an_orca_scan_is_read(tmp_path: Path) -> None:
    text = orca(*(orca_point(moved(step), ENERGY + step) for step in range(4)))
    found = read_structures(written(tmp_path, text))
    assert [item.energy for item in found] == pytest.approx(
        [(ENERGY + step) * Hartree for step in range(4)]
    )
    for step, item in enumerate(found):
        np.testing.assert_allclose(item.positions, moved(step), atol=1e-8)


def test_jobs_in_one_orca_file_keep_their_own_forces(tmp_path: Path) -> None:
    jobs = [orca_point(moved(step), ENERGY + step, gradient=True) for step in (0, 5)]
    text = orca(jobs[0], "$$$$$$$$$$$$$$$$  JOB NUMBER  2 $$$$$$$$$$$$$$\n", jobs[1])
    for step, item in zip((0, 5), read_structures(written(tmp_path, text)), strict=True):
        np.testing.assert_allclose(item.positions, moved(step), atol=1e-8)
        expected = forces(moved(step)) * Hartree / Bohr
        np.testing.assert_allclose(item.forces, expected, atol=1e-6)
        assert item.energy == pytest.approx((ENERGY + step) * Hartree)


def test_charge_multiplicity_and_level_are_kept(tmp_path: Path) -> None:
    text = orca(orca_point(WATER, ENERGY), charge=1, multiplicity=2, method="B88-LYP")
    (item,) = read_structures(written(tmp_path, text))
    assert (item.charge, item.spin) == (1, 2)
    assert item.level_of_theory == "B88-LYP/def2-SVP"


def test_unconverged_points_are_left_out_counted_and_named(tmp_path: Path) -> None:
    points = [orca_point(moved(step), ENERGY) for step in range(3)]
    points[1] = orca_point(moved(1), ENERGY, mark="   (Wavefunction not fully converged!)")
    reader = Reader(faulty="stop")
    found = reader.read(written(tmp_path, orca(*points)))
    np.testing.assert_allclose(found[1].positions, moved(2), atol=1e-8)
    assert len(found) == 2
    (note,) = reader.notes()
    assert "1 in all" in note and "structure 1: its electrons did not converge" in note


def test_a_point_without_its_last_energy_is_left_out(tmp_path: Path) -> None:
    cut = orca_point(moved(1), ENERGY).partition("FINAL")[0]
    reader = Reader()
    assert len(reader.read(written(tmp_path, orca(orca_point(WATER, ENERGY), cut)))) == 1
    assert "structure 1 has no energy" in reader.records[0].left_out[0]


@pytest.mark.parametrize(
    ("before", "energy", "level"),
    [
        ("E(CCSD)                ...   -76.200000000", -76.2, "CCSD"),
        ("E(CCSD)  ...  -76.200000000\nE(CCSD(T))  ...  -76.210000000", -76.21, "CCSD(T)"),
        ("MP2 TOTAL ENERGY:      -76.150000000 Eh", -76.15, "MP2"),
        ("Dispersion correction           -0.020000000", ENERGY - 0.02, "HF+D"),
        (
            "    DE(CIS) =      0.200000000 Eh (Root  2)\n    E(tot)  =   -75.923456000 Eh",
            ENERGY + 0.2,
            "TD-HF root 2",
        ),
        ("", -76.5, "a level that is not named, after HF"),
    ],
)
def test_the_last_energy_of_orca_is_of_the_level_that_has_it(
    before: str, energy: float, level: str, tmp_path: Path
) -> None:
    text = orca_point(WATER, ENERGY, before=before)
    head, _, _ = text.partition("FINAL")
    text = f"{head}FINAL SINGLE POINT ENERGY     {energy:18.12f}\n"
    (item,) = read_structures(written(tmp_path, orca(text)))
    assert item.energy == pytest.approx(energy * Hartree, abs=1e-6)
    assert item.level_of_theory == f"{level}/def2-SVP"


def bohr(form: str = "%15.9f%15.9f%15.9f") -> list[str]:
    return [form % tuple(row) for row in WATER / Bohr]


def angstrom(form: str = "%16.9f%16.9f%16.9f") -> list[str]:
    return [form % tuple(row) for row in WATER]


def rows(form: str, places: list[str]) -> list[str]:
    return [
        form.format(i=i + 1, s=s, z=float(z), xyz=xyz)
        for i, (s, z, xyz) in enumerate(zip(SYMBOLS, NUMBERS, places, strict=True))
    ]


def dalton() -> list[str]:
    """Each coordinate with its number and axis."""
    return [
        f"  {symbol:8}:"
        + "".join(f"{3 * i + k + 1:6}  {'xyz'[k]} {row[k]:14.10f}" for k in range(3))
        for i, (symbol, row) in enumerate(zip(SYMBOLS, WATER / Bohr, strict=True))
    ]


OUTPUTS: dict[str, tuple[list[str], float, str]] = {
    "Molpro": (
        [
            "            ***  PROGRAM SYSTEM MOLPRO  ***",
            " SETTING BASIS          =    CC-PVDZ",
            " ATOMIC COORDINATES",
            "",
            " NR  ATOM    CHARGE       X              Y              Z",
            "",
            *rows("{i:4}  {s:6}{z:6.2f} {xyz}", bohr()),
            "",
            " !RHF STATE  1.1 Energy               -76.000000000000",
            " !MP2 total energy                    -76.100000000000",
            "  CCSD total energy                   -76.200000000000",
            "  CCSD[T] energy                      -76.230000000000",
            " !CCSD(T) total energy                -76.210000000000",
        ],
        -76.21,
        "CCSD(T)",
    ),
    "Psi4": (
        [
            "    Psi4: An Open-Source Ab Initio Electronic Structure Package",
            "                               Psi4 1.7 release",
            "",
            "                         Git: Rev {HEAD} 0000000",
            "",
            "  ==> Geometry <==",
            "",
            "    Geometry (in Angstrom), charge = 1, multiplicity = 2:",
            "",
            "       Center              X                  Y                   Z           Mass",
            "    ------------   -----------------  -----------------  -----------------  ------",
            *rows("         {s:3}     {xyz}      1.000000000", angstrom()),
            "",
            "  @UHF Final Energy:   -76.00000000000000",
            "      * MP2 total energy                      =  -76.100000000000000",
            "      * CCSD total energy                     =  -76.200000000000000",
            "      * CCSD(T) total energy                  =  -76.210000000000000",
        ],
        -76.21,
        "CCSD(T)",
    ),
    "Q-Chem": (
        [
            "           A Quantum Leap Into The Future Of Chemistry",
            "$molecule",
            " 1 2",
            "$end",
            "             Standard Nuclear Orientation (Angstroms)",
            "    I     Atom           X                Y                Z",
            " ----------------------------------------------------------------",
            *rows("{i:5}      {s:3}{xyz}", angstrom()),
            " ----------------------------------------------------------------",
            " Total energy in the final basis set =      -76.0000000000",
            " MP2 energy                 = -76.10000000",
            " MP3 energy                 = -76.12000000",
        ],
        -76.12,
        "MP3",
    ),
    "NWChem": (
        [
            "          Northwest Computational Chemistry Package (NWChem) 7.0.2",
            '                             Geometry "geometry" -> ""',
            "                             -------------------------",
            "",
            " Output coordinates in angstroms (scale by  1.889725989 to convert to a.u.)",
            "",
            "  No.       Tag          Charge          X              Y              Z",
            " ---- ---------------- ---------- -------------- -------------- --------------",
            *rows("{i:5} {s:16}{z:11.4f} {xyz}", angstrom("%14.8f %14.8f %14.8f")),
            "",
            "         Total SCF energy =    -76.000000000000",
            " CCSD total energy / hartree       =       -76.200000000000000",
            " CCSD(T) total energy / hartree       =       -76.210000000000000",
        ],
        -76.21,
        "CCSD(T)",
    ),
    "DALTON": (
        [
            "   Dalton - An Electronic Structure Program",
            "                                 Isotopic Masses",
            "                                 ---------------",
            "",
            *(f"                           {symbol}          1.000000" for symbol in SYMBOLS),
            "",
            "  Cartesian Coordinates (a.u.)",
            "  ----------------------------",
            "",
            "  Total number of coordinates:    9",
            *dalton(),
            "",
            "@    Final HF energy:             -76.000000000000",
            "            Total MP2   energy:                   -76.1000000000",
            "            Total CCSD  energy:                   -76.2000000000",
            "            Total energy CCSD(T):                 -76.2100000000",
        ],
        -76.21,
        "CCSD(T)",
    ),
    "GAMESS": (
        [
            "          *         GAMESS VERSION = 30 SEP 2018 (R3)          *",
            " ATOM      ATOMIC                      COORDINATES (BOHR)",
            "           CHARGE         X                   Y                   Z",
            *rows(" {s:10}{z:5.1f} {xyz}", bohr("%17.10f   %17.10f   %17.10f")),
            "",
            " CHARGE OF MOLECULE                           =    1",
            " SPIN MULTIPLICITY                            =    2",
            " FINAL U-B3LYP ENERGY IS      -76.3000000000 AFTER  13 ITERATIONS",
        ],
        -76.3,
        "B3LYP",
    ),
    "Turbomole": (
        [
            " dscf (node1) : TURBOMOLE V7.4 ( 23729 ) 4 Jul 2019",
            "              +--------------------------------------------------+",
            "              | Atomic coordinate, charge and isotop information |",
            "              +--------------------------------------------------+",
            "",
            "                    atomic coordinates            atom    charge  isotop",
            *rows("{xyz}    {s}      {z:.3f}     0", [p.lower() for p in bohr()]),
            "",
            "                 |  total energy      =    -76.00000000000  |",
            "     *   Final CC2 energy                        :    -76.2000000000      *",
        ],
        -76.2,
        "CC2",
    ),
    "ADF": (
        [
            " *   Amsterdam Density Functional  (ADF)     2013.01    *",
            " G E O M E T R Y  ***  3D  Molecule  ***",
            " ===============",
            "",
            "",
            " ATOMS",
            " =====                            X Y Z                    CHARGE",
            "                                (Angstrom)             Nucl     +Core       At.Mass",
            "                       --------------------------    ----------------       -------",
            *rows("{i:5}  {s:8}{xyz}      {z:.2f}      {z:.2f}    1.0000", angstrom()),
            "",
            "",
            "Total Bonding Energy:               -0.500000000000000        -13.6057         -313.7",
        ],
        -0.5,
        "bonding energy",
    ),
    "MOPAC": (
        [
            " **                                MOPAC2016                                  **",
            "                              PM7 CALCULATION RESULTS",
            " 1SCF CHARGE=0 SINGLET PM7",
            "",
            "   ATOM   CHEMICAL          X               Y               Z",
            "  NUMBER   SYMBOL      (ANGSTROMS)     (ANGSTROMS)     (ANGSTROMS)",
            "",
            *rows("{i:6}       {s:5}{xyz}  *", angstrom("%16.8f  *%16.8f  *%16.8f")),
            "",
            "",
            "          FINAL HEAT OF FORMATION =        -57.79898 KCAL/MOL =    -241.83093 KJ/MOL",
            f"          TOTAL ENERGY            =       {-12 * Hartree:.5f} EV",
        ],
        -12.0,
        "PM7",
    ),
}


@pytest.mark.parametrize("program", OUTPUTS)
def test_the_highest_level_of_each_program_is_read_and_named(program: str, tmp_path: Path) -> None:
    lines, energy, level = OUTPUTS[program]
    reader = Reader()
    (item,) = reader.read(written(tmp_path, "\n".join([*lines, ""])))
    assert reader.records[0].format == f"{program} output"
    assert item.numbers.tolist() == [8, 1, 1]
    np.testing.assert_allclose(item.positions, WATER, atol=1e-6)
    assert item.energy == pytest.approx(energy * Hartree, abs=1e-5)
    assert str(item.level_of_theory).partition("/")[0] == level
    charged = program in {"Psi4", "Q-Chem", "GAMESS"}
    assert (item.charge, item.spin) == ((1, 2) if charged else (0, 1))


@pytest.mark.parametrize(
    ("program", "key", "energy"),
    [("Molpro", "CCSD", -76.2), ("Psi4", "HF", -76.0), ("DALTON", "MP2", -76.1)],
)
def test_lower_levels_can_be_asked_for(
    program: str, key: str, energy: float, tmp_path: Path
) -> None:
    path = written(tmp_path, "\n".join([*OUTPUTS[program][0], ""]))
    (item,) = read_structures(path, LabelKeys(energy=key))
    assert item.energy == pytest.approx(energy * Hartree)
    with pytest.raises(DataError, match=f"Keys present: .*{key}"):
        read_structures(path, LabelKeys(energy="FCI"))


@pytest.mark.parametrize(
    ("program", "old", "new", "message"),
    [
        ("GAMESS", " FINAL U", " SCF IS UNCONVERGED, TOO MANY ITERATIONS\n FINAL U", "converge"),
        ("MOPAC", " 1SCF", " ", "geometries of optimisations are not read"),
        ("NWChem", "\n", "\n NWChem QMD Module\n", "molecular dynamics are not read"),
        ("Turbomole", "charge", "charge\n ATTENTION: dscf did not converge!\n", "converge"),
    ],
)
def test_what_cannot_be_a_label_is_refused(
    program: str, old: str, new: str, message: str, tmp_path: Path
) -> None:
    text = "\n".join([*OUTPUTS[program][0], ""])
    assert old in text
    with pytest.raises(DataError, match=message):
        read_structures(written(tmp_path, text.replace(old, new, 1)))


def test_without_the_extra_one_line_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(frames, "import_module", absent)
    path = written(tmp_path, orca(orca_point(WATER, ENERGY)))
    with pytest.raises(DataError) as error:
        read_structures(path)
    message = str(error.value)
    assert "ORCA" in message and "pip install 'piwsl-finetune[formats]'" in message
    assert "\n" not in message


def test_an_unknown_file_gets_the_list_of_what_is_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="format is unknown.*Molpro, Psi4, Q-Chem"):
        read_structures(written(tmp_path, "nothing that a program writes\n", "job.unknown"))
