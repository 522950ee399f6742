"""The training domain of a potential: a few hundred descriptors of atoms, and distances to them.

A distance is that between descriptors of atoms of the same element, to the nearest that is kept. It
is divided by the usual one of that element and by the distance at which a structure counts as far,
both taken from the validation set, so that 1 is the limit for every potential.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from ase.data import atomic_numbers, chemical_symbols
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_tensors

from finetune.core.errors import FoundationError
from finetune.core.files import write_atomically
from finetune.data.distances import farthest
from finetune.data.graphs import GraphBatch, concatenate
from finetune.potentials.potential import Potential

Array = NDArray[np.float64]
S = TypeVar("S", bound=np.generic)
FORMAT = "piwsl-finetune/training-set/1"
FILE = "training-set.safetensors"
POINTS = 200  # descriptors kept of each element
STRUCTURES, ATOMS = 1000, 10_000
"""Structures, and atoms of each element, from which they are chosen."""
USUAL, FAR = 0.95, 0.99
"""Quantiles: of the distances of validation atoms, and of the farthest atoms of structures."""
SLACK = 1.001  # factor on the limit, for rounding
BATCH = 16


class FarFromTrainingWarning(UserWarning):
    """A structure has atoms unlike any that the potential was trained on."""


@dataclass(frozen=True)
class Domain:
    """The training set of a potential by the descriptors of its atoms."""

    points: Mapping[int, Array]  # atomic number -> descriptors [k, feature_size], far apart
    usual: Mapping[int, float]  # atomic number -> distance that most validation atoms stay below
    limit: float  # usual distances at which an atom makes its structure far

    def distances(self, numbers: NDArray[np.int64], descriptors: Array) -> Array:
        """Return distances of the atoms ``[N]``, 1 at the limit; infinite for untrained elements.

        ``descriptors`` ``[N, feature_size]`` are those of the same potential.
        """
        found = np.full(len(numbers), np.inf)
        for number, points in self.points.items():
            chosen = numbers == number
            if chosen.any():
                found[chosen] = _nearest(descriptors[chosen], points) / self.usual[number]
        return found / self.limit


def summarise(
    potential: Potential, train: Sequence[GraphBatch], valid: Sequence[GraphBatch]
) -> Domain:
    """Choose atoms of the training set that are far from each other, and what counts as far.

    Of more than 1,000 training structures, as many are used, evenly spaced. Raises FoundationError
    if the potential has no descriptors.
    """
    points = {}
    for number, rows in _by_element(list(_described(potential, train))).items():
        candidates = _spaced(rows, ATOMS)
        points[number] = candidates[farthest(candidates, POINTS)[0]]
    structures = list(_described(potential, valid))
    usual = {
        number: float(np.quantile(_nearest(rows, points[number]), USUAL))
        for number, rows in _by_element(structures).items()
        if number in points
    }
    for number, rows in points.items():
        usual.setdefault(number, _between(rows))
    least = min((value for value in usual.values() if value > 0), default=1.0)
    usual = {number: value or least for number, value in usual.items()}
    domain = Domain(points, usual, 1.0)
    scores = [domain.distances(*item) for item in structures]
    largest = [values[np.isfinite(values)].max(initial=0.0) for values in scores]
    limit = float(np.quantile(largest, FAR, method="higher")) if largest else 1.0
    return Domain(points, usual, max(limit, 1.0) * SLACK)


def distances(domain: Domain, potential: Potential, batch: GraphBatch) -> Array:
    """Return the distance of each atom of a batch ``[N]``, 1 at the limit."""
    return domain.distances(batch.numbers.cpu().numpy(), _rows(potential, batch))


def write(domain: Domain, folder: Path, fingerprint: str) -> None:
    """Write a summary next to the potential of this fingerprint."""
    tensors = {}
    for number, rows in domain.points.items():
        symbol = chemical_symbols[number]
        tensors[f"{symbol}.points"] = torch.tensor(rows, dtype=torch.float32)
        tensors[f"{symbol}.usual"] = torch.tensor([domain.usual[number]], dtype=torch.float64)
    facts = {"format": FORMAT, "limit": repr(domain.limit), "fingerprint": fingerprint}
    write_atomically(folder / FILE, save_tensors(tensors, facts))


def read(folder: Path, fingerprint: str) -> Domain:
    """Read what `write` wrote; refuse what is missing, damaged or of another potential."""
    path = folder / FILE
    if not path.is_file():
        raise FoundationError(
            f"'{folder}' contains no summary of a training set ('{FILE}'). Runs write one next to "
            "their potential; earlier releases, foundations and files of other programs have none. "
            "Leave out warn_far."
        )
    try:
        with safe_open(path, framework="pt") as file:
            facts, names = file.metadata() or {}, file.keys()
            tensors = {name: file.get_tensor(name).double().numpy() for name in names}
        if facts.get("format") != FORMAT:
            raise ValueError(f"its format is {facts.get('format')}, not {FORMAT}")
        symbols = sorted({name.partition(".")[0] for name in tensors})
        found = Domain(
            {atomic_numbers[symbol]: tensors[f"{symbol}.points"] for symbol in symbols},
            {atomic_numbers[symbol]: float(tensors[f"{symbol}.usual"][0]) for symbol in symbols},
            float(facts["limit"]),
        )
    except (OSError, SafetensorError, KeyError, IndexError, ValueError) as error:
        raise FoundationError(f"'{path}' cannot be read: {error}. Get a fresh copy.") from error
    if facts.get("fingerprint") != fingerprint:
        raise FoundationError(
            f"'{path}' belongs to another potential than the one in its folder. Get a fresh "
            "copy of the folder."
        )
    return found


def _described(
    potential: Potential, graphs: Sequence[GraphBatch]
) -> Iterator[tuple[NDArray[np.int64], Array]]:
    """Yield atomic numbers and descriptors of the structures, or of some of many."""
    places = _spaced(np.arange(len(graphs)), STRUCTURES).tolist()
    for start in range(0, len(places), BATCH):
        batch = concatenate([graphs[place] for place in places[start : start + BATCH]])
        numbers, rows = batch.numbers.numpy(), _rows(potential, batch)
        for index in range(len(batch)):
            own = (batch.structure == index).numpy()
            yield numbers[own], rows[own]


def _rows(potential: Potential, batch: GraphBatch) -> Array:
    moved = batch.to(potential.device, potential.dtype)
    found: Array = potential.descriptors(moved).double().cpu().numpy()
    return found


def _by_element(structures: Sequence[tuple[NDArray[np.int64], Array]]) -> dict[int, Array]:
    if not structures:
        return {}
    numbers, rows = (np.concatenate(column) for column in zip(*structures, strict=True))
    return {int(number): rows[numbers == number] for number in np.unique(numbers)}


def _spaced(rows: NDArray[S], count: int) -> NDArray[S]:
    return rows if len(rows) <= count else rows[np.linspace(0, len(rows) - 1, count).astype(int)]


def _nearest(rows: Array, points: Array) -> Array:
    found = torch.cdist(torch.from_numpy(rows), torch.from_numpy(points)).min(dim=1).values
    return np.asarray(found.numpy(), dtype=np.float64)


def _between(points: Array) -> float:
    """Return the usual distance of a point to the nearest other one; 0 for a single point."""
    if len(points) < 2:
        return 0.0
    apart = torch.cdist(torch.from_numpy(points), torch.from_numpy(points))
    apart.fill_diagonal_(torch.inf)
    return float(np.quantile(apart.min(dim=1).values.numpy(), USUAL))
