"""Calculators on a potential with a head for forces: those of the head, or −dE/dr."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

import finetune
from finetune.core.errors import FoundationError, RecipeError
from finetune.export.calculator import CommitteeCalculator, PotentialCalculator
from finetune.export.formats import export
from finetune.export.switching import AdaptedFoundation
from finetune.potentials.committee import CommitteePotential
from finetune.potentials.description import describe
from finetune.potentials.direct.potential import DirectPotential
from finetune.potentials.storage import save
from finetune.testing import small_potential
from tests.potentials.test_direct import on


@pytest.fixture(scope="module")
def direct() -> DirectPotential:
    return on(small_potential())


def forces(calculator: PotentialCalculator, atoms: Atoms) -> Any:
    atoms = atoms.copy()
    atoms.calc = calculator
    return atoms.get_forces()


def test_forces_of_the_head_or_the_gradient(direct: DirectPotential, tmp_path: Path) -> None:
    atoms = molecule("CH3OH")
    plain = forces(PotentialCalculator(direct.base), atoms)
    save(direct, tmp_path / "model", {})
    head = finetune.load_calculator(tmp_path / "model", "cpu")
    gradient = finetune.load_calculator(tmp_path / "model", "cpu", forces="gradient")
    assert (head.forces, gradient.forces) == ("head", "gradient")
    assert np.abs(forces(head, atoms) - plain).max() > 1e-3
    np.testing.assert_allclose(forces(gradient, atoms), plain, atol=1e-12)
    many = gradient.calculate_many([atoms, atoms])
    np.testing.assert_allclose(many[1]["forces"], plain, atol=1e-9)


def test_stress_of_a_crystal_only_where_asked_for(direct: DirectPotential) -> None:
    crystal = bulk("C", "diamond", 3.5)
    crystal.calc = PotentialCalculator(direct, forces="head")
    crystal.get_forces()
    assert "stress" not in crystal.calc.results
    expected = crystal.copy()
    expected.calc = PotentialCalculator(direct.base)
    np.testing.assert_allclose(crystal.get_stress(), expected.get_stress(), atol=1e-12)
    assert crystal.get_stress().any()


def test_a_committee(direct: DirectPotential) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        other = DirectPotential(small_potential(seed=1), channels=4).eval()
    atoms = molecule("NH3")
    committee = CommitteePotential([direct, other])
    for kind in ("head", "gradient", None):
        found = CommitteeCalculator(committee, forces=kind)
        own = [forces(PotentialCalculator(item, forces=kind), atoms) for item in (direct, other)]
        np.testing.assert_allclose(forces(found, atoms), np.mean(own, axis=0), atol=1e-12)
        np.testing.assert_allclose(found.results["forces_comm"], own, atol=1e-12)


def test_a_potential_without_a_head(direct: DirectPotential) -> None:
    atoms = molecule("NH3")
    plain, gradient = (PotentialCalculator(direct.base, forces=kind) for kind in (None, "gradient"))
    assert np.array_equal(forces(plain, atoms), forces(gradient, atoms))
    with pytest.raises(RecipeError, match="no head for forces"):
        PotentialCalculator(direct.base, forces="head")
    with pytest.raises(RecipeError, match="'both'; choose head or gradient"):
        PotentialCalculator(direct, forces="both")  # type: ignore[arg-type]


def test_what_is_said_of_it_and_how_it_is_shared(direct: DirectPotential, tmp_path: Path) -> None:
    save(direct, tmp_path / "model", {"family": "direct"})
    rows = dict(describe(str(tmp_path / "model")))
    assert rows["forces"].startswith("predicted by a head (direct)")
    for format in (None, "mace"):
        with pytest.raises(FoundationError, match="no format of other programs.*--format bundle"):
            export(tmp_path / "model", tmp_path / "file.model", format)
    export(tmp_path / "model", tmp_path / "bundle", "bundle")
    card = (tmp_path / "bundle" / "README.md").read_text(encoding="utf-8")
    assert "- forces: predicted by a head (direct)" in card
    atoms = molecule("NH3")
    opened = finetune.load_calculator(tmp_path / "bundle", "cpu")
    assert np.array_equal(forces(opened, atoms), forces(PotentialCalculator(direct), atoms))


def test_switched_adapters_take_them_too(direct: DirectPotential, tmp_path: Path) -> None:
    save(direct, tmp_path / "model", {})
    foundation = AdaptedFoundation(tmp_path / "model", device="cpu")
    atoms = molecule("NH3")
    for kind in ("head", "gradient"):
        expected = forces(PotentialCalculator(direct, forces=kind), atoms)
        found = forces(foundation.calculator(forces=kind), atoms)
        np.testing.assert_allclose(found, expected, atol=1e-12)
