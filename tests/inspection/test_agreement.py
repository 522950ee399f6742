"""Labels against a foundation: wrong units and signs are named, right labels are let through."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.build import molecule
from safetensors.numpy import load_file
from typer.testing import CliRunner

import finetune
from finetune.commands import app
from finetune.core.errors import DataError
from finetune.core.units import Units
from finetune.data.reading import Reader
from finetune.data.structures import Structure
from finetune.data.writing import write_structures
from finetune.inspection.agreement import check, compared, findings
from finetune.inspection.labels import Read
from finetune.potentials.loading import load_foundation
from finetune.recipe.sections import LabelKeys
from tests.conftest import rattled
from tests.inspection.exact import NAME, exact


@pytest.fixture(scope="module")
def molecules() -> list[Structure]:
    return exact([rattled("CH3OH", seed) for seed in range(12)])


@pytest.fixture(scope="module")
def crystals() -> list[Structure]:
    """Methane in strained cells of about 70 Å³."""
    random, frames = np.random.default_rng(3), []
    for _ in range(10):
        atoms = molecule("CH4", cell=np.eye(3) * 4.1, pbc=True)
        strain = random.normal(0, 0.02, (3, 3))
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + strain + strain.T), scale_atoms=True)
        atoms.positions += random.normal(0, 0.05, atoms.positions.shape)
        frames.append(atoms)
    return exact(frames)


def told(
    structures: Sequence[Structure], read: Read | None = None, refused: Sequence[str] = ()
) -> list[str]:
    _, factors = compared(load_foundation(NAME).potential, [structures], read)
    return check(factors, NAME, read or Read(), refused)


def scaled(
    structures: Sequence[Structure], energy: float = 1.0, forces: float = 1.0, stress: float = 1.0
) -> list[Structure]:
    changed = []
    for item in structures:
        labels: dict[str, Any] = {"energy": (item.energy or 0.0) * energy}
        labels |= {"forces": item.forces * forces if item.forces is not None else None}
        labels |= {"stress": item.stress * stress if item.stress is not None else None}
        changed.append(replace(item, **labels))
    return changed


@pytest.mark.parametrize(
    ("quantity", "unit"),
    [
        *(("energy", unit) for unit in ("Hartree", "Rydberg", "kcal/mol", "kJ/mol", "meV")),
        *(("forces", unit) for unit in ("-eV/Å", "Hartree/Bohr", "-Hartree/Bohr", "Hartree/Å")),
        *(("forces", unit) for unit in ("kcal/mol/Å", "kJ/mol/nm", "meV/Å", "Rydberg/Bohr")),
        *(("stress", unit) for unit in ("-eV/Å³", "GPa", "kbar", "-kbar", "bar", "TPa")),
        *(("stress", unit) for unit in ("Hartree/Bohr³", "-GPa")),
    ],
)
def test_units_and_signs_are_refused_by_name(
    quantity: str, unit: str, molecules: list[Structure], crystals: list[Structure]
) -> None:
    factor = Units(**{quantity: unit}).factors()[quantity]
    right = crystals if quantity == "stress" else molecules
    wrong = scaled(right, **{quantity: 1 / factor})
    with pytest.raises(DataError, match=rf"set data.units.{quantity}={unit}[ .;]"):
        told(wrong, refused=[quantity])
    (warning,) = told(wrong, refused=[])
    assert f"{1 / factor:.4g} times what {NAME} predicts" in warning
    # the other way round: right labels of which the recipe says that they are in the unit
    with pytest.raises(DataError, match="set data.units"):
        told(scaled(right, **{quantity: factor}), Read(Units(**{quantity: unit})), [quantity])


def test_right_labels_are_let_through(
    molecules: list[Structure], crystals: list[Structure]
) -> None:
    quantities = ("energy", "forces", "stress")
    for right in (molecules, crystals):
        assert told(right, refused=quantities) == []
    softened = scaled(crystals, energy=0.7, forces=0.7, stress=0.6)  # as a potential from PBE may
    assert told(softened, refused=quantities) == []
    assert told(scaled(molecules, energy=1.6, forces=1.6), refused=quantities) == []
    moved = [replace(item, energy=(item.energy or 0.0) - 4e4) for item in molecules]
    assert told(moved, refused=quantities) == []
    pressed = [
        replace(i, stress=i.stress + 0.5 * np.eye(3)) for i in crystals if i.stress is not None
    ]
    assert told(pressed, refused=quantities) == []


@pytest.mark.parametrize(
    ("power", "settings"),
    [
        (-1, "data.keys.virial=REF_stress."),
        (1, "data.keys.virial=REF_stress data.units.virial=-eV"),
    ],
)
def test_virials_in_place_of_stress(power: int, settings: str, crystals: list[Structure]) -> None:
    wrong = [
        replace(i, stress=power * abs(np.linalg.det(i.cell)) * i.stress)
        for i in crystals
        if i.stress is not None
    ]
    with pytest.raises(DataError, match=f"set {settings}"):
        told(wrong, refused=["stress"])


def test_stress_in_place_of_virials(crystals: list[Structure]) -> None:
    read = Read(virials="virials")
    turned = scaled(crystals, stress=-1)
    with pytest.raises(DataError, match=r"opposite sign: set data.units.virial=-eV"):
        told(turned, read, ["stress"])
    divided = [
        replace(i, stress=-i.stress / abs(np.linalg.det(i.cell)))
        for i in crystals
        if i.stress is not None
    ]
    with pytest.raises(DataError, match="set data.keys.stress=virials data.keys.virial=null"):
        told(divided, read, ["stress"])


def test_energies_per_atom_and_of_the_other_sign(molecules: list[Structure]) -> None:
    with pytest.raises(DataError, match="nergies change by 0.1667 times .* are per atom"):
        told(scaled(molecules, energy=1 / 6), refused=["energy"])
    with pytest.raises(DataError, match="nergies change by -1 times .* opposite sign"):
        told(scaled(molecules, energy=-1), refused=["energy"])


def test_a_unit_of_energy_keeps_the_unit_of_forces(molecules: list[Structure]) -> None:
    """data.units.energy alone would change it."""
    with pytest.raises(DataError, match="data.units.energy=Hartree data.units.forces=eV/Å"):
        told(scaled(molecules, energy=1 / 27.211386), refused=["energy"])
    both = scaled(molecules, energy=1 / 27.211386, forces=1 / 51.422067)
    with pytest.raises(DataError, match="data.units.energy=Hartree data.units.forces=Hartree/Bohr"):
        told(both, refused=["energy", "forces"])


def test_one_file_of_several_is_named(molecules: list[Structure]) -> None:
    wrong = [
        replace(item, where=item.where.replace("made", "other"))
        for item in scaled(molecules[:4], forces=-1)
    ]
    with pytest.raises(DataError, match="-1 times .* 4 structures of 'other.xyz'"):
        told([*molecules, *wrong], refused=["forces"])


def test_structures_far_from_the_others_are_counted(molecules: list[Structure]) -> None:
    wrong = [*scaled(molecules[:4], forces=-1), *molecules[4:]]
    (warning,) = told(wrong)
    assert "but 4 of them by far others or of other sign" in warning


def test_small_forces_of_minima_are_not_warned_of(molecules: list[Structure]) -> None:
    random = np.random.default_rng(1)
    minima = [replace(i, energy=None, forces=random.normal(0, 5e-3, (6, 3))) for i in molecules]
    assert told(minima) == []
    large = [replace(i, forces=1e6 * i.forces) for i in minima if i.forces is not None]
    assert "not about 1" in told(large)[0]


def test_advice_depends_on_how_the_files_state_their_units(molecules: list[Structure]) -> None:
    wrong = scaled(molecules, forces=1 / Units(forces="Hartree/Bohr").factors()["forces"])
    assert "(where the file itself states its units, correct those)" in told(wrong)[0]
    assert (
        "convert the file again with --units forces=Hartree/Bohr"
        in told(wrong, Read(stored=True))[0]
    )
    (warning,) = told(wrong, Read(differing=frozenset({"forces"})), ["forces"])
    assert "not about 1; sources are read in different units: are those right?" in warning
    assert "Hartree" not in warning


def test_units_that_differ_between_sources_are_noticed(
    molecules: list[Structure], tmp_path: Path
) -> None:
    write_structures(tmp_path / "a.xyz", molecules[:2])
    text = (tmp_path / "a.xyz").read_text().replace("REF_energy", "forces-unit=meV/Å REF_energy")
    (tmp_path / "b.xyz").write_text(text)
    reader = Reader()
    reader.read([tmp_path / "a.xyz", tmp_path / "b.xyz"])
    assert Read.by(reader).differing == {"forces"}


def test_few_or_scattered_labels_are_not_judged(molecules: list[Structure]) -> None:
    random = np.random.default_rng(0)
    noise = [
        replace(i, forces=random.normal(size=(6, 3)), energy=random.normal()) for i in molecules
    ]
    assert told(noise, refused=["energy", "forces"]) == []
    two = scaled(molecules[:2], energy=-1, forces=-1)
    assert told(two, refused=["energy", "forces"]) == []
    _, found = compared(load_foundation(NAME).potential, [two])
    assert [item.level for item in findings(found, NAME)] == ["note"]
    one_far = [replace(molecules[0], forces=-1e4 * np.ones((6, 3))), *molecules[1:]]
    assert told(one_far, refused=["forces"]) == []


def test_a_factor_that_is_near_to_1_must_be_met_exactly(molecules: list[Structure]) -> None:
    half = scaled(molecules, forces=0.529177)
    with pytest.raises(DataError, match="set data.units.forces=eV/Bohr"):
        told(half, refused=["forces"])
    random = np.random.default_rng(0)
    other = [
        replace(i, forces=i.forces + random.normal(0, 0.3, i.forces.shape))
        for i in half
        if i.forces is not None
    ]
    assert told(other, refused=["forces"]) == []


@pytest.mark.parametrize("name", [NAME, "tiny-xtb-hcno-direct"])
def test_foundations_with_and_without_a_head_for_forces(
    name: str, molecules: list[Structure]
) -> None:
    _, found = compared(load_foundation(name).potential, [scaled(molecules, forces=-1)])
    factors = {factor.quantity: factor for _, factor in found}
    assert factors["forces"].certain and factors["energy"].right
    assert factors["forces"].value == pytest.approx(-1, abs=0.2)


def recipe(path: Path, folder: Path, **data: Any) -> dict[str, Any]:
    losses = {name: {"weight": 1} for name in ("energy", "forces", "stress")}
    return {
        "foundation": NAME,
        "data": {"train": str(path), "valid": 0.3, **data},
        "losses": losses,
        "adapter": {"kind": "readout"},
        "train": {"epochs": 1, "device": "cpu"},
        "output": str(folder),
    }


def test_a_run_is_refused_unless_the_recipe_says_otherwise(
    crystals: list[Structure], tmp_path: Path
) -> None:
    path = tmp_path / "kbar.xyz"
    write_structures(path, scaled(crystals, stress=-1602.1766))
    with pytest.raises(DataError, match="-1602 times .* set data.units.stress=-kbar"):
        finetune.run(recipe(path, tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    notes = finetune.validate(recipe(path, tmp_path / "run", check="warn")).notes
    assert any("-1602 times" in note for note in notes)
    mended = finetune.validate(recipe(path, tmp_path / "run", units={"stress": "-kbar"}))
    assert not any("times" in note for note in mended.notes)
    shown = CliRunner().invoke(app, ["data", "inspect", str(path), "--foundation", NAME])
    assert shown.exit_code == 0 and "set data.units.stress=-kbar" in shown.output
    assert "forces are 1 times what" in shown.output


@pytest.mark.slow
def test_declared_units_give_the_same_labels_and_weights(
    crystals: list[Structure], tmp_path: Path
) -> None:
    weights = []
    units = {"energy": "kcal/mol", "forces": "-Hartree/Bohr", "stress": "-kbar"}
    factors = Units(**units).factors()
    for name, given in (("right", {}), ("declared", units)):
        share = {key: 1 / factors[key] for key in given}
        path = tmp_path / f"{name}.h5"
        write_structures(path.with_suffix(".xyz"), scaled(crystals, **share))
        path = path.with_suffix(".xyz")
        (first, *_) = Reader(LabelKeys(), Units(**given)).read(path)
        assert first.energy == pytest.approx(crystals[0].energy, rel=1e-9)
        np.testing.assert_allclose(first.forces, crystals[0].forces, atol=2e-7)
        np.testing.assert_allclose(first.stress, crystals[0].stress, rtol=1e-6, atol=1e-12)
        result = finetune.run(recipe(path, tmp_path / name, units=given, seed=1))
        weights.append(load_file(result.folder / "model" / "model.safetensors"))
    for key, value in weights[0].items():
        np.testing.assert_allclose(weights[1][key], value, rtol=1e-3, atol=1e-5)
