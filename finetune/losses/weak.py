"""What the weakly supervised losses share: energies or corrections, and how residuals count."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from finetune.losses.base import Loss, Request, Site
from finetune.losses.context import LossContext
from finetune.losses.options import WeakLossOptions
from finetune.quantities import Prediction


class WeakLoss(Loss):
    """A loss on displaced copies, of the energy E or, if anchored, of the correction D = E − E_f.

    The correction between two levels of theory is far smoother than the energy, so that larger
    displacements stay valid and the foundation's curvature is kept.
    """

    Options = WeakLossOptions
    options: WeakLossOptions

    def ask(self, *requests: Request) -> Sequence[Request]:
        """Return the requests, and the same of the foundation if the loss is anchored."""
        if not self.options.anchored:
            return requests
        return [
            *requests,
            *(Request(r.site, forces=r.forces, of="foundation") for r in requests),
        ]

    def at(self, context: LossContext, site: Site) -> Prediction:
        """Return the energies and forces that the loss is about."""
        if self.options.anchored:
            return context.correction(site)
        return context.prediction(site)

    def reduce(self, residual: torch.Tensor, context: LossContext) -> torch.Tensor:
        """Turn the residuals ``[B]``, eV, of the structures into the loss."""
        if self.options.normalise == "per_atom":
            residual = residual / context.batch.atoms
        return self.measure(residual).mean()


def work(context: LossContext, displacement: torch.Tensor, prediction: Prediction) -> torch.Tensor:
    """Return Σ_i δ_i·F_i ``[B]``, eV, of each structure; δ and F are ``[N, 3]``."""
    if prediction.forces is None:
        raise ValueError("forces were not requested at this site")
    return context.batch.sum_atoms((displacement * prediction.forces).sum(dim=1))
