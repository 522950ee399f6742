"""Which structures each step takes, with which random numbers, and in which process."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from finetune.core.process import process_count
from finetune.data.graphs import GraphBatch, concatenate

T = TypeVar("T")


class Processes:
    """The processes that train together; usually this one alone.

    Attributes:
        count: How many there are.
        rank: Which of them this is.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self.count = process_count()
        self.rank = 0
        if self.count > 1:
            from accelerate import PartialState

            self._state = PartialState(cpu=device is None or device.type == "cpu")
            self.rank = int(self._state.process_index)

    @property
    def main(self) -> bool:
        """Whether this process is the one that writes and reports."""
        return self.rank == 0

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the sum of a tensor over all processes."""
        if self.count > 1:
            torch.distributed.all_reduce(tensor)
        return tensor

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set in any process."""
        return bool(self.sum(torch.tensor(float(flag), device=self._device)).item())

    def first(self, value: T | None) -> T | None:
        """Return the value of the first process that has one."""
        if self.count == 1:
            return value
        values: list[T | None] = [None] * self.count
        torch.distributed.all_gather_object(values, value)
        return next((item for item in values if item is not None), None)

    def from_main(self, value: T) -> T:
        """Return the main process's value (anything that can be pickled)."""
        if self.count == 1:
            return value
        values: list[Any] = [value]
        torch.distributed.broadcast_object_list(values, src=0, device=self._device)
        found: T = values[0]
        return found

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.count > 1:
            self._state.wait_for_everyone()

    @property
    def _device(self) -> torch.device:
        return torch.device("cpu") if self.count == 1 else self._state.device


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


@dataclass(frozen=True)
class TrainingData:
    """Graphs on the CPU: labelled for training and validation, unlabelled for weak losses.

    Any sequence will do, also one that reads or builds a graph when it is asked for it.
    """

    train: Sequence[GraphBatch]
    valid: Sequence[GraphBatch]
    unlabelled: Sequence[GraphBatch]


class _Batches(torch.utils.data.Dataset[list[GraphBatch]]):
    """Batches of an epoch by step: the item of a step is what this process does of it."""

    def __init__(self, data: TrainingData, order: Order, epoch: int, mine: slice) -> None:
        self.data = data
        self.order = order
        self.epoch = epoch
        self.mine = mine

    def __getitem__(self, step: int) -> list[GraphBatch]:
        found = []
        for chosen, extra in self.order.step(self.epoch, step)[self.mine]:
            graphs = [self.data.train[place] for place in chosen]
            graphs += [self.data.unlabelled[place] for place in extra]
            if graphs:
                found.append(concatenate(graphs))
        return found


class Feeder:
    """Yields the batches of an epoch's steps, made here or in worker processes."""

    def __init__(
        self, data: TrainingData, order: Order, processes: Processes, workers: int
    ) -> None:
        self.data = data
        self.order = order
        self.processes = processes
        self.workers = workers

    def steps(self, epoch: int, position: int) -> Iterator[list[GraphBatch]]:
        """Yield this process's batches for each step from ``position`` on."""
        mine = slice(self.processes.rank, None, self.processes.count)
        steps = range(position, self.order.steps)
        dataset = _Batches(self.data, self.order, epoch, mine)
        if self.workers == 0:
            yield from (dataset[step] for step in steps)
            return
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)
            loader = torch.utils.data.DataLoader(
                dataset,
                batch_size=None,
                sampler=steps,
                num_workers=self.workers,
                generator=torch.Generator().manual_seed(0),  # leaves the global one alone
            )
            iterator = iter(loader)
        yield from iterator
