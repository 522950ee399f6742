"""The contract of a loss, and what a loss can ask for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from finetune.data.graphs import GraphBatch
from finetune.losses.context import LossContext
from finetune.losses.options import DisplacementOptions, LossOptions


@dataclass(frozen=True)
class Site:
    """A geometry at which the potential is evaluated.

    Attributes:
        displacement: How the structures are displaced; None for the structures as they are.
        copy: Number of the draw, so that one loss can ask for several.
        sign: −1 for the mirrored displacement of the same draw.
    """

    displacement: DisplacementOptions | None = None
    copy: int = 0
    sign: Literal[1, -1] = 1


BASE = Site()
"""The structures as they are."""


@dataclass(frozen=True)
class Request:
    """What a loss needs at a site. Requests of several losses at one site are shared.

    Attributes:
        site: Where.
        forces: Whether forces are needed beside energies.
        stress: Whether stresses are needed.
        of: Which potential: the one in training, or the frozen foundation.
    """

    site: Site
    forces: bool = False
    stress: bool = False
    of: Literal["trained", "foundation"] = "trained"


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
