"""Distributions of distances, and how far apart two of them are."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from finetune.evaluation.distances import (
    at_temperature,
    bond_distances,
    distribution,
    distribution_distance,
    find_bonds,
)
from tests.evaluation.test_stability import water


def test_distances_of_distributions() -> None:
    random = np.random.default_rng(0)
    frames = [Atoms("HH", [[0, 0, 0], [d, 0, 0]]) for d in random.normal(1.0, 0.05, 200)]
    shifted = [Atoms("HH", [[0, 0, 0], [a.positions[1, 0] + 0.03, 0, 0]]) for a in frames]
    far = [Atoms("HH", [[0, 0, 0], [4.0, 0, 0]])] * 20
    centres, density = distribution(frames)
    assert density.sum() * (centres[1] - centres[0]) == pytest.approx(1.0)
    assert distribution_distance(frames, frames) == 0.0
    assert distribution_distance(frames, far) == pytest.approx(2.0)
    bonds = find_bonds(Atoms("HH", [[0, 0, 0], [0.7, 0, 0]]))
    assert bond_distances(bonds, shifted, frames) == {"H-H": pytest.approx(0.03)}
    assert distribution_distance(frames[:5], frames) is None
    assert bond_distances(bonds, frames[:5], frames) == {}


def test_the_radial_distribution_of_an_ideal_gas_is_one() -> None:
    random = np.random.default_rng(0)
    gas = [
        Atoms("Ar40", random.uniform(0, 10, (40, 3)), cell=[10, 10, 10], pbc=True) for _ in range(4)
    ]
    centres, found = distribution(gas)
    assert found[centres > 2.0].mean() == pytest.approx(39 / 40, abs=0.05)
    crystal = [bulk("Cu", "fcc", 3.6)] * 10
    centres, found = distribution(crystal)
    peak = centres[np.flatnonzero(found)[0]]
    assert peak == pytest.approx(3.6 / 2**0.5, abs=0.05)
    assert distribution_distance(crystal, crystal) == 0.0


def test_reference_frames_of_the_temperature_are_taken() -> None:
    cold, hot, plain = water(), water(), water()
    cold.info["temperature"], hot.info["temperature"] = 300.0, 600.0
    assert at_temperature([cold, hot, plain], 600.0) == [hot]
    assert at_temperature([plain, plain], 600.0) == [plain, plain]
    assert at_temperature([cold], 600.0) == []
