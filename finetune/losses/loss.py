"""The contract of a loss."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, ClassVar

import numpy as np
import torch
from ase.build import bulk, molecule

from finetune.data.graphs import GraphBatch, concatenate, graph
from finetune.data.structures import from_atoms
from finetune.losses.context import LossContext, Request
from finetune.recipe.loss_options import LossOptions
from finetune.recipe.sections import LabelKeys


class Loss(ABC):
    """A scalar to minimise.

    Args:
        options: Validated options of the class in ``Options``.
    """

    Options: ClassVar[type[LossOptions]] = LossOptions
    factor: float = 1.0
    """Of a part in the loss that it is a part of; see `parts`."""

    def __init__(self, options: LossOptions) -> None:
        self.options = options

    @abstractmethod
    def requests(self, batch: GraphBatch) -> Sequence[Request]:
        """Return what must be evaluated for this batch; nothing where the loss does not apply."""

    @abstractmethod
    def __call__(self, context: LossContext) -> torch.Tensor:
        """Return the loss, a scalar in float64, before its weight.

        Called only where `requests` was not empty.
        """

    @property
    def unit(self) -> str:
        """Unit of the residual that `measure` was applied to, such as ``eV/atom``.

        Empty for a loss that is no mean of measured residuals: such a loss is recorded as it is.
        """
        return ""

    def parts(self) -> Mapping[str, Loss]:
        """Return what the loss adds up, by name: itself, unless a loss says otherwise.

        A sum of means over different things (energies of structures and forces of atoms, say) names
        each as a part with its own ``factor``, `count` and `unit`: then each counts by its own
        share where a step is made of several batches, and each is recorded by itself.
        """
        return {"": self}

    def typical_residual(self, mean: float) -> float:
        """Return the size of the residuals, in `unit`, from the mean of their measure.

        The root mean square of ``squared`` ones, the mean absolute value of ``absolute`` ones, and
        of ``huber`` ones the residual that alone would give this mean.
        """
        if self.options.distance == "absolute":
            return mean
        if self.options.distance == "huber":
            delta = self.options.huber_delta
            return math.sqrt(2 * mean) if mean <= delta**2 / 2 else mean / delta + delta / 2
        return math.sqrt(mean)

    def skin(self, cutoff: float) -> float:
        """Return the Å by which neighbour lists must reach beyond ``cutoff`` for every copy.

        By default this is the furthest reach of what `requests` asks for on a labelled molecule and
        a labelled crystal. Override it where other structures need displacements that reach
        further.
        """
        sites = [request.site for request in self.requests(_labelled_pair())]
        return max((site.skin(cutoff) for site in sites), default=0.0)

    def count(self, batch: GraphBatch) -> int:
        """Return how many things the mean runs over: structures, unless a loss says otherwise.

        Where a step is made of several batches, each counts by its share of this.
        """
        return len(batch)

    def measure(self, residual: torch.Tensor) -> torch.Tensor:
        """Apply the distance measure of the options to residuals, element by element."""
        if self.options.distance == "absolute":
            return residual.abs()
        if self.options.distance == "huber":
            return torch.nn.functional.huber_loss(
                residual,
                torch.zeros_like(residual),
                reduction="none",
                delta=self.options.huber_delta,
            )
        return residual.square()


@cache
def _labelled_pair() -> GraphBatch:
    """Return a molecule and a crystal with labels of every kind."""
    graphs = []
    for atoms in (molecule("H2O"), bulk("Si")):
        bare = from_atoms(atoms, LabelKeys(), "a probe")
        zero = np.zeros((len(atoms), 3))
        labels: dict[str, Any] = {"energy": 0.0, "forces": zero, "stress": np.zeros((3, 3))}
        graphs.append(graph(replace(bare, **labels), 1.0))
    return concatenate(graphs)
