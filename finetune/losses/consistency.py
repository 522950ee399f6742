"""What the weakly supervised losses share: energies or corrections, and how residuals count."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace

import torch

from finetune.data.graphs import GraphBatch
from finetune.losses.base import Loss, Request, Site
from finetune.losses.context import LossContext
from finetune.losses.options import ConsistencyOptions
from finetune.quantities import Prediction, energy_unit


class ConsistencyLoss(Loss):
    """Mean of ℓ over structures and copies, of the energy E or, if anchored, of D = E − E_f.

    The correction D between two levels of theory is far smoother than the energy, so that larger
    displacements stay valid and the foundation's curvature is kept. A subclass says what the
    residual of one copy is and what it needs.
    """

    Options = ConsistencyOptions
    options: ConsistencyOptions

    @property
    def unit(self) -> str:
        """See `Loss.unit`."""
        return energy_unit(self.options.normalise)

    @abstractmethod
    def needs(self, copy: int) -> Sequence[Request]:
        """Return what the residual of a copy needs, of the potential in training."""

    @abstractmethod
    def residual(self, context: LossContext, copy: int) -> torch.Tensor:
        """Return the residual ``[B]``, eV, of each structure at a copy."""

    def applies(self, batch: GraphBatch) -> torch.Tensor:
        """Return which structures the loss is about ``[B]``; all of them by default."""
        return torch.ones_like(batch.has_energy)

    def requests(self, batch: GraphBatch) -> Sequence[Request]:
        """See `Loss.requests`."""
        if not bool(self.applies(batch).any()):
            return []
        asked = [request for copy in range(self.options.copies) for request in self.needs(copy)]
        if self.options.anchored:
            asked += [replace(request, of="foundation") for request in asked]
        return asked

    def count(self, batch: GraphBatch) -> int:
        """See `Loss.count`."""
        return int(self.applies(batch).sum())

    def __call__(self, context: LossContext) -> torch.Tensor:
        """See `Loss.__call__`."""
        copies = range(self.options.copies)
        residuals = torch.stack([self.residual(context, copy) for copy in copies])
        if self.options.normalise == "per_atom":
            residuals = residuals / context.batch.atoms
        return self.measure(residuals[:, self.applies(context.batch)]).mean()

    def at(self, context: LossContext, site: Site) -> Prediction:
        """Return the energies and forces that the loss is about."""
        if self.options.anchored:
            return context.correction(site)
        return context.prediction(site)


def work(context: LossContext, displacement: torch.Tensor, prediction: Prediction) -> torch.Tensor:
    """Return Σ_i δ_i·F_i ``[B]``, eV, of each structure; δ and F are ``[N, 3]``."""
    if prediction.forces is None:
        raise ValueError("forces were not requested at this site")
    return context.batch.sum_atoms((displacement * prediction.forces).sum(dim=1))
