"""Walls, bonds, torsions, volumes, frequencies and forgetting against closed forms."""

import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk, molecule

from finetune.data.structures import from_atoms
from finetune.evaluation.curves import Curve, checked, dimers, labelled_scans, scans
from finetune.evaluation.frequencies import change, elsewhere, frequencies
from finetune.evaluation.scans import Scans
from finetune.evaluation.statistics import SMALLEST_FORCE
from finetune.export.calculator import PotentialCalculator
from finetune.potentials.potential import Potential
from finetune.recipe.sections import LabelKeys
from finetune.testing.analytic import LennardJonesPotential, MorsePotential, PairPotential
from tests.conftest import rattled


class Hollow(PairPotential):
    """A wall that turns down into a hole around 0.3 Å."""

    def pair(self, distance: torch.Tensor) -> torch.Tensor:
        hole = 1.5 * torch.exp(-(((distance - 0.3) / 0.05) ** 2))
        return self.depth * (torch.exp(-3.0 * distance) - hole)


def morse(distance: np.ndarray, potential: MorsePotential) -> np.ndarray:
    decay = np.exp(-potential.width * (distance - potential.distance))
    smooth = np.where(distance < potential.cutoff, 1 - (distance / potential.cutoff) ** 2, 0) ** 3
    return potential.depth.item() * ((1 - decay) ** 2 - 1) * smooth


def test_dimers_are_relative_to_free_atoms() -> None:
    potential = MorsePotential()
    potential.set_references({1: -13.0, 8: -2000.0})
    curves = dimers({"morse": potential}, [1, 8])
    assert [curve.name for curve in curves] == ["H-H", "H-O", "O-O"]
    for curve in curves:
        expected = morse(curve.values, potential)
        np.testing.assert_allclose(curve.energies["morse"], expected, atol=1e-9)
        (check,) = curve.check()
        assert check["hole"] == 0.0
        assert check["hole_at"] is None
        assert check["wall_height"] > 0.0
    assert curves[0].wall == pytest.approx(0.7 * 2 * 0.31)
    assert curves[0].check()[0]["minimum"] == pytest.approx(1.1, abs=0.05)


def test_a_hole_in_a_wall_is_found() -> None:
    potential = Hollow(10.0, 4.0)
    (curve,) = dimers({"hollow": potential}, [1])
    (check,) = curve.check()
    inside = curve.values[curve.values <= curve.wall]
    assert check["hole"] > 5.0
    assert check["hole_at"] == pytest.approx(0.3, abs=0.04)
    assert inside[0] < check["hole_at"] < inside[-1]


def test_what_curves_say_by_hand() -> None:
    values = np.array([0.1, 0.2, 0.3, 0.4, 0.5])
    found = checked(values, np.array([4.0, 1.0, 3.0, 2.0, 9.0]), wall=0.4)
    assert found == {
        "minimum": 0.2,
        "range": 8.0,
        "hole": 2.0,
        "hole_at": 0.2,
        "hole_behind": 1.0,
        "wall_height": 2.0,
    }
    rising = checked(values, np.array([4.0, 3.0, 2.0, 2.005, 9.0]), wall=0.4)
    assert rising["hole"] == 0.0
    broken = checked(values, np.array([np.inf, 3.0, 2.0, 1.0, 0.0]), wall=0.4)
    assert broken["hole"] is None
    assert broken["hole_at"] == 0.1
    assert checked(values, np.arange(5.0), wall=None) == {"minimum": 0.1, "range": 4.0}


def test_bonds_are_stretched_as_a_whole() -> None:
    potential = MorsePotential()
    (curve,) = scans({"morse": potential}, Atoms("HH", [[0, 0, 0], [0, 0, 0.7]]), "H2")
    assert curve.kind == "bond"
    expected = morse(curve.values, potential) - morse(np.array([0.7]), potential)
    np.testing.assert_allclose(curve.energies["morse"], expected, atol=1e-9)
    assert curve.wall == pytest.approx(0.85 * 0.7)


def test_each_type_of_bond_is_scanned_once_and_rings_are_left_alone() -> None:
    potential = {"morse": MorsePotential()}
    ethanol = scans(potential, molecule("CH3CH2OH"), "ethanol")
    bonds = [curve.name.split(",")[0] for curve in ethanol if curve.kind == "bond"]
    letters = [sorted(filter(str.isalpha, name)) for name in bonds]
    assert sorted(map("".join, letters)) == ["CC", "CH", "CO", "HO"]
    torsions = [curve for curve in ethanol if curve.kind == "torsion"]
    assert len(torsions) == 2
    for curve in torsions:
        energies = curve.energies["morse"]
        assert energies[0] == pytest.approx(0.0, abs=1e-9)
        assert energies[-1] == pytest.approx(0.0, abs=1e-6)
        assert np.ptp(energies) > 1e-3
    ring = scans(potential, molecule("C3H6_D3h"), "cyclopropane")
    assert {curve.kind for curve in ring} == {"bond"}
    assert len(ring) == 1


