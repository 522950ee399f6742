"""Labels are the energies of their level of theory, and forces their derivatives."""

from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from ase.units import Bohr, Hartree

from finetune.core.errors import RecipeError
from finetune.labelling.programs import Program, check_installed, open_program
from finetune.labelling.recipe import AseLevel, PyscfLevel, TbliteLevel
from finetune.labelling.task import Label, LabelError, Task
from tests.labelling.tasks import WATER, WATER_TASK, task

pytest.importorskip("pyscf")
STEP = 2e-3
"""Å, of finite differences."""
FORCE_TOLERANCE = 2e-4
"""eV/Å, of them; a wrong gradient is off by a hundred times that."""
RADICAL_TASK = task([7, 1, 1], [[0, 0, 0.1], [0.0, 0.8, -0.5], [0.05, -0.79, -0.52]], spin=2)


def program(**options: Any) -> Program:
    return open_program(PyscfLevel(**{"basis": "sto-3g", **options}), [1, 8])


def slope(opened: Program, at: Task, atom: int, axis: int) -> float:
    energies = []
    for sign in (1, -1):
        positions = [list(row) for row in at.positions]
        positions[atom][axis] += sign * STEP
        energies.append(opened.compute(replace(at, positions=positions), False).energy)
    return -(energies[0] - energies[1]) / (2 * STEP)


def assert_forces(opened: Program, at: Task, label: Label) -> None:
    forces = np.array(label.forces)
    assert np.abs(forces.sum(axis=0)).max() < 1e-4
    for atom, axis in ((0, 2), (1, 1)):
        assert forces[atom, axis] == pytest.approx(
            slope(opened, at, atom, axis), abs=FORCE_TOLERANCE
        )


@pytest.mark.parametrize(
    "options",
    [
        {"method": "hf"},
        {"method": "hf", "density_fitting": True},
        {"method": "PBE0", "grid": 1},
        {"method": "mp2"},
        {"method": "ccsd", "frozen_core": False},
        {"method": "CCSD(T)"},
        {"method": "ccsd(t)", "frozen_core": False, "basis": "6-31g"},
    ],
    ids=lambda options: " ".join(str(value) for value in options.values()),
)
def test_forces_of_water_are_the_slope_of_its_energy(options: dict[str, Any]) -> None:
    opened = program(**options)
    label = opened.compute(WATER_TASK, True)
    assert label.without_forces == ""
    assert label.facts["reference"] in {"RHF", "RKS"}
    assert_forces(opened, WATER_TASK, label)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["hf", "mp2", "ccsd"])
def test_forces_of_a_radical_are_the_slope_of_its_energy(method: str) -> None:
    opened = open_program(PyscfLevel(method=method, basis="6-31g"), [1, 7])
    label = opened.compute(RADICAL_TASK, True)
    assert label.facts["reference"] == "UHF"
    assert_forces(opened, RADICAL_TASK, label)


@pytest.mark.parametrize(
    ("options", "at"),
    [
        ({"method": "ccsd(t)"}, RADICAL_TASK),
        ({"method": "ccsd(t)", "reference": "unrestricted"}, WATER_TASK),
        ({"method": "mp2", "density_fitting": True}, WATER_TASK),
        ({"method": "ccsd", "density_fitting": True}, WATER_TASK),
    ],
)
def test_no_forces_where_pyscf_has_no_exact_ones(options: dict[str, Any], at: Task) -> None:
    label = program(**options).compute(at, True)
    assert label.forces is None
    assert "PySCF" in label.without_forces
    exact = program(**{**options, "density_fitting": False}).compute(at, False)
    assert label.energy == pytest.approx(exact.energy, abs=0.1)
    assert exact.without_forces == ""


