"""The summary of a training set against distances by hand, with descriptors that are positions."""

from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms

from finetune.core.errors import FoundationError
from finetune.data.graphs import GraphBatch, concatenate, graph
from finetune.potentials import domain
from finetune.testing import HarmonicPotential
from tests.conftest import structure


class Placed(HarmonicPotential):
    """A potential whose descriptors are the positions."""

    def descriptors(self, batch: GraphBatch) -> torch.Tensor:
        return batch.positions


def pair(oxygen: tuple[float, float, float], hydrogen: tuple[float, float, float]) -> GraphBatch:
    return graph(structure(Atoms("OH", positions=[oxygen, hydrogen])), 1.0)


@pytest.fixture
def found() -> domain.Domain:
    train = [pair((place, 0, 0), (10 + place, 0, 0)) for place in (0, 1, 2)]
    valid = [pair((0.1, 0, 0), (10, 0.2, 0)), pair((2.3, 0, 0), (12, 0.4, 0))]
    return domain.summarise(Placed(), train, valid)


def test_distances_are_to_the_nearest_atom_of_the_element(found: domain.Domain) -> None:
    assert {n: sorted(rows[:, 0]) for n, rows in found.points.items()} == {
        8: [0, 1, 2],
        1: [10, 11, 12],
    }
    assert found.usual == {8: pytest.approx(0.29), 1: pytest.approx(0.39)}  # quantile 0.95
    limit = 0.3 / 0.29 * 1.001  # of the farther validation structure
    assert found.limit == pytest.approx(limit)
    batch = concatenate([pair((10, 0, 0), (11, 3, 0)), graph(structure(Atoms("C")), 1.0)])
    expected = [8 / 0.29 / limit, 3 / 0.39 / limit, np.inf]
    np.testing.assert_allclose(domain.distances(found, Placed(), batch), expected)


def test_a_summary_is_read_as_it_was_written(found: domain.Domain, tmp_path: Path) -> None:
    domain.write(found, tmp_path, "mine")
    again = domain.read(tmp_path, "mine")
    assert (again.usual, again.limit) == (found.usual, found.limit)
    for number, points in found.points.items():
        np.testing.assert_array_equal(again.points[number], points)
    with pytest.raises(FoundationError, match="belongs to another potential"):
        domain.read(tmp_path, "other")


def test_many_atoms_are_thinned_to_those_far_apart() -> None:
    places = np.random.default_rng(0).uniform(0, 1, (300, 3))
    train = [graph(structure(Atoms("H", positions=[place])), 1.0) for place in places]
    found = domain.summarise(Placed(), train, train[:5])
    points = found.points[1]
    assert len(points) == domain.POINTS
    nearest = np.linalg.norm(places[:, None] - points[None], axis=2).min(axis=1)
    apart = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(apart, np.inf)
    assert nearest.max() <= apart.min()  # what is left out is nearer than what is kept is apart
