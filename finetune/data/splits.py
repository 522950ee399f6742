"""Set structures aside for validation."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress

import numpy as np

from finetune.data.labels import Structure
from finetune.data.sequences import LazySequence, View
from finetune.errors import DataError


def hold_out(
    structures: Sequence[Structure], fraction: float, seed: int
) -> tuple[Sequence[Structure], Sequence[Structure]]:
    """Split at random into (kept, held out), both in their original order.

    Raises:
        DataError: If either part would be empty.
    """
    held = round(fraction * len(structures))
    if held == 0 or held == len(structures):
        raise DataError(
            f"a fraction of {fraction} of {len(structures)} structures leaves nothing to "
            f"{'validate on' if held == 0 else 'train on'}. Name a validation file in data.valid."
        )
    chosen = np.zeros(len(structures), dtype=bool)
    chosen[np.random.default_rng(seed).permutation(len(structures))[:held]] = True
    if isinstance(structures, LazySequence):
        return View(structures, np.flatnonzero(~chosen)), View(structures, np.flatnonzero(chosen))
    return list(compress(structures, ~chosen)), list(compress(structures, chosen))


def drawn(
    structures: Sequence[Structure], seed: int, kept: Sequence[int] = ()
) -> Sequence[Structure]:
    """Draw as many structures as there are, with replacement (Efron, Ann. Stat. 7, 1 (1979)).

    Args:
        structures: What to draw from.
        seed: Of the draw.
        kept: Indices of structures that are there once, whatever is drawn of the others.
    """
    others = np.setdiff1d(np.arange(len(structures)), kept)
    chosen = np.random.default_rng(seed).integers(max(len(others), 1), size=len(others))
    places = np.sort(np.concatenate([np.asarray(kept, dtype=np.int64), others[chosen]]))
    if isinstance(structures, LazySequence):
        return View(structures, places)
    return [structures[place] for place in places]


def representative(structures: Sequence[Structure], limit: int) -> list[int]:
    """Return the indices of at most ``limit`` structures with an energy, in order.

    The first of each composition comes first of all, the rest are spread evenly. Without any
    energy it is the first structure.
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