def test_energies_are_those_of_pyscf_itself_with_its_own_core() -> None:
    from pyscf import cc, gto, scf
    from pyscf.data.elements import chemcore

    atoms = list(zip("OHH", WATER, strict=True))
    molecule = gto.M(atom=atoms, basis="6-31g", verbose=0)
    field = scf.RHF(molecule).run(conv_tol=1e-11)
    method = cc.CCSD(field, frozen=chemcore(molecule)).run(conv_tol=1e-9)
    label = program(method="ccsd(t)", basis="6-31g").compute(WATER_TASK, False)
    assert label.facts["frozen_core_orbitals"] == 1
    assert label.energy == pytest.approx((method.e_tot + method.ccsd_t()) * Hartree, abs=1e-6)
    everything = program(method="ccsd(t)", basis="6-31g", frozen_core=False)
    assert everything.compute(WATER_TASK, False).energy < label.energy - 0.01


def test_heavy_elements_get_the_core_potential_of_their_basis() -> None:
    iodide = task([53, 1], [[0.0, 0.0, 0.0], [0.0, 0.0, 1.61]])
    label = open_program(PyscfLevel(method="mp2", basis="def2-svp"), [1, 53]).compute(iodide, False)
    assert label.energy > -310 * Hartree  # all electrons have −6,900 Hartree
    mixed = PyscfLevel(method="hf", basis={"default": "def2-svp", "H": "sto-3g"})
    assert open_program(mixed, [1]).compute(iodide, False).energy > -310 * Hartree
    assert mixed.name == "HF/def2-svp (H: sto-3g)"


def test_free_atoms_are_in_their_ground_states() -> None:
    def energy(number: int, spin: int, method: str, basis: str = "6-31g") -> float:
        free = replace(task([number], [[0.0] * 3], spin), free_atom=True)
        opened = open_program(PyscfLevel(method=method, basis=basis, grid=0), [number])
        return opened.compute(free, False).energy

    for method in ("hf", "mp2", "ccsd", "ccsd(t)"):  # one electron correlates with none
        assert energy(1, 2, method) == pytest.approx(-0.498233 * Hartree, abs=1e-4)
    assert energy(1, 2, "ccsd(t)", "sto-3g") == pytest.approx(-0.466582 * Hartree, abs=1e-4)
    assert energy(2, 1, "ccsd", "sto-3g") == pytest.approx(-2.807784 * Hartree, abs=1e-4)
    assert energy(8, 3, "pbe0", "sto-3g") < energy(8, 1, "pbe0", "sto-3g") - 0.5
    assert energy(7, 4, "ccsd(t)", "sto-3g") < -1400


