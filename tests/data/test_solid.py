"""The shipped labels of a solid: r2SCAN energies, forces and stress of silicon carbide."""

import json
from pathlib import Path

import numpy as np
import pytest

from finetune.core.resources import shipped
from finetune.data.duplicates import clusters
from finetune.data.reading import read_structures
from finetune.data.structures import Structure

FOLDER = Path("data/sic")


@pytest.fixture(scope="module")
def splits() -> dict[str, list[Structure]]:
    return {name: list(read_structures(FOLDER / f"{name}.xyz")) for name in ("train", "test")}


@pytest.fixture(scope="module")
def provenance() -> dict:
    return json.loads((shipped() / FOLDER / "provenance.json").read_text())


def test_counts_are_those_of_the_provenance(
    splits: dict[str, list[Structure]], provenance: dict
) -> None:
    assert {name: len(items) for name, items in splits.items()} == provenance["counts"]
    assert sum(provenance["counts"].values()) >= 45


def test_every_structure_has_all_labels(splits: dict[str, list[Structure]]) -> None:
    for item in splits["train"] + splits["test"]:
        assert item.pbc.all()
        assert sorted(item.numbers) == [6] * 4 + [14] * 4
        assert item.energy is not None
        assert item.forces is not None
        assert item.stress is not None
        np.testing.assert_allclose(item.forces.sum(0), 0.0, atol=0.02)
        np.testing.assert_allclose(item.stress, item.stress.T)


def test_splits_share_no_structure(splits: dict[str, list[Structure]]) -> None:
    groups = clusters(splits["train"] + splits["test"])
    assert len(set(groups)) == len(groups)


def test_stress_of_the_perfect_crystals_is_the_slope_of_their_energy(
    splits: dict[str, list[Structure]],
) -> None:
    """The mean normal stress is dE/dV (eV/Å³) in ASE's sign: negative where compressed."""
    perfect = [s for s in splits["train"] if s.forces is not None and abs(s.forces).max() < 1e-3]
    volumes = np.array([abs(np.linalg.det(item.cell)) for item in perfect])
    energies = np.array([item.energy for item in perfect])
    traces = np.array([np.trace(item.stress) / 3 for item in perfect if item.stress is not None])
    assert len(perfect) == 4
    assert (np.diff(traces[np.argsort(volumes)]) > 0).all()
    slope = np.polynomial.Polynomial.fit(volumes, energies, 3).deriv()(volumes)
    np.testing.assert_allclose(traces[1:-1], slope[1:-1], atol=0.004)


def test_differences_agree_with_forces_and_stress(provenance: dict) -> None:
    found = provenance["checks"]["central_differences"]
    for quantity, unit, tolerance in (
        ("force", "ev_per_angstrom", 0.005),
        ("stress", "ev_per_cubic_angstrom", 0.003),
    ):
        analytic = found[f"{quantity}_analytic_{unit}"]
        assert analytic == pytest.approx(found[f"{quantity}_difference_{unit}"], abs=tolerance)
