"""Outputs that dpdata reads, and ML_AB: units, signs, and what did not converge."""

from pathlib import Path

import numpy as np
import pytest
from ase.units import Bohr, GPa, Hartree

from finetune.core.errors import DataError
from finetune.data.reading import Reader, read_structures

CELL = np.array([[4.0, 0.0, 0.0], [0.5, 4.2, 0.0], [0.1, 0.3, 4.4]])
PLACES = np.array([[0.1, 0.2, 0.3], [2.0, 2.1, 2.2]])
FORCES = np.array([[0.31, -0.22, 0.13], [-0.31, 0.22, -0.13]])
STRESS = np.array([[-0.010, 0.001, 0.003], [0.001, -0.020, 0.002], [0.003, 0.002, -0.030]])
"""eV/Å³, ASE's sign."""
ENERGY = -50.25
SYMBOLS, NUMBERS = ("Na", "Cl"), (11, 17)


def row(values: np.ndarray) -> str:
    return "".join(f"{value:18.10f}" for value in values)


def cp2k(energy: float = ENERGY, converged: bool = True) -> str:
    lines = [
        " DBCSR| Multiplication driver                                     BLAS",
        " CP2K| version string:                                 CP2K version 2023.1",
        *(
            f" CELL| Vector {name} [angstrom]: {row(vector)}    |{name}| =  4.0"
            for name, vector in zip("abc", CELL, strict=True)
        ),
        " POISSON| Periodicity                                       XYZ",
        " DFT| Multiplicity                                            2",
        " DFT| Charge                                                  1",
        "  1. Atomic kind: C1                                    Number of atoms:       1",
        "  2. Atomic kind: Cl                                    Number of atoms:       1",
        "  Atom  Kind  Element       X           Y           Z          Z(eff)       Mass",
        "",
        *(
            f" {i + 1:6} {i + 1:6} {SYMBOLS[i]:3} {NUMBERS[i]:4} {row(PLACES[i])} 9.0 22.9"
            for i in range(2)
        ),
        "",
        f"  *** SCF run {'' if converged else 'NOT '}converged in    12 steps ***",
        f" ENERGY| Total FORCE_EVAL ( QS ) energy (a.u.):      {energy / Hartree:18.10f}",
        " ATOMIC FORCES in [a.u.]",
        "",
        " # Atom   Kind   Element          X              Y              Z",
        *(
            f" {i + 1:6} {i + 1:6}   {SYMBOLS[i]:3} {row(FORCES[i] * Bohr / Hartree)}"
            for i in range(2)
        ),
        " SUM OF ATOMIC FORCES           0.0            0.0            0.0        0.0",
        " STRESS TENSOR [GPa]",
        "",
        "            X               Y               Z",
        *(f"  {name}  {row(values)}" for name, values in zip("XYZ", -STRESS / GPa, strict=True)),
        "",
    ]
    return "\n".join(lines) + "\n"


def siesta() -> str:
    """Stress as SIESTA prints it: positive under tension."""
    lines = [
        "Siesta Version  : v4.1-b4",
        "redata: Number of Atomic Species                    =        2",
        "Species number:   1 Atomic number:   11 Label: Na",
        "Species number:   2 Atomic number:   17 Label: Cl",
        "initatomlists: Number of atoms, orbitals, and projectors:      2    26    18",
        "outcoor: Atomic coordinates (Ang):",
        *(f"{row(PLACES[i])}   {i + 1}       {i + 1}  {SYMBOLS[i]}" for i in range(2)),
        "",
        "outcell: Unit cell vectors (Ang):",
        *(row(vector) for vector in CELL),
        "",
        f"siesta: E_KS(eV) =            {ENERGY:.4f}",
        "siesta: Atomic forces (eV/Ang):",
        *(f"     {i + 1} {row(FORCES[i])}" for i in range(2)),
        "",
        "siesta: Stress tensor (static) (eV/Ang**3):",
        *(f"siesta: {row(values)}" for values in STRESS),
        "",
    ]
    return "\n".join(lines) + "\n"


def pwmat(*steps: int) -> str:
    """MOVEMENT prints minus the forces, and the total energy of the nuclei first."""
    scaled = np.linalg.solve(CELL.T, PLACES.T).T
    lines = []
    for step, count in enumerate(steps):
        energies = f"{ENERGY + step + 9:20.10E} {ENERGY + step:20.10E} {9.0:20.10E}"
        lines += [
            f"   2 atoms,Iteration (fs) =    {step + 1:.10E}, Etot,Ep,Ek (eV) = {energies}, "
            f"SCF = {count:5}",
            " Lattice vector (Angstrom)",
            *(row(vector) for vector in CELL),
            " Position (normalized), move_x, move_y, move_z",
            *(f"  {NUMBERS[i]:3} {row(scaled[i])}     1  1  1" for i in range(2)),
            " Force (-force, eV/Angstrom)",
            *(f"  {NUMBERS[i]:3} {row(-FORCES[i])}" for i in range(2)),
            " -------------------------------------------------",
        ]
    return "\n".join(lines) + "\n"


