"""Divide structures into parts, so that no part contains what another one tests."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from finetune.core.errors import DataError
from finetune.data.duplicates import TOLERANCE, clusters
from finetune.data.structures import Structure, taken


def hold_out(
    structures: Sequence[Structure], fraction: float, seed: int
) -> tuple[Sequence[Structure], Sequence[Structure]]:
    """Split at random into (kept, held out), both in original order; refuse an empty part."""
    held = round(fraction * len(structures))
    if held == 0 or held == len(structures):
        raise DataError(
            f"a fraction of {fraction} of {len(structures)} structures leaves nothing to "
            f"{'validate on' if held == 0 else 'train on'}. Name a validation file in data.valid."
        )
    chosen = np.zeros(len(structures), dtype=bool)
    chosen[np.random.default_rng(seed).permutation(len(structures))[:held]] = True
    return (taken(structures, np.flatnonzero(~chosen)), taken(structures, np.flatnonzero(chosen)))


def bootstrap(
    structures: Sequence[Structure], seed: int, kept: Sequence[int] = ()
) -> Sequence[Structure]:
    """Draw as many structures as there are, with replacement (Efron, Ann. Stat. 7, 1 (1979)).

    Those at the indices ``kept`` are taken once each; only the others are drawn.
    """
    others = np.setdiff1d(np.arange(len(structures)), kept)
    chosen = np.random.default_rng(seed).integers(max(len(others), 1), size=len(others))
    places = np.sort(np.concatenate([np.asarray(kept, dtype=np.int64), others[chosen]]))
    return taken(structures, places)


Kind = Literal["random", "composition", "block", "energy"]
KINDS: tuple[str, ...] = get_args(Kind)
REST = "rest"


def split(
    structures: Sequence[Structure],
    sizes: Mapping[str, float],
    kind: Kind = "random",
    seed: int = 0,
    block: int = 20,
    tolerance: float = TOLERANCE,
) -> dict[str, list[int]]:
    """Divide structures; duplicates always stay together.

    Args:
        structures: What to divide.
        sizes: Parts by name, as fractions below 1 or numbers of structures from 1 on; one of them
            may be 0 and takes the rest.
        kind: ``random``; ``composition``: all structures of one formula stay together; ``block``:
            so do ``block`` successive structures of a file, a trajectory; ``energy``: the parts
            rise in energy, in their order, so that the last one extrapolates.
        seed: Of the random order.
        block: Number of structures in a block.
        tolerance: Å, up to which structures count as the same.

    Returns:
        Indices by part, ascending. Structures that no part asks for are in the part ``rest``.

    Raises:
        DataError: If the sizes do not fit, or a part stays empty.
    """
    wanted = _counts(len(structures), sizes)
    unit = clusters(structures, tolerance)
    if kind == "composition":
        formulas = [item.formula for item in structures]
        unit = _joined(unit, np.unique(formulas, return_inverse=True)[1])
    elif kind == "block":
        unit = _joined(unit, _blocks(structures, block))
    order = np.unique(unit)
    if kind == "energy":
        height = _heights(structures)
        order = order[np.argsort([height[unit == u].max() for u in order], kind="stable")]
    else:
        order = np.random.default_rng(seed).permutation(order)
    members = {int(u): np.flatnonzero(unit == u).tolist() for u in order}
    parts: dict[str, list[int]] = {name: [] for name in wanted}
    for u in order.tolist():
        name = _next(parts, wanted, kind)
        parts[name] += members[u]
    empty = [name for name, indices in parts.items() if not indices and wanted[name]]
    if empty:
        raise DataError(
            f"the part '{empty[0]}' stays empty: {len(structures)} structures form {len(order)} "
            "groups that cannot be divided. Choose another kind of split or other sizes."
        )
    return {name: sorted(indices) for name, indices in parts.items() if indices}


def shortfalls(
    parts: Mapping[str, Sequence[int]], total: int, sizes: Mapping[str, float], kind: str
) -> list[str]:
    """Say which parts of a split of ``total`` structures are not as large as asked for, and why."""
    found = []
    for name, size in _counts(total, sizes).items():
        count = len(parts.get(name, ()))
        if sizes.get(name) and abs(count - size) >= 1:
            found.append(f"{name} has {count} structures, {size:.4g} were asked for")
    if not found:
        return []
    together = {
        "composition": "structures of one formula and ",
        "block": "the structures of a block and ",
    }
    return [f"warning: {'; '.join(found)}: {together.get(kind, '')}duplicates are not divided."]


def _counts(total: int, sizes: Mapping[str, float]) -> dict[str, float]:
    if not sizes:
        raise DataError("no part is named.")
    for name, size in sizes.items():
        if not 0 <= size < math.inf or (size > 1 and size != round(size)):
            raise DataError(
                f"the size of the part '{name}' is {size:g}; give a fraction below 1 or a whole "
                "number of structures."
            )
    counts = {name: size if size >= 1 else size * total for name, size in sizes.items()}
    left = total - sum(counts.values())
    open_ones = [name for name, size in sizes.items() if size == 0]
    if left < -0.5 or len(open_ones) > 1 or (open_ones and left < 1):
        asked = ", ".join(f"{name} {size:g}" for name, size in sizes.items())
        raise DataError(f"{total} structures cannot be divided into {asked}.")
    if open_ones:
        counts[open_ones[0]] = left
    elif left > 0.5:
        counts[REST] = left
    return counts


def _next(parts: Mapping[str, list[int]], wanted: Mapping[str, float], kind: Kind) -> str:
    """Return the part that the next structures go to."""
    lacking = {name: wanted[name] - len(indices) for name, indices in parts.items()}
    if kind == "energy":
        return next((name for name, size in lacking.items() if size >= 0.5), [*parts][-1])
    return max(lacking, key=lambda name: lacking[name] / max(wanted[name], 1e-9))


def _joined(first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the smallest units that neither of two groupings divides."""
    offset = int(first.max()) + 1
    edges = (np.ones(len(first)), (first, offset + second))
    size = offset + int(second.max()) + 1
    labels = connected_components(coo_array(edges, shape=(size, size)), directed=False)[1]
    return np.asarray(labels[first], dtype=np.int64)


def _blocks(structures: Sequence[Structure], size: int) -> NDArray[np.int64]:
    numbers: dict[tuple[str, int], int] = {}
    seen: dict[str, int] = {}
    found = []
    for item in structures:
        source = item.where.rpartition(", structure ")[0]
        place = seen[source] = seen.get(source, -1) + 1
        found.append(numbers.setdefault((source, place // max(size, 1)), len(numbers)))
    return np.array(found)


def _heights(structures: Sequence[Structure]) -> NDArray[np.float64]:
    """Return energies per atom above the lowest one of the same formula."""
    lowest: dict[str, float] = {}
    energies = []
    for item in structures:
        if item.energy is None:
            raise DataError(f"{item.where} has no energy to split by. Choose another kind.")
        energies.append((item.formula, item.energy / len(item)))
        lowest[item.formula] = min(lowest.get(item.formula, np.inf), energies[-1][1])
    return np.array([energy - lowest[formula] for formula, energy in energies])