@pytest.mark.parametrize(
    ("options", "at", "reason"),
    [
        ({"max_cycles": 1, "scf_tolerance": 1e-13}, WATER_TASK, "mean field did not converge in 1"),
        ({"cc_tolerance": 1e-15, "max_cycles": 6}, WATER_TASK, "did not converge in 6 cycles"),
        ({}, replace(WATER_TASK, spin=2), "10 electrons cannot have the multiplicity 2"),
        ({}, replace(WATER_TASK, charge=1), "9 electrons cannot have the multiplicity 1"),
        ({}, task([1], [[0.0] * 3], 1, 1), "0 electrons"),
        ({}, replace(WATER_TASK, pbc=[True] * 3), "periodic"),
        ({"basis": "cc-pvdz"}, task([53, 1], [[0.0] * 3, [0, 0, 1.6]]), "'cc-pvdz' has no I"),
        ({"frozen_core": 9}, WATER_TASK, "9 orbitals are frozen, but only 5"),
    ],
)
def test_what_cannot_be_computed_is_told(options: dict[str, Any], at: Task, reason: str) -> None:
    opened = program(**{"method": "ccsd", **options})
    with pytest.raises(LabelError, match=reason):
        opened.compute(at, True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "mp3"}, "'mp3' is none of hf, mp2, ccsd"),
        ({"method": "b2plyp"}, "not a functional"),
        ({"method": "wb97x-d"}, "not supported.*wb97x-d3bj"),
        ({"method": "wb97x-d3"}, "not supported.*wb97x-d3bj"),
        ({"method": "b3lyp-d5"}, "not a functional.*b3lyp-d3bj.*write b3lyp"),
        ({"method": "hf-d3bj"}, "for functionals; use hf"),
        ({"method": "b3lyp-d3bj"}, "pip install pyscf-dispersion"),
        ({"basis": "cc-pvfz"}, "no basis set 'cc-pvfz' for H, O"),
    ],
)
def test_levels_that_do_not_exist_are_refused(options: dict[str, Any], message: str) -> None:
    if options.get("method") == "b3lyp-d3bj" and find_spec("pyscf.dispersion"):
        pytest.skip("pyscf-dispersion is installed")
    with pytest.raises(RecipeError, match=message):
        program(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "b3lyp-d3"}, "no dispersion correction 'd3'.*-d3bj"),
        ({"method": "b3lyp-d4s"}, "no dispersion correction 'd4s'"),
        ({"method": "m06-d3bj"}, "no parameters of d3bj for 'm06'"),
        ({"method": "lda,vwn-d4"}, "no parameters of d4 for 'lda,vwn'"),
    ],
)
def test_corrections_that_do_not_exist_are_refused(options: dict[str, Any], message: str) -> None:
    pytest.importorskip("pyscf.dispersion", reason="pip install pyscf-dispersion")
    with pytest.raises(RecipeError, match=message):
        program(**options)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "said"), [("b3lyp-d3bj", "d3bj of b3lyp, two-body"), ("PBE0-D4", "d4 of pbe0, th")]
)
def test_dispersion_is_in_energies_and_forces(method: str, said: str) -> None:
    pytest.importorskip("pyscf.dispersion", reason="pip install pyscf-dispersion")
    from pyscf import gto
    from pyscf.dispersion import dftd3, dftd4

    plain, _, version = method.lower().partition("-")
    with_it, without = program(method=method, grid=1), program(method=plain, grid=1)
    label, bare = with_it.compute(WATER_TASK, True), without.compute(WATER_TASK, True)
    assert "pyscf-dispersion" in with_it.program
    assert str(label.facts["dispersion"]).startswith(said)
    assert_forces(with_it, WATER_TASK, label)
    radical = with_it.compute(RADICAL_TASK, True)
    assert_forces(with_it, RADICAL_TASK, radical)
    assert with_it.compute(RADICAL_TASK, False).facts["reference"] == "UKS"
    molecule = gto.M(atom=list(zip("OHH", WATER, strict=True)), verbose=0)
    known = {"d3bj": dftd3.DFTD3Dispersion, "d4": dftd4.DFTD4Dispersion}
    alone = known[version](molecule, xc=plain, version=version)
    found = alone.get_dispersion(grad=True)
    assert label.energy - bare.energy == pytest.approx(found["energy"] * Hartree, abs=1e-7)
    pushed = -found["gradient"] * Hartree / Bohr
    np.testing.assert_allclose(np.subtract(label.forces, bare.forces), pushed, atol=1e-5)


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune.labelling.programs.find_spec", lambda name: None)
    for level in (PyscfLevel(), TbliteLevel(program="tblite")):
        with pytest.raises(RecipeError, match=r"pip install 'piwsl-finetune\[label\]'"):
            check_installed(level)
    check_installed(AseLevel(program="ase", calculator="ase.calculators.emt.EMT"))


def test_labels_are_in_ev_and_angstrom() -> None:
    from pyscf import gto, scf

    molecule = gto.M(atom=list(zip("OHH", WATER, strict=True)), basis="sto-3g", verbose=0)
    field = scf.RHF(molecule).run(conv_tol=1e-11)
    label = program(method="hf").compute(WATER_TASK, True)
    assert label.energy == pytest.approx(27.211386 * field.e_tot, abs=1e-3)
    pushed = -51.422067 * field.nuc_grad_method().kernel()
    np.testing.assert_allclose(label.forces, pushed, atol=1e-4)
