"""Random numbers that follow from the seed and a place in the run alone.

Nothing random is carried from step to step, so a run that goes on in the middle, or in several
processes, draws what it would have drawn otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum

import numpy as np
import torch


class Purpose(IntEnum):
    """What random numbers are for: each purpose has its own stream."""

    ORDER = 0
    POOL = 1
    DISPLACEMENTS = 2
    GLOBAL = 3


def numpy_generator(seed: int, purpose: Purpose, *place: int) -> np.random.Generator:
    """Return NumPy's generator for a purpose and a place (an epoch, a step, …)."""
    return np.random.default_rng([seed, int(purpose), *place])


def structure_generators(seed: int, step: int, identities: Sequence[int]) -> list[torch.Generator]:
    """Return a CPU generator for the displacements of each structure of a step.

    It follows from the structure alone, whatever batch or process the structure is part of.
    """
    return [
        torch.Generator().manual_seed(_number(seed, Purpose.DISPLACEMENTS, step, identity % 2**64))
        for identity in identities
    ]


@contextmanager
def global_generator(seed: int, *place: int) -> Iterator[None]:
    """Seed torch's global generator for the time of a step, for losses that draw from it."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(_number(seed, Purpose.GLOBAL, *place))
        yield


def _number(seed: int, purpose: Purpose, *place: int) -> int:
    sequence = np.random.SeedSequence([seed, int(purpose), *place])
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))