def openmx(folder: Path, *converged: int) -> Path:
    kinds = "\n".join(f" {i + 1} {SYMBOLS[i]} {row(PLACES[i])} 4.0 4.0" for i in range(2))
    (folder / "salt.dat").write_text(
        f"<Atoms.SpeciesAndCoordinates\n{kinds}\nAtoms.SpeciesAndCoordinates>\n"
    )
    lines = []
    for step, done in enumerate(converged):
        vectors = " ".join(f"{value:.10f}" for value in CELL.ravel())
        lines += [
            "2",
            f"time= {step}.000 (fs) Energy= {(ENERGY + step) / Hartree:.10f} (Hartree) "
            f"Cell_Vectors= {vectors} scf_conv={done}",
            *(
                f"  {SYMBOLS[i]} {row(PLACES[i])} {row(FORCES[i] * Bohr / Hartree)} 0.0 0.0 0.0"
                for i in range(2)
            ),
        ]
    path = folder / "salt.md"
    path.write_text("\n".join(lines) + "\n")
    return path


def abacus(folder: Path, *converged: bool) -> Path:
    """Molecular dynamics; a step that did not converge has no energy."""
    (folder / "INPUT").write_text("INPUT_PARAMETERS\nsuffix salt\ncalculation md\n")
    atoms = [f"{SYMBOLS[i]}\n0.0\n1\n{row(PLACES[i])} 1 1 1" for i in range(2)]
    stru = [
        "ATOMIC_SPECIES",
        "Na 22.99 Na.upf",
        "Cl 35.45 Cl.upf",
        "",
        "LATTICE_CONSTANT",
        f"{1 / Bohr:.10f}",
        "",
        "LATTICE_VECTORS",
        *(row(vector) for vector in CELL),
        "",
        "ATOMIC_POSITIONS",
        "Cartesian",
        *atoms,
    ]
    (folder / "STRU").write_text("\n".join([*stru, ""]))
    out = folder / "OUT.salt"
    out.mkdir()
    dump = []
    log = ["                              ABACUS v3.4"]
    for step, done in enumerate(converged):
        dump += [
            f"MDSTEP:  {step}",
            "LATTICE_CONSTANT: 1.000000000000 Angstrom",
            "LATTICE_VECTORS",
            *(row(vector) for vector in CELL),
            "INDEX    LABEL    POSITION (Angstrom)    FORCE (eV/Angstrom)    VELOCITY",
            *(f"  {i}  {SYMBOLS[i]}  {row(PLACES[i])} {row(FORCES[i])}" for i in range(2)),
            "",
            "",
        ]
        end = (
            f" final etot is {ENERGY + step:.8f} eV"
            if done
            else " !! convergence has not been achieved"
        )
        log.append(end)
    (out / "MD_dump").write_text("\n".join(dump) + "\n")
    path = out / "running_md.log"
    path.write_text("\n".join(log) + "\n")
    return path


def ml_ab(count: int = 2) -> str:
    """Stress in kbar, positive under compression."""
    kbar = -STRESS / GPa * 10

    def section(title: str, *lines: str, rule: str = "=") -> list[str]:
        return [rule * 50, f"     {title}", "-" * 50, *lines]

    text = [" 1.0 Version", *section("The number of configurations", f"  {count}", rule="*")]
    for index in range(count):
        text += [
            "*" * 50,
            f"     Configuration num. {index + 1:6}",
            *section("System name", "     salt"),
            *section(
                "Atom types and atom numbers", *(f"     {s}      1" for s in SYMBOLS), rule="*"
            ),
            *section("Primitive lattice vectors (ang.)", *map(row, CELL)),
            *section("Atomic positions (ang.)", *map(row, PLACES)),
            *section("Total energy (eV)", f"  {ENERGY + index:.10f}"),
            *section("Forces (eV ang.^-1)", *map(row, FORCES)),
            *section("Stress (kbar)", "     XX YY ZZ", "-" * 50, row(np.diag(kbar)), "-" * 50),
            "     XY YZ ZX",
            "-" * 50,
            row(np.array([kbar[0, 1], kbar[1, 2], kbar[2, 0]])),
        ]
    return "\n".join(text) + "\n"


