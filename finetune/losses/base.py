"""The contract of a loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch

from finetune.data.graphs import GraphBatch
from finetune.losses.context import LossContext
from finetune.losses.options import LossOptions
from finetune.losses.sites import BASE, Request, Site

__all__ = ["BASE", "Loss", "LossContext", "Request", "Site"]


class Loss(ABC):
    """A scalar to minimise.

    Args:
        options: Validated options of the class in ``Options``.
    """

    Options: ClassVar[type[LossOptions]] = LossOptions

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
