"""Which structures each step takes, as a function of the seed, the epoch and the step."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from finetune.training.seeds import Purpose, numpy_generator


@dataclass
class Order:
    """The shuffled training set, cut into steps and each step into pieces.

    Attributes:
        seed: The recipe's.
        structures: Number of training structures.
        pool: Number of unlabelled structures.
        batch_size: Labelled structures in a piece.
        pool_batch_size: Unlabelled structures added to a piece.
        pieces: Pieces of a step: accumulated batches times processes.
    """

    seed: int
    structures: int
    pool: int
    batch_size: int
    pool_batch_size: int
    pieces: int = 1
    _shuffled: tuple[int, NDArray[np.int64]] = field(
        default=(-1, np.zeros(0, np.int64)), repr=False, compare=False
    )

    @property
    def steps(self) -> int:
        """Steps in an epoch."""
        return -(-self.structures // (self.batch_size * self.pieces))

    def step(self, epoch: int, position: int) -> list[tuple[list[int], list[int]]]:
        """Return the pieces of a step: indices of labelled and of unlabelled structures.

        What is left for the last step of an epoch is spread over all pieces; one may be empty.
        """
        size = self.batch_size * self.pieces
        chosen = self._permutation(epoch)[position * size : (position + 1) * size]
        extra = np.zeros(0, np.int64)
        if self.pool:
            wanted = min(self.pool_batch_size * self.pieces, self.pool)
            random = numpy_generator(self.seed, Purpose.POOL, epoch, position)
            extra = random.choice(self.pool, wanted, replace=False)
        return list(zip(self._split(chosen), self._split(extra), strict=True))

    def _split(self, indices: NDArray[np.int64]) -> list[list[int]]:
        return [part.tolist() for part in np.array_split(indices, self.pieces)]

    def _permutation(self, epoch: int) -> NDArray[np.int64]:
        if self._shuffled[0] != epoch:
            random = numpy_generator(self.seed, Purpose.ORDER, epoch)
            self._shuffled = (epoch, random.permutation(self.structures))
        return self._shuffled[1]