def written(folder: Path, text: str, name: str = "run.out") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def check(item: object, step: int = 0, stress: bool = False) -> None:
    np.testing.assert_allclose(item.positions, PLACES, atol=1e-6)  # type: ignore[attr-defined]
    np.testing.assert_allclose(item.cell, CELL, atol=1e-6)  # type: ignore[attr-defined]
    np.testing.assert_allclose(item.forces, FORCES, atol=1e-6)  # type: ignore[attr-defined]
    assert item.energy == pytest.approx(ENERGY + step, abs=1e-5)  # type: ignore[attr-defined]
    assert item.numbers.tolist() == [11, 17]  # type: ignore[attr-defined]
    if stress:
        np.testing.assert_allclose(item.stress, STRESS, atol=1e-6)  # type: ignore[attr-defined]
    else:
        assert item.stress is None  # type: ignore[attr-defined]


def test_cp2k(tmp_path: Path) -> None:
    pytest.importorskip("dpdata")
    (item,) = read_structures(written(tmp_path, cp2k()))
    check(item, stress=True)
    assert (item.charge, item.spin) == (1, 2)
    with pytest.raises(DataError, match="structure 0: its electrons did not converge"):
        read_structures(written(tmp_path, cp2k(converged=False)))
    with pytest.raises(DataError, match="has 2 energies, but one geometry"):
        second = " ENERGY| Total FORCE_EVAL ( QS ) energy (a.u.):      -2.0\n"
        read_structures(written(tmp_path, cp2k() + second))


def test_turned_cells_of_cp2k_dynamics_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("dpdata")
    written(tmp_path, "2\n\nNa 0 0 0\nCl 2 2 2\n", "salt-pos-1.xyz")
    text = cp2k().replace(row(CELL[0]), row(CELL[0] + 0.2)) + " MD_INI| \n ENSEMBLE TYPE = NVE\n"
    with pytest.raises(DataError, match="turns the cells of CP2K's molecular dynamics"):
        read_structures(written(tmp_path, text, "salt.log"))
    written(tmp_path, text, "other.log")
    with pytest.raises(DataError, match="its geometries are in the file …-pos-1.xyz"):
        read_structures(tmp_path / "salt.log")


def test_siesta(tmp_path: Path) -> None:
    pytest.importorskip("dpdata")
    (item,) = read_structures(written(tmp_path, siesta()))
    check(item, stress=True)
    with pytest.raises(DataError, match="its electrons did not converge"):
        late = siesta().replace("siesta: E_KS", "SCF_NOT_CONV: SCF did not converge\nsiesta: E_KS")
        read_structures(written(tmp_path, late))
    with pytest.raises(DataError, match="no coordinates in Å"):
        read_structures(written(tmp_path, siesta().replace("(Ang):", "(Bohr):")))


def test_pwmat(tmp_path: Path) -> None:
    pytest.importorskip("dpdata")
    reader = Reader()
    found = reader.read(written(tmp_path, pwmat(12, 40, 13), "MOVEMENT"))
    assert len(found) == 2
    check(found[0])
    check(found[1], 2)
    (line,) = reader.records[0].left_out
    assert "structure 1: its electrons did not converge" in line


def test_openmx(tmp_path: Path) -> None:
    pytest.importorskip("dpdata")
    path = openmx(tmp_path, 1, 0, 1)
    reader = Reader()
    first, last = reader.read(path)
    check(first)
    check(last, 2)
    assert "structure 1" in reader.records[0].left_out[0]
    (tmp_path / "salt.dat").unlink()
    with pytest.raises(DataError, match="its input, ….dat, must be beside it"):
        read_structures(path)


def test_abacus(tmp_path: Path) -> None:
    pytest.importorskip("dpdata")
    path = abacus(tmp_path, True, False, True)
    reader = Reader()
    first, last = reader.read(path)
    check(first)
    check(last, 2)
    assert "structure 1" in reader.records[0].left_out[0]
    (tmp_path / "INPUT").write_text("suffix other\n")
    with pytest.raises(DataError, match="INPUT and STRU must be in the folder above"):
        read_structures(path)


def test_ml_ab(tmp_path: Path) -> None:
    found = read_structures(written(tmp_path, ml_ab(), "ML_AB"))
    assert len(found) == 2
    for index, item in enumerate(found):
        check(item, index, stress=True)
    cut = ml_ab().rpartition("Forces")[0]
    with pytest.raises(DataError, match="structure 1 of the ML_AB file cannot be read"):
        read_structures(written(tmp_path, cut, "ML_AB"))
