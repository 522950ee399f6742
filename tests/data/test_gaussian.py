"""Outputs of Gaussian: levels of joined jobs, orientations of forces, excited states, attempts."""

from pathlib import Path

import numpy as np
import pytest
from ase.units import Bohr, Hartree

from finetune.core.errors import DataError
from finetune.data.reading import Reader, read_structures
from finetune.recipe.sections import LabelKeys
from tests.data.test_quantum_chemistry import (
    ENERGY,
    NUMBERS,
    WATER,
    columns,
    forces,
    moved,
    written,
)

pytest.importorskip("cclib")


def gaussian_table(title: str, positions: np.ndarray) -> list[str]:
    rows = zip(NUMBERS, positions, strict=True)
    return [
        f"                          {title}:",
        " ---------------------------------------------------------------------",
        " Center     Atomic      Atomic             Coordinates (Angstroms)",
        " Number     Number       Type             X           Y           Z",
        " ---------------------------------------------------------------------",
        *(f"{i + 1:7}{n:11}{0:12}    {columns(row, '12.6f')}" for i, (n, row) in enumerate(rows)),
        " ---------------------------------------------------------------------",
    ]


def gaussian_point(
    positions: np.ndarray, *energies: str, gradient: bool = False, turned: bool = True
) -> list[str]:
    """Geometry in both orientations; forces refer to the input orientation."""
    lines = gaussian_table("Input orientation", positions) if turned else []
    lines += gaussian_table("Standard orientation", positions[:, [1, 2, 0]])
    lines += energies
    if gradient:
        rows = zip(NUMBERS, forces(positions), strict=True)
        lines += [
            " -------------------------------------------------------------------",
            " Center     Atomic                   Forces (Hartrees/Bohr)",
            " Number     Number              X              Y              Z",
            " -------------------------------------------------------------------",
            *(f"{i + 1:7}{n:9}      {columns(row, '15.9f')}" for i, (n, row) in enumerate(rows)),
            " -------------------------------------------------------------------",
        ]
    return lines


def gaussian_job(route: str, *points: list[str], charge: int = 0) -> str:
    lines = [
        " Entering Gaussian System, Link 0=g16",
        " Gaussian 16:  ES64L-G16RevA.03 25-Dec-2016",
        " ----------",
        f" #p {route}",
        " ----------",
        f" Charge = {charge:2} Multiplicity = 1",
        " Standard basis: 6-31G(d) (6D, 7F)",
    ]
    lines += [line for point in points for line in point]
    return "\n".join([*lines, " Normal termination of Gaussian 16 at now.", ""])


DONE = " SCF Done:  E(RB3LYP) =  {:.9f}     A.U. after   12 cycles"
COUPLED = [
    " SCF Done:  E(RHF) =  -76.000000000     A.U. after   11 cycles",
    " E2 =    -0.1D+00 EUMP2 =    -0.76100000000000D+02",
    " Wavefunction amplitudes converged. E(Corr)=     -76.200000000",
    " CCSD(T)= -0.76210000000D+02",
]


def joined(folder: Path) -> Path:
    """An optimisation by DFT, followed by coupled cluster at its end."""
    steps = [
        gaussian_point(moved(step), DONE.format(ENERGY + step), gradient=True) for step in (2, 1)
    ]
    text = gaussian_job("b3lyp/6-31G(d) opt", *steps, charge=-1)
    text += gaussian_job("ccsd(t)/6-31G(d)", gaussian_point(moved(1), *COUPLED), charge=-1)
    return written(folder, text, "job.log")


def test_levels_of_joined_jobs_are_told_and_not_mixed(tmp_path: Path) -> None:
    path = joined(tmp_path)
    with pytest.raises(DataError) as error:
        read_structures(path)
    message = str(error.value)
    assert "B3LYP/6-31G(d) (structures 0 to 1), CCSD(T)/6-31G(d) (structure 2)" in message
    assert "data.keys.energy" in message and "B3LYP, HF, MP2, CCSD, CCSD(T)" in message


@pytest.mark.parametrize(
    ("key", "energies"),
    [
        ("B3LYP", [ENERGY + 2, ENERGY + 1]),
        ("ccsd(t)", [-76.21]),
        ("CCSD", [-76.2]),
        ("MP2", [-76.1]),
        ("HF", [-76.0]),
    ],
)
def test_the_level_asked_for_is_taken(key: str, energies: list[float], tmp_path: Path) -> None:
    reader = Reader(LabelKeys(energy=key))
    found = reader.read(joined(tmp_path))
    assert [item.energy for item in found] == pytest.approx([e * Hartree for e in energies])
    assert {str(item.level_of_theory).lower() for item in found} == {f"{key.lower()}/6-31g(d)"}
    assert all((item.forces is not None) == (key == "B3LYP") for item in found)
    assert reader.records[0].unlabelled == 3 - len(found)


