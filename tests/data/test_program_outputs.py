"""Outputs of VASP and Quantum ESPRESSO: energies, signs, units, stress, what did not converge.

The texts are written here from one set of numbers, in the units and conventions of each program's
manual; the readers must find the same numbers in eV, Å and ASE's sign.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from finetune.commands import app
from finetune.core.errors import DataError
from finetune.data.reading import Reader, read_structures
from finetune.recipe.sections import LabelKeys

KBAR = 6.2415091e-4
"""eV/Å³."""
HARTREE, BOHR = 27.211386, 0.52917721
CELL = np.array([[3.0, 0.0, 0.0], [0.4, 3.2, 0.0], [0.1, 0.3, 3.4]])
POSITIONS = np.array([[0.1, 0.2, 0.3], [1.4, 1.3, 1.5]])
SYMBOLS = ("Na", "Cl")
FORCES = np.array([[0.31, -0.22, 0.13], [-0.31, 0.22, -0.13]])
ENERGY, FREE_ENERGY = -6.5, -6.6
STRESS = np.array([[-0.010, 0.001, 0.003], [0.001, -0.020, 0.002], [0.003, 0.002, -0.030]])
"""eV/Å³, negative under compression as ASE has it, no two components alike."""


def rows(array: np.ndarray, form: str = "%14.8f") -> list[str]:
    return ["".join(form % value for value in row) for row in np.atleast_2d(array)]


def outcar() -> str:
    """POSITION and TOTAL-FORCE in Å and eV/Å; `in kB` is minus stress, XX YY ZZ XY YZ ZX."""
    kbar = -STRESS / KBAR
    order = [(0, 0), (1, 1), (2, 2), (0, 1), (1, 2), (2, 0)]
    lines = [
        *(f" POTCAR:    PAW_PBE {symbol} 08Apr2002" for symbol in SYMBOLS * 2),
        "   ISPIN  =      1    spin polarized calculation?",
        "  k-points  NKPTS =      1   k-points in BZ   NKDIM =    1   number of bands  NBANDS=   4",
        "   k-points in reciprocal lattice and weights: Gamma",
        "   0.00000000  0.00000000  0.00000000       1.000",
        "   ions per type =               1   1",
        "--------------------------------------- Iteration      1(   1)  --------------",
        "  FORCE on cell =-STRESS in cart. coord.  units (eV):",
        "  Direction    XX          YY          ZZ          XY          YZ          ZX",
        "  in kB  " + "".join(f"{kbar[place]:12.5f}" for place in order),
        "  external pressure =  0.00 kB  Pullay stress =        0.00 kB",
        "      direct lattice vectors                 reciprocal lattice vectors",
        *(f"  {row}  {row}" for row in rows(CELL)),
        " POSITION                                       TOTAL-FORCE (eV/Angst)",
        " -----------------------------------------------------------------------------------",
        *rows(np.hstack([POSITIONS, FORCES])),
        "  FREE ENERGIE OF THE ION-ELECTRON SYSTEM (eV)",
        "  ---------------------------------------------------",
        f"  free  energy   TOTEN  =  {FREE_ENERGY:18.8f} eV",
        "",
        f"  energy  without entropy=  {-6.4:18.8f}  energy(sigma->0) =  {ENERGY:16.8f}",
    ]
    return "\n".join([" vasp.6.3.0 20Jan22 (build) complex", "", *lines, ""])


def vasprun() -> str:
    """Scaled positions, forces in eV/Å, the matrix of minus stress in kbar."""

    def block(name: str, array: np.ndarray) -> str:
        inner = "".join(f"<v>{row}</v>" for row in rows(array, " %.10f"))
        return f'<varray name="{name}">{inner}</varray>'

    scaled = np.linalg.solve(CELL.T, POSITIONS.T).T
    crystal = f"<crystal>{block('basis', CELL)}</crystal>{block('positions', scaled)}"
    energies = (
        f'<energy><i name="e_fr_energy">{FREE_ENERGY}</i>'
        f'<i name="e_wo_entrp">-6.4</i><i name="e_0_energy">{ENERGY}</i></energy>'
    )
    atoms = "".join(f"<rc><c>{symbol}</c><c>{i + 1}</c></rc>" for i, symbol in enumerate(SYMBOLS))
    return (
        '<?xml version="1.0" encoding="ISO-8859-1"?><modeling><generator>'
        '<i name="program" type="string">vasp </i></generator>'
        '<kpoints><varray name="kpointlist"><v>0 0 0</v></varray>'
        '<varray name="weights"><v>1</v></varray></kpoints><parameters></parameters>'
        f'<atominfo><array name="atoms"><set>{atoms}</set></array></atominfo>'
        f'<structure name="initialpos">{crystal}</structure>'
        f"<calculation><scstep>{energies}</scstep><structure>{crystal}</structure>"
        f"{block('forces', FORCES)}{block('stress', -STRESS / KBAR)}{energies}"
        "</calculation></modeling>"
    )


def espresso() -> str:
    """Cell in alat, total energy in Ry, forces in Ry/Bohr, minus stress in Ry/Bohr³ and kbar."""
    rydberg, alat = HARTREE / 2, 6.0
    scale = alat * BOHR
    axes = [f"a({i + 1}) = ( {row} )" for i, row in enumerate(rows(CELL / scale))]
    sites = [
        f"{i + 1:10}           {symbol}  tau({i + 1:4}) = ({row}  )"
        for i, (symbol, row) in enumerate(zip(SYMBOLS, rows(POSITIONS / scale), strict=True))
    ]
    forces = [
        f"     atom {i + 1:4} type {i + 1:2}   force = {row}"
        for i, row in enumerate(rows(FORCES / (rydberg / BOHR)))
    ]
    pressure = -STRESS / (rydberg / BOHR**3)
    lines = [
        "     Program PWSCF v.7.2 starts on 12Mar2024 at 10: 0: 0",
        f"     celldm(1)=   {alat:.6f}  celldm(2)=   0.000000  celldm(3)=   0.000000",
        "     number of atoms/cell      =            2",
        "     number of atomic types    =            2",
        "     crystal axes: (cart. coord. in units of alat)",
        *(f"               {line}" for line in axes),
        "     site n.     atom                  positions (alat units)",
        *sites,
        "     Exchange-correlation= PBE0 ( 6  4  8  4 0 0)",
        "     number of k points=     1",
        "                       cart. coord. in units 2pi/alat",
        "        k(    1) = (   0.0000000   0.0000000   0.0000000), wk =   2.0000000",
        "",
        f"!    total energy              =  {FREE_ENERGY / rydberg:16.8f} Ry",
        "",
        "     Forces acting on atoms (cartesian axes, Ry/au):",
        "",
        *forces,
        "",
        "     Computing stress (Cartesian axis) and pressure",
        "",
        "          total   stress  (Ry/bohr**3)                   (kbar)     P=       32.0",
        *(f"  {a}   {b}" for a, b in zip(rows(pressure), rows(-STRESS / KBAR), strict=True)),
        "",
        "     JOB DONE.",
    ]
    return "\n".join(lines) + "\n"


def whole(item: object) -> None:
    """Hold geometry and forces to the numbers above."""
    np.testing.assert_allclose(item.positions, POSITIONS, atol=1e-6)  # type: ignore[attr-defined]
    np.testing.assert_allclose(item.forces, FORCES, atol=1e-6)  # type: ignore[attr-defined]
    assert item.numbers.tolist() == [11, 17]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "text", "energy"),
    [
        ("OUTCAR", outcar, ENERGY),
        ("vasprun.xml", vasprun, ENERGY),
        ("pw.pwo", espresso, FREE_ENERGY),
        ("pw.out", espresso, FREE_ENERGY),
    ],
)
def test_crystals(name: str, text: Callable[[], str], energy: float, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(text())
    (item,) = read_structures(path)
    whole(item)
    np.testing.assert_allclose(item.cell, CELL, atol=1e-6)
    assert item.pbc.all()
    assert item.energy == pytest.approx(energy, abs=1e-5)
    np.testing.assert_allclose(item.stress, STRESS, atol=1e-6)
    (free,) = read_structures(path, LabelKeys(energy="free_energy"))
    assert free.energy == pytest.approx(FREE_ENERGY, abs=1e-5)


def test_signs_and_units_survive_conversion(tmp_path: Path) -> None:
    (tmp_path / "OUTCAR").write_text(outcar())
    for name in ("a.xyz", "a.h5"):
        done = CliRunner().invoke(
            app, ["data", "convert", str(tmp_path / "OUTCAR"), "--to", str(tmp_path / name)]
        )
        assert done.exit_code == 0, done.output
        (item,) = read_structures(tmp_path / name)
        whole(item)
        np.testing.assert_allclose(item.stress, STRESS, atol=1e-6)


ITERATION = "--------------------------------------- Iteration {:6}({:4})  --------------\n"


def run(*counts: int, limit: int = 4, last: str = "") -> str:
    """An OUTCAR whose ionic steps took so many electronic ones, of NELM at most."""
    header, _, body = outcar().partition(ITERATION.format(1, 1).strip("\n"))
    parameters = f"   NELM   = {limit:6};   NELMIN=  2; NELMDL= -5     # of ELM steps\n"
    steps = [
        "".join(ITERATION.format(step, i + 1) for i in range(count)) + body
        for step, count in enumerate(counts, 1)
    ]
    return header + parameters + "".join(steps) + last


@pytest.mark.parametrize(
    ("text", "kept", "faults"),
    [
        (run(4, 2, 4), 1, {0: "NELM = 4", 2: "NELM = 4"}),
        (run(2, 3), 2, {}),
        (run(1, limit=1), 0, {0: "NELM = 1"}),
        (run(2, last=ITERATION.format(2, 1)), 1, {1: "the output ends before"}),
        (
            run(2, 2).replace("POSITION", "aborting loop EDIFF was not reached\n POSITION", 1),
            1,
            {0: "EDIFF was not reached"},
        ),
        (run(2, 2).replace("   NELM ", "   ICHARG =     11\n   NELM "), 0, {0: "ICHARG = 11"}),
        (
            run(2, 2).replace("  FREE ENERGIE", "  ML FREE ENERGIE", 1),
            1,
            {0: "a machine-learned force field"},
        ),
    ],
    ids=["NELM", "converged", "NELM 1", "cut off", "EDIFF", "ICHARG", "ML_FF"],
)
def test_steps_of_an_outcar_that_are_no_labels_are_left_out(
    text: str, kept: int, faults: dict[int, str], tmp_path: Path
) -> None:
    path = tmp_path / "OUTCAR"
    path.write_text(text)
    reader = Reader(faulty="stop")
    if not kept:
        with pytest.raises(DataError, match=f"no usable structure: .*{faults[0]}"):
            reader.read(path)
        return
    found = reader.read(path)
    assert len(found) == kept
    for item in found:
        whole(item)
    (record,) = reader.records
    assert len(record.left_out) == len(faults)
    for line, (index, why) in zip(record.left_out, faults.items(), strict=True):
        assert f"OUTCAR', structure {index}: " in line and why in line
    assert bool(reader.notes()) == bool(faults)


def test_steps_of_a_vasprun_that_are_no_labels_are_left_out(tmp_path: Path) -> None:
    head, mark, rest = vasprun().partition("<calculation>")
    step = mark + rest.partition("</modeling>")[0]
    electronic = step[step.index("<scstep>") : step.index("</scstep>") + len("</scstep>")]
    head = head.replace(
        "<parameters></parameters>",
        '<parameters><i type="int" name="NELM"> 3</i><i type="int" name="NELM"> 1</i></parameters>',
    )
    full = step.replace(electronic, 3 * electronic)
    path = tmp_path / "vasprun.xml"
    for end in ("</modeling>", f"<calculation>{electronic}<scs"):
        path.write_text(head + full + step + end)
        reader = Reader()
        (item,) = reader.read(path)
        whole(item)
        (record,) = reader.records
        assert "structure 0: its electrons did not converge in NELM = 3" in record.left_out[0]
        assert len(record.left_out) == (1 if end.startswith("</") else 2)
    assert "structure 2: the output ends before" in record.left_out[1]


def pw(*blocks: str) -> str:
    """An output of pw.x with more lines before its total energy, or later geometries."""
    head, mark, rest = espresso().partition("!    total energy")
    return head + blocks[0] + mark + rest + "".join(blocks[1:])


def energy_line(energy: float, mark: str = "!    ") -> str:
    return f"{mark}total energy              =  {energy / (HARTREE / 2):16.8f} Ry\n"


SCF = "     Self-consistent Calculation\n"
ENDED = """     End of self-consistent calculation

          k = 0.0000 0.0000 0.0000 (   100 PWs)   bands (ev):

    -5.8000   2.1000

     the Fermi energy is     1.0000 ev
