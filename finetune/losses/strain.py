"""The strain loss: stress takes part in the weak supervision as forces do."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from finetune.data.graphs import GraphBatch
from finetune.losses.base import BASE, Request, Site
from finetune.losses.consistency import ConsistencyLoss
from finetune.losses.context import LossContext
from finetune.losses.options import StrainOptions
from finetune.quantities import Prediction


class StrainLoss(ConsistencyLoss):
    """Mean over periodic structures of ℓ(E((1+ε)·cell) − [E + V σ:ε]).

    PITC with atoms and cells deformed by a symmetric strain ε instead of displaced, and the stress
    σ instead of the forces. The symmetric form is ℓ(½ [E(ε) − E(−ε)] − V σ:ε).
    """

    Options = StrainOptions
    options: StrainOptions

    def applies(self, batch: GraphBatch) -> torch.Tensor:
        """Return which structures are periodic in all directions ``[B]``."""
        return batch.pbc.all(dim=1)

    def needs(self, copy: int) -> Sequence[Request]:
        """See `ConsistencyLoss.needs`."""
        asked = [Request(BASE, stress=True), Request(self._site(copy))]
        if self.options.form == "symmetric":
            asked.append(Request(self._site(copy, mirrored=True)))
        return asked

    def residual(self, context: LossContext, copy: int) -> torch.Tensor:
        """See `ConsistencyLoss.residual`."""
        site = self._site(copy)
        base, strained = self.at(context, BASE), self.at(context, site).energy
        expected = _work(context, context.strain(site), base)
        if self.options.form == "symmetric":
            strained = 0.5 * (strained - self.at(context, self._site(copy, mirrored=True)).energy)
        else:
            expected = expected + base.energy
        return strained - (expected.detach() if self.options.hold_extrapolation else expected)

    def _site(self, copy: int, mirrored: bool = False) -> Site:
        return Site(strain=self.options.strain, copy=copy, sign=-1 if mirrored else 1)


def _work(context: LossContext, strain: torch.Tensor, prediction: Prediction) -> torch.Tensor:
    """Return V σ:ε ``[B]``, eV, of each structure."""
    if prediction.stress is None:
        raise ValueError("the stress was not requested at this site")
    return context.batch.volume * (strain * prediction.stress).sum(dim=(1, 2))
