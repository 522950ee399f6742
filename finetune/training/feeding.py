"""Put the batches of each step together, here or in worker processes."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from finetune.data.graphs import GraphBatch, concatenate
from finetune.training.order import Order
from finetune.training.processes import Processes


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
    """Yields the batches of an epoch's steps, the same whoever puts them together.

    Args:
        data: The graphs.
        order: Which of them each step takes.
        processes: Those that share each step.
        workers: Worker processes that put batches together ahead of time; 0 for none.
    """

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