def test_a_cell_is_squeezed() -> None:
    potential = LennardJonesPotential(cutoff=8.0)
    crystal = bulk("Ar", "fcc", 5.3)
    (curve,) = scans({"argon": potential}, crystal, "argon")
    (check,) = curve.check()
    assert curve.kind == "volume"
    assert check["hole"] == 0.0
    assert check["wall_height"] > 0.1
    assert 0.97 < check["minimum"] < 1.03
    middle = curve.energies["argon"][np.argmin(np.abs(curve.values - 1.0))]
    assert middle == pytest.approx(0.0, abs=1e-3)


def test_frequencies_follow_from_the_curvature() -> None:
    potential = MorsePotential()
    atoms = Atoms("HO", [[0, 0, 0], [0, 0, 1.0]])
    found = frequencies({"morse": PotentialCalculator(potential)}, atoms, "OH")
    (item,) = found["potentials"].values()
    grid = np.linspace(0.9, 1.3, 4001)
    energies = morse(grid, potential)
    lowest = int(energies.argmin())
    curvature = np.gradient(np.gradient(energies, grid), grid)[lowest]
    masses = atoms.get_masses()
    reduced = masses.prod() / masses.sum()
    expected = np.sqrt(curvature / reduced) * units._hbar * np.sqrt(units._e / units._amu) * 1e10
    expected /= units._e * units.invcm
    assert item["relaxed"]
    assert item["imaginary"] == 0
    assert item["frequencies"] == [pytest.approx(expected, rel=2e-3)]
    assert found["shift"] is None


def test_frequencies_of_a_crystal_and_two_potentials() -> None:
    crystal = bulk("Ar", "fcc", 5.26, cubic=True)
    calculators = {
        name: PotentialCalculator(LennardJonesPotential(depth=depth))
        for name, depth in (("soft", 0.01), ("hard", 0.04))
    }
    found = frequencies(calculators, crystal, "argon")
    soft, hard = (np.array(item["frequencies"]) for item in found["potentials"].values())
    assert len(soft) == 3 * 4 - 3
    np.testing.assert_allclose(hard, 2 * soft, rtol=1e-3)
    assert found["shift"] == pytest.approx(soft.mean(), rel=1e-3)


class Saddle(Potential):
    """E = 100 (x² − 0.04)² + y² + (z − 1)² of the vector from the first atom to the second."""

    def __init__(self) -> None:
        super().__init__(cutoff=5.0, reference_energies={1: 0.0, 8: 0.0})
        self.unused = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def interaction(self, batch, element, strain):  # type: ignore[no-untyped-def]
        positions = batch.positions.detach().requires_grad_(torch.is_grad_enabled())
        x, y, z = (positions[1] - positions[0]).unbind()
        energy = 100 * (x**2 - 0.04) ** 2 + y**2 + (z - 1.0) ** 2
        return torch.stack([energy, 0 * energy]), positions, None


def test_saddles_are_left_for_a_minimum() -> None:
    atoms = Atoms("HO", [[0, 0, 0], [0, 0, 1.0]])
    found = frequencies({"saddle": PotentialCalculator(Saddle())}, atoms, "HO")
    (item,) = found["potentials"].values()
    assert item["relaxed"]
    assert min(item["frequencies"]) > 0
    assert item["imaginary"] == 0


def test_what_cannot_be_relaxed_is_said() -> None:
    class Slope(Saddle):
        def interaction(self, batch, element, strain):  # type: ignore[no-untyped-def]
            positions = batch.positions.detach().requires_grad_(torch.is_grad_enabled())
            x = positions[:, 0]
            return -x - x**2 / 100, positions, None

    atoms = Atoms("HO", [[0, 0, 0], [0, 0, 1.0]])
    found = frequencies({"slope": PotentialCalculator(Slope())}, atoms, "HO")
    (item,) = found["potentials"].values()
    assert not item["relaxed"]
    assert item["frequencies"] == []


def test_labelled_scans_are_found_sorted_and_compared() -> None:
    potential = MorsePotential()
    structures = []
    for value in (1.2, 0.9, 1.0, 1.1):
        atoms = Atoms("HO", [[0, 0, 0], [0, 0, value]])
        wrong = 0.2 if value == 1.0 else 0.0
        atoms.info = {"scan_value": value, "scan_unit": "A", "config_type": "stretch"}
        atoms.info["REF_energy"] = 5.0 + wrong + float(morse(np.array([value]), potential)[0])
        structures.append(from_atoms(atoms, LabelKeys(), "test"))
    plain = from_atoms(rattled("CH4", 0), LabelKeys(), "test")
    (curve,) = labelled_scans({"morse": potential}, [*structures, plain])
    assert curve.values.tolist() == [0.9, 1.0, 1.1, 1.2]
    assert curve.name == "HO stretch"
    (check,) = curve.check()
    assert check["mae"] == pytest.approx(0.075)
    assert check["max"] == pytest.approx(0.15)
    assert labelled_scans({"morse": potential}, structures[:2]) == []


