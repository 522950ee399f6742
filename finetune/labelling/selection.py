"""Which unlabelled structures to label next."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from finetune.core.errors import DataError
from finetune.data.distances import farthest
from finetune.data.duplicates import clusters
from finetune.data.graphs import batches, graph
from finetune.data.structures import Structure
from finetune.potentials.committee import CommitteePotential
from finetune.potentials.potential import Potential

Array = NDArray[np.float64]
BATCH = 16
LEAST_DISAGREEMENT = 1e-8
"""eV/Å; below it members of a committee differ by rounding."""


def farthest_points(
    potential: Potential, pool: Sequence[Structure], count: int, labelled: Sequence[Structure] = ()
) -> tuple[list[int], list[float]]:
    """Choose structures that are far from each other, and from those that have labels.

    Each next one is the farthest from all before, measured by `fingerprints`. Returns indices into
    the pool in the order chosen, and the distance of each from those before. Raises DataError if
    the pool has fewer structures, FoundationError for an unknown element.
    """
    _check(pool, count)
    features = fingerprints(potential, [*pool, *labelled])
    features = features / max(float(features.std(axis=0).max()), 1e-12)
    return farthest(features[: len(pool)], count, features[len(pool) :])


def fingerprints(potential: Potential, structures: Sequence[Structure]) -> Array:
    """Return, for each structure, sums of descriptors by element over the number of atoms."""
    rows = []
    graphs = (graph(item, potential.cutoff) for item in structures)
    for batch in batches(list(graphs), BATCH):
        batch = batch.to(potential.device, potential.dtype)
        descriptors = potential.descriptors(batch)
        elements = potential.element_index(batch.numbers)
        element = torch.nn.functional.one_hot(elements, len(potential.elements))
        by_element = element.to(descriptors.dtype)[:, :, None] * descriptors[:, None, :]
        means = batch.sum_atoms(by_element.flatten(1)) / batch.atoms[:, None]
        rows.append(means.double().cpu().numpy())
    return np.concatenate(rows)


def disagreement(
    committee: Sequence[Potential], pool: Sequence[Structure], count: int
) -> tuple[list[int], list[float]]:
    """Choose the structures that the members of a committee disagree on most.

    A `CommitteePotential` stands for its members. Disagreement is the largest standard deviation of
    the force on an atom, eV/Å. Of equal structures one is chosen. Returns indices into the pool in
    the order of decreasing disagreement, and their disagreement. Raises DataError if the pool has
    fewer structures or the committee one member, FoundationError for an unknown element.
    """
    _check(pool, count)
    committee = [
        member
        for item in committee
        for member in (item.predicting if isinstance(item, CommitteePotential) else [item])
    ]
    if len(committee) < 2:
        raise DataError("a committee has at least two members: name several run folders.")
    scores: list[float] = []
    cutoff = max(potential.cutoff for potential in committee)
    for start in range(0, len(pool), BATCH):
        graphs = [graph(item, cutoff) for item in pool[start : start + BATCH]]
        for batch in batches(graphs, BATCH):
            forces = [
                item(batch.to(item.device, item.dtype)).forces.detach().double().cpu()
                for item in committee
            ]
            deviation = torch.stack(forces).std(dim=0, unbiased=False).norm(dim=1)
            scores += [float(deviation[batch.structure == i].max()) for i in range(len(batch))]
    if max(scores) < LEAST_DISAGREEMENT:
        raise DataError(
            f"the members of the committee agree on every force within {max(scores):.0e} eV/Å: "
            "they are the same potential. Did they all keep the foundation's weights? See the "
            "warnings of their runs."
        )
    groups = clusters(pool)
    first: dict[int, int] = {}
    for index in np.argsort(-np.array(scores), kind="stable").tolist():
        first.setdefault(int(groups[index]), index)
    chosen = list(first.values())[:count]
    return chosen, [scores[index] for index in chosen]


def _check(pool: Sequence[Structure], count: int) -> None:
    if not 1 <= count <= len(pool):
        raise DataError(
            f"{count} structures cannot be chosen out of {len(pool)}. Choose from 1 to {len(pool)}."
        )