def test_an_index_chooses_among_joined_jobs(tmp_path: Path) -> None:
    (item,) = read_structures(f"{joined(tmp_path)}@2")
    assert item.energy == pytest.approx(-76.21 * Hartree) and item.charge == -1
    first, second = read_structures(f"{joined(tmp_path)}@:2")
    np.testing.assert_allclose(first.positions, moved(2), atol=1e-6)
    np.testing.assert_allclose(second.forces, forces(moved(1)) * Hartree / Bohr, atol=1e-6)


def test_forces_in_another_orientation_are_refused(tmp_path: Path) -> None:
    point = gaussian_point(
        moved(1) @ np.array([[1, 0, 0], [0, 0.6, 0.8], [0, -0.8, 0.6]]),
        DONE.format(ENERGY),
        gradient=True,
        turned=False,
    )
    with pytest.raises(DataError, match="its forces turn the molecule"):
        read_structures(written(tmp_path, gaussian_job("b3lyp/6-31G(d) force", point), "job.log"))


def test_the_followed_root_is_told(tmp_path: Path) -> None:
    excited = [
        " Excited State   1:      Singlet-A      5.0000 eV  247.97 nm  f=0.1000",
        " Excited State   2:      Singlet-A      6.0000 eV  206.64 nm  f=0.1000",
        " This state for optimization and/or second-order correction.",
        " Total Energy, E(TD-HF/TD-DFT) =  -75.900000000",
    ]
    energies = [DONE.format(ENERGY), *excited]
    path = written(tmp_path, gaussian_job("td b3lyp", gaussian_point(WATER, *energies)), "a.log")
    (ground,) = read_structures(path)
    assert ground.level_of_theory == "B3LYP/6-31G(d)"
    assert ground.energy == pytest.approx(ENERGY * Hartree)
    point = gaussian_point(WATER, *energies, gradient=True)
    (item,) = read_structures(written(tmp_path, gaussian_job("td b3lyp force", point), "b.log"))
    assert item.level_of_theory == "TD-B3LYP root 2/6-31G(d)"
    assert item.energy == pytest.approx(-75.9 * Hartree)
    assert item.forces is not None


def test_energies_without_a_geometry_are_left_out_and_counted(tmp_path: Path) -> None:
    """As in line searches and numerical derivatives."""
    lines = [DONE.format(ENERGY + shift) for shift in (0, 0.1, 0.2)]
    path = written(tmp_path, gaussian_job("b3lyp", gaussian_point(WATER, *lines)), "job.log")
    reader = Reader()
    (item,) = reader.read(path)
    assert item.energy == pytest.approx(ENERGY * Hartree)
    assert "2 more times without a geometry" in reader.records[0].left_out[0]


def test_gaussian_that_did_not_converge_is_left_out(tmp_path: Path) -> None:
    bad = gaussian_point(
        moved(1), " >>>>>>>>>> Convergence criterion not met.", DONE.format(ENERGY)
    )
    good = gaussian_point(WATER, DONE.format(ENERGY))
    reader = Reader()
    path = written(tmp_path, gaussian_job("b3lyp opt", good, bad), "job.log")
    assert len(reader.read(path)) == 1
    assert len(reader.records[0].left_out) == 1


def test_gaussian_that_converges_at_the_second_attempt_is_read(tmp_path: Path) -> None:
    """SCF=XQC turns to quadratic convergence where the first algorithm fails."""
    point = gaussian_point(
        WATER,
        " >>>>>>>>>> Convergence criterion not met.",
        DONE.format(ENERGY + 1),
        DONE.format(ENERGY),
    )
    (item,) = read_structures(written(tmp_path, gaussian_job("b3lyp scf=xqc", point), "job.log"))
    assert item.energy == pytest.approx(ENERGY * Hartree)


def test_coupled_cluster_of_gaussian_09_is_read(tmp_path: Path) -> None:
    iterations = [
        f" DE(Corr)= -0.2D+00 E(CORR)=     {energy:.9f}     Delta=-1.00D-08"
        for energy in (-76.18, -76.2)
    ]
    point = gaussian_point(WATER, *COUPLED[:2], *iterations, " CI/CC converged in    2 iterations")
    path = written(tmp_path, gaussian_job("ccsd/6-31G(d)", point), "job.log")
    (item,) = read_structures(path)
    assert item.energy == pytest.approx(-76.2 * Hartree)
    assert item.level_of_theory == "CCSD/6-31G(d)"
    path.write_text(path.read_text().replace("CI/CC converged", "stopped"))
    assert read_structures(path)[0].level_of_theory == "MP2/6-31G(d)"


def test_the_method_of_a_route_of_two_lines_is_found(tmp_path: Path) -> None:
    text = gaussian_job("scf=tight\n qcisd/6-31G(d)", gaussian_point(WATER, *COUPLED[:3]))
    (item,) = read_structures(written(tmp_path, text, "job.log"))
    assert item.level_of_theory == "QCISD/6-31G(d)"
    text = text.replace("qcisd", "cbs-qb3")
    (item,) = read_structures(written(tmp_path, text, "job.log"))
    assert item.level_of_theory == "coupled cluster/6-31G(d)"