def test_forgetting_is_the_change_against_the_foundation() -> None:
    frames = [rattled("CH4", 0), rattled("H2O", 1)]
    found = change(MorsePotential(depth=5.0), MorsePotential(depth=4.0), frames)
    assert found["relative"] == pytest.approx(0.25)
    assert found["force_cosine"] == pytest.approx(1.0)
    same = change(MorsePotential(), MorsePotential(), frames)
    assert same["relative"] == 0.0
    assert same["energy"]["max"] == 0.0


def test_changes_of_forces_near_zero_are_measured_against_a_floor() -> None:
    flat, steeper = MorsePotential(depth=1e-4), MorsePotential(depth=2e-4)
    found = change(steeper, flat, [rattled("CH4", 0)])
    assert found["forces_rms"] < SMALLEST_FORCE
    assert 0.0 < found["relative"] < 1.0  # that of the forces themselves is 1
    assert found["relative"] == pytest.approx(found["forces_rms"] / SMALLEST_FORCE)


def test_molecules_elsewhere_have_other_compositions() -> None:
    found = elsewhere([1, 6, 8], ["C2H6O", "CH4"])
    formulas = {atoms.get_chemical_formula() for atoms in found}
    assert len(found) > 10
    assert not formulas & {"C2H6O", "CH4"}
    assert all(set(atoms.numbers) <= {1, 6, 8} for atoms in found)
    assert not formulas & {"O2", "CH3", "HO"}  # open shells


@pytest.mark.usefixtures("drawn")
def test_tables_figures_and_json(tmp_path: Path) -> None:
    potentials = {"foundation": MorsePotential(), "fine-tuned": Hollow(10.0, 4.0)}
    labelled = Curve(
        "labelled", "s", "A", np.arange(3.0), {"foundation": np.arange(3.0)}, np.zeros(3)
    )
    found = Scans(
        ("foundation", "fine-tuned"),
        [*dimers(potentials, [1, 8]), labelled],
        [],
        {"away": change(*potentials.values(), [rattled("H2O", 0)])},
    )
    assert found.verdict().startswith("warning: walls with holes")
    assert {check["potential"] for check in found.holes} == {"fine-tuned"}
    assert len(found.tables()) == 3
    found.write(tmp_path)
    stored = json.loads((tmp_path / "scans.json").read_text())
    assert len(stored["curves"]) == 4
    assert {path.name for path in tmp_path.glob("*.png")} == {"dimer.png", "labelled.png"}


def test_a_cell_of_one_atom_stays_and_has_no_frequencies() -> None:
    potentials = [LennardJonesPotential(depth=depth) for depth in (0.01, 0.02)]
    calculators = dict(zip("ab", map(PotentialCalculator, potentials), strict=True))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = frequencies(calculators, bulk("Ar", "fcc", 5.26), "argon")
    assert found["shift"] is None
    for item in found["potentials"].values():
        assert item == {"relaxed": True, "moved": 0.0, "frequencies": [], "imaginary": 0}
    (table,) = Scans(("a", "b"), [], [found], {}).tables()
    assert list(table.columns[2].cells) == ["–", "–"]


def test_minima_of_different_shape_have_no_shift(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = {"linear": [1.0, 2.0, 3.0, 4.0], "bent": [1.0, 2.0, 3.0]}
    monkeypatch.setattr(
        "finetune.evaluation.frequencies._one",
        lambda calculator, _: {"relaxed": True, "frequencies": shapes[calculator]},
    )
    assert frequencies({name: name for name in shapes}, molecule("CO2"), "CO2")["shift"] is None


@pytest.mark.usefixtures("drawn")
def test_a_new_scan_leaves_nothing_of_an_earlier_one(tmp_path: Path) -> None:
    potentials = {"foundation": MorsePotential()}
    curves = [*dimers(potentials, [1]), *scans(potentials, molecule("CH3OH"), "methanol")]
    Scans(("foundation",), curves, [], {}).write(tmp_path)
    assert (tmp_path / "torsion.png").exists()
    diverged = replace(curves[0], energies={"foundation": np.full_like(curves[0].values, np.nan)})
    forgotten = {"elsewhere": {"structures": 1, "relative": np.nan}}
    Scans(("foundation",), [diverged], [], forgotten).write(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"scans.json", "dimer.png"}
    stored = (tmp_path / "scans.json").read_text()
    assert "NaN" not in stored
    assert json.loads(stored)["forgetting"]["elsewhere"]["relative"] is None


def test_tables_say_what_their_columns_mean() -> None:
    potentials = {"foundation": MorsePotential(), "fine-tuned": MorsePotential(depth=5.0)}
    atoms = molecule("CH3OH")
    found = Scans(
        ("foundation", "fine-tuned"),
        [*dimers(potentials, [1]), *scans(potentials, atoms, "methanol")],
        [],
        {"away": change(*potentials.values(), [atoms])},
    )
    for table in found.tables():
        for column in table.columns[2:]:
            name = str(column.header).split("\n")[0].split(" ")[-1]
            if name != "number":
                assert name in str(table.caption), name
