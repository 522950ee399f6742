"""Move reference energies to the level of theory of the labels.

Total energies of two methods differ by thousands of eV that depend on composition alone; a change
of the reference energies removes that before any weight is trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import compress

import numpy as np
import torch
from ase.data import atomic_numbers, chemical_symbols
from scipy.linalg import qr

from finetune.core.errors import DataError, RecipeError, suggestion
from finetune.data.graphs import GraphBatch, batches
from finetune.data.structures import LazySequence, Structure, View
from finetune.potentials.potential import Potential

RIDGE = 1e-12
"""Strength of the pull towards no change, relative to the largest squared singular value of the
composition matrix. Compositions are integers, so its singular values are far above a millionth of
the largest or exactly zero: what is identified is fitted, the rest stays unchanged."""


@dataclass(frozen=True)
class ReferenceFit:
    """A fitted ``change`` of reference energies, eV, of the elements of labelled structures.

    There are as many ``identified`` as the labelled structures have independent compositions. Those
    ``undetermined`` are combinations of elements (atomic number -> integer weight) that change no
    energy of a labelled structure; along these, reference energies are left unchanged.
    """

    change: dict[int, float]
    identified: int
    undetermined: tuple[dict[int, int], ...]

    @property
    def ambiguous(self) -> bool:
        """Whether the labels fix fewer combinations of elements than there are elements."""
        return bool(self.undetermined)


def take_free_atoms(
    structures: Sequence[Structure],
) -> tuple[dict[int, float], Sequence[Structure]]:
    """Separate the energies of free atoms, eV by atomic number, from structures of several atoms.

    An element that occurs more than once has its lowest energy.
    """
    energies: dict[int, float] = {}
    larger = np.zeros(len(structures), dtype=bool)
    for index, item in enumerate(structures):
        if len(item) > 1:
            larger[index] = True
        elif item.energy is not None:
            number = int(item.numbers[0])
            energies[number] = min(item.energy, energies.get(number, item.energy))
    if isinstance(structures, LazySequence):
        return energies, View(structures, np.flatnonzero(larger))
    return energies, list(compress(structures, larger))


def by_symbol(energies: Mapping[str, float]) -> dict[int, float]:
    """Return energies by atomic number instead of symbol; a `RecipeError` for an unknown symbol."""
    for symbol in energies:
        if symbol not in atomic_numbers:
            raise RecipeError(
                f"reference_energies names '{symbol}', which is no element."
                f"{suggestion(symbol, chemical_symbols[1:])}"
            )
    return {atomic_numbers[symbol]: energy for symbol, energy in energies.items()}


def replace(
    potential: Potential, energies: Mapping[int, float], structures: Sequence[Structure]
) -> None:
    """Give a potential the energies of free atoms, eV; a `DataError` if an element has none."""
    present = {int(number) for item in structures for number in set(item.numbers.tolist())}
    missing = sorted(present - energies.keys())
    if missing:
        symbols = ", ".join(chemical_symbols[number] for number in missing)
        raise DataError(
            f"there is no energy of a free atom for {symbols}. Add a structure of the single atom "
            "to data.train, at the level of theory of the labels; or give all of them in the "
            "recipe, reference_energies: {H: -13.6, …}; or set reference_energies=estimate."
        )
    known = set(potential.elements)
    potential.set_references({n: energy for n, energy in energies.items() if n in known})


@torch.no_grad()
def estimate(
    potential: Potential, graphs: Sequence[GraphBatch], batch_size: int = 32
) -> ReferenceFit:
    """Fit the change of reference energies to the residual of the potential's energies.

    Solves min_x Σ_b (E_b − Ê_b − Σ_i x_{z_i})² + λ|x|² over the labelled structures b. With one
    composition only, the change is shared among the elements in proportion to their counts. Raises
    DataError if no structure has an energy.
    """
    counts, residuals = [], []
    for batch in batches(graphs, batch_size):
        batch = batch.to(potential.device, potential.dtype)
        prediction = potential(batch, forces=False)
        counts.append(potential.composition(batch)[batch.has_energy].cpu())
        residuals.append((batch.energy - prediction.energy)[batch.has_energy].cpu())
    matrix, residual = torch.cat(counts), torch.cat(residuals)
    if not len(matrix):
        raise DataError(
            "reference energies cannot be estimated: no training structure has an energy. "
            "Set reference_energies=keep, or give energies."
        )
    left, singular, right = torch.linalg.svd(matrix, full_matrices=False)
    damped = singular / (singular**2 + RIDGE * singular[0] ** 2)
    change = right.T @ (damped * (left.T @ residual))
    seen = [i for i in range(len(potential.elements)) if bool(matrix[:, i].any())]
    numbers = [potential.elements[i] for i in seen]
    return ReferenceFit(
        change={number: float(change[i]) for i, number in zip(seen, numbers, strict=True)},
        identified=int((singular > 1e-6 * singular[0]).sum()),
        undetermined=_undetermined(matrix[:, seen], numbers),
    )


def _undetermined(counts: torch.Tensor, numbers: Sequence[int]) -> tuple[dict[int, int], ...]:
    """Return an integer basis of the combinations that no composition determines."""
    from sympy import Matrix, ilcm

    rows = torch.unique(counts.long(), dim=0)
    rank = int(torch.linalg.matrix_rank(rows.double()))
    _, _, order = qr(rows.double().T.numpy(), mode="economic", pivoting=True)
    found = []
    for vector in Matrix(rows[order[:rank].tolist()].tolist()).nullspace():  # independent rows
        scale = ilcm(*(entry.q for entry in vector))
        weights = [int(entry * scale) for entry in vector]
        found.append({n: weight for n, weight in zip(numbers, weights, strict=True) if weight})
    return tuple(found)


def apply(potential: Potential, fit: ReferenceFit) -> None:
    """Add the fitted change to the potential's reference energies."""
    before = potential.references()
    potential.set_references({number: before[number] + fit.change[number] for number in fit.change})


def representative(structures: Sequence[Structure], limit: int) -> list[int]:
    """Return the indices of at most ``limit`` structures with an energy, in order.

    They are the first structure of each composition, and others spread evenly. Without any energy
    it is the first structure.
    """
    first: dict[bytes, int] = {}
    has_energy = np.zeros(len(structures), dtype=bool)
    for index, item in enumerate(structures):
        if item.energy is not None:
            has_energy[index] = True
            first.setdefault(np.sort(item.numbers).tobytes(), index)
    labelled = np.flatnonzero(has_energy)
    if len(labelled) <= limit:
        return labelled.tolist() or [0]
    chosen = set(list(first.values())[:limit])
    spread = np.linspace(0, len(labelled) - 1, limit - len(chosen), dtype=int)
    return sorted(chosen.union(labelled[spread].tolist()))
