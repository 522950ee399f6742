"""Errors of every quantity: of all structures, of an element, of a subset, of each structure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from finetune.potentials.errors import Array, Indices, LabelledPredictions

SMALLEST_FORCE = 0.01
"""eV/Å; a labelled force below it has no direction worth comparing."""
QUANTITIES = {
    "energy": ("energy", "meV"),
    "energy_shifted": ("energy, mean error removed", "meV"),
    "energy_per_atom": ("energy per atom", "meV/atom"),
    "forces": ("force components", "meV/Å"),
    "gradient_forces": ("force components (−dE/dr)", "meV/Å"),
    "forces_consistency": ("force components, head against −dE/dr", "meV/Å"),
    "force_norms": ("force norms", "meV/Å"),
    "stress": ("stress components", "meV/Å³"),
}
"""Name, title, and unit of what tables show (a thousandth of the statistics' own)."""
OF_HEAD = {
    name: (f"{QUANTITIES[name][0]} (head)", QUANTITIES[name][1])
    for name in ("forces", "force_norms")
}
"""Other titles where a head predicts the forces."""


@dataclass(frozen=True)
class Statistics:
    """Errors of one quantity; in eV and Å."""

    count: int
    mae: float
    rmse: float
    max: float
    r2: float | None  # 1 − Σ(prediction − label)² / Σ(label − mean)²; None for equal labels


@dataclass(frozen=True)
class Measured:
    """Errors of one potential on some structures or atoms.

    Energies are those of whole structures; ``energy_shifted`` has the mean error over the
    structures removed; ``force_norms`` compares lengths of force vectors. Where a head predicts the
    forces, ``gradient_forces`` are the errors of −dE/dr, and ``forces_consistency`` compares the
    head's with −dE/dr on all atoms.
    """

    statistics: dict[str, Statistics]  # by quantity, see `QUANTITIES`; only those with labels
    force_cosine: float | None  # mean over atoms with a labelled force above `SMALLEST_FORCE`

    def as_dict(self) -> dict[str, object]:
        """Return the statistics by quantity, ready for JSON."""
        found: dict[str, object] = {name: asdict(item) for name, item in self.statistics.items()}
        return {**found, "force_cosine": self.force_cosine}


def quantities(measured: Iterable[Measured]) -> dict[str, tuple[str, str]]:
    """Return `QUANTITIES` as tables of these potentials call them."""
    head = any("forces_consistency" in item.statistics for item in measured)
    return {**QUANTITIES, **OF_HEAD} if head else QUANTITIES


@np.errstate(invalid="ignore", over="ignore")
def statistics(predicted: Array, labelled: Array) -> Statistics | None:
    """Compare predictions with labels of the same shape; None if there are none."""
    if labelled.size == 0:
        return None
    error = predicted - labelled
    differ = bool(np.ptp(labelled))  # of equal labels the mean may be off by a rounding
    spread = float(np.square(labelled - labelled.mean()).sum())
    return Statistics(
        count=labelled.size,
        mae=float(np.abs(error).mean()),
        rmse=float(np.sqrt(np.square(error).mean())),
        max=float(np.abs(error).max()),
        r2=1.0 - float(np.square(error).sum()) / spread if differ else None,
    )


@np.errstate(invalid="ignore", over="ignore")
def measure(predictions: LabelledPredictions) -> Measured:
    """Reduce predictions to statistics of every quantity that has labels."""
    energy, labelled = predictions.energy
    shift = (energy - labelled).mean() if energy.size else 0.0
    vectors = predictions.forces.reshape(2, -1, 3)
    norms = np.linalg.norm(vectors, axis=2)
    found = {
        "energy": statistics(energy, labelled),
        "energy_shifted": statistics(energy - shift, labelled),
        "energy_per_atom": statistics(energy / predictions.atoms, labelled / predictions.atoms),
        "forces": statistics(*predictions.forces),
        "gradient_forces": statistics(*predictions.gradient_forces),
        "forces_consistency": statistics(*predictions.consistency),
        "force_norms": statistics(*norms),
        "stress": statistics(*predictions.stress),
    }
    return Measured(
        statistics={name: item for name, item in found.items() if item is not None},
        force_cosine=_cosine(vectors, norms),
    )


def by_element(predictions: LabelledPredictions) -> dict[int, Measured]:
    """Measure the forces on the atoms of each element: atomic number -> statistics."""
    return {
        int(number): measure(_atoms(predictions, predictions.numbers == number))
        for number in np.unique(predictions.numbers)
    }


def by_subset(predictions: LabelledPredictions, subsets: list[str]) -> dict[str, Measured]:
    """Measure each subset of the structures; ``subsets`` names that of each structure."""
    names = np.array(subsets)
    return {
        str(name): measure(_structures(predictions, names == name))
        for name in dict.fromkeys(subsets)
    }


def energy_errors(predictions: LabelledPredictions, structures: int) -> Array:
    """Return the error of each structure's energy ``[structures]``, eV; NaN without a label."""
    found = np.full(structures, np.nan)
    found[predictions.energy_of] = predictions.energy[0] - predictions.energy[1]
    return found


def force_errors(predictions: LabelledPredictions, structures: int) -> tuple[Array, Array]:
    """Return RMSE and largest error of each structure's forces, eV/Å; NaN without labels."""
    return differences(predictions.forces, predictions.forces_of, structures)


def differences(pairs: Array, owner: Indices, structures: int) -> tuple[Array, Array]:
    """Return RMS and largest difference of two sets of forces ``[2, 3m]`` by structure, eV/Å.

    ``owner`` is the structure of each atom ``[m]``; NaN where a structure has no forces.
    """
    error = np.abs(pairs[0] - pairs[1]).reshape(-1, 3)
    count = np.bincount(owner, minlength=structures)
    square = np.bincount(owner, np.square(error).mean(axis=1), structures)
    largest = np.zeros(structures)
    np.maximum.at(largest, owner, error.max(axis=1, initial=0.0))
    with np.errstate(invalid="ignore"):
        rmse = np.sqrt(square / count)
    return rmse, np.where(count > 0, largest, np.nan)


def _cosine(vectors: Array, norms: Array) -> float | None:
    directed = norms[1] >= SMALLEST_FORCE
    if not directed.any():
        return None
    product = (vectors[0] * vectors[1]).sum(axis=1)[directed]
    length = np.maximum(norms.prod(axis=0)[directed], np.finfo(float).tiny)
    return float((product / length).mean())


def _atoms(predictions: LabelledPredictions, chosen: NDArray[np.bool_]) -> LabelledPredictions:
    return LabelledPredictions(
        forces=_vectors(predictions.forces, chosen),
        gradient_forces=_vectors(predictions.gradient_forces, chosen),
    )


def _vectors(components: Array, chosen: NDArray[np.bool_]) -> Array:
    """Return the components of the chosen atoms, if there are any."""
    if not components.size:
        return components
    return components.reshape(2, -1, 3)[:, chosen].reshape(2, -1)


def _structures(predictions: LabelledPredictions, chosen: NDArray[np.bool_]) -> LabelledPredictions:
    energies, stresses = chosen[predictions.energy_of], chosen[predictions.stress_of]
    return replace(
        _atoms(predictions, chosen[predictions.forces_of]),
        energy=predictions.energy[:, energies],
        atoms=predictions.atoms[energies],
        consistency=_vectors(predictions.consistency, chosen[predictions.consistency_of]),
        stress=predictions.stress.reshape(2, -1, 9)[:, stresses].reshape(2, -1),
    )
