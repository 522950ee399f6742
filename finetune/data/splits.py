"""Set structures aside for validation."""

from __future__ import annotations

import numpy as np

from finetune.data.labels import Structure
from finetune.errors import DataError


def hold_out(
    structures: list[Structure], fraction: float, seed: int
) -> tuple[list[Structure], list[Structure]]:
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
    chosen = set(np.random.default_rng(seed).permutation(len(structures))[:held].tolist())
    kept = [item for index, item in enumerate(structures) if index not in chosen]
    return kept, [structures[index] for index in sorted(chosen)]