"""
REFINE = "     EXX: now go back to refine exchange calculation\n"


def test_with_exact_exchange_the_last_energy_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "pw.out"
    text = pw(SCF + ENDED + energy_line(FREE_ENERGY + 21) + REFINE + SCF + ENDED)
    reached = "     EXX self-consistency reached\n     Forces acting"
    inner, outer = energy_line(FREE_ENERGY), energy_line(FREE_ENERGY - 0.1, "!!   ")
    path.write_text(text.replace("     Forces acting", f"{outer}{reached}", 1))
    (item,) = read_structures(path)
    whole(item)
    assert inner in path.read_text()
    assert item.energy == pytest.approx(FREE_ENERGY - 0.1, abs=1e-5)
    assert item.level_of_theory == "PBE0"
    (free,) = read_structures(path, LabelKeys(energy="free_energy"))
    assert free.energy == item.energy


@pytest.mark.parametrize(
    ("blocks", "why"),
    [
        (("     convergence NOT achieved after   3 iterations: stopping\n",), "did not converge"),
        ((REFINE,), "exact exchange did not become self-consistent"),
        ((SCF,), "the output ends before"),
    ],
)
def test_geometries_of_pw_that_did_not_converge_are_left_out(
    blocks: tuple[str, ...], why: str, tmp_path: Path
) -> None:
    path = tmp_path / "pw.out"
    place = "ATOMIC_POSITIONS (crystal)\nNa 0.0 0.0 0.0\nCl 0.4 0.5 0.6\n\n"
    done = f"{place}{SCF}{ENDED}{energy_line(FREE_ENERGY + 1)}"
    path.write_text(pw(*blocks, done))
    reader = Reader()
    (item,) = reader.read(path)
    assert item.energy == pytest.approx(FREE_ENERGY + 1, abs=1e-5)
    assert item.where.endswith("structure 1")
    (line,) = reader.records[0].left_out
    assert "structure 0: " in line and why in line
