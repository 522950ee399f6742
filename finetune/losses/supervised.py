"""Losses on labels. A label that is absent takes no part and costs nothing."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from finetune.core.prediction import FORCE_UNIT, STRESS_UNIT, energy_unit
from finetune.data.graphs import GraphBatch
from finetune.losses.context import BASE, LossContext, Request
from finetune.losses.loss import Loss
from finetune.recipe.loss_options import EnergyOptions, ForcesOptions, StressOptions


class EnergyLoss(Loss):
    """Mean over labelled structures of ℓ((Ê_b − E_b) / n_b), with n_b = 1 if per structure."""

    Options = EnergyOptions
    options: EnergyOptions

    @property
    def unit(self) -> str:
        """See `Loss.unit`."""
        return energy_unit(self.options.normalise)

    def requests(self, batch: GraphBatch) -> Sequence[Request]:
        """See `Loss.requests`."""
        return [Request(BASE)] if bool(batch.has_energy.any()) else []

    def count(self, batch: GraphBatch) -> int:
        """See `Loss.count`."""
        return int(batch.has_energy.sum())

    def __call__(self, context: LossContext) -> torch.Tensor:
        """See `Loss.__call__`."""
        batch, labelled = context.batch, context.batch.has_energy
        residual = (context.prediction(BASE).energy - batch.energy)[labelled]
        if self.options.normalise == "per_atom":
            residual = residual / batch.atoms[labelled]
        return self.measure(residual).mean()


class ForcesLoss(Loss):
    """Mean over the components of labelled forces of ℓ(F̂ − F)."""

    Options = ForcesOptions
    unit = FORCE_UNIT

    def requests(self, batch: GraphBatch) -> Sequence[Request]:
        """See `Loss.requests`."""
        return [Request(BASE, forces=True)] if bool(batch.has_forces.any()) else []

    def count(self, batch: GraphBatch) -> int:
        """See `Loss.count`."""
        return int(batch.has_forces.sum())

    def __call__(self, context: LossContext) -> torch.Tensor:
        """See `Loss.__call__`."""
        predicted = context.prediction(BASE).forces
        assert predicted is not None
        residual = (predicted - context.batch.forces)[context.batch.has_forces]
        return self.measure(residual.double()).mean()


class StressLoss(Loss):
    """Mean over the nine components of labelled stresses of ℓ(σ̂ − σ)."""

    Options = StressOptions
    unit = STRESS_UNIT

    def requests(self, batch: GraphBatch) -> Sequence[Request]:
        """See `Loss.requests`."""
        return [Request(BASE, stress=True)] if bool(batch.has_stress.any()) else []

    def count(self, batch: GraphBatch) -> int:
        """See `Loss.count`."""
        return int(batch.has_stress.sum())

    def __call__(self, context: LossContext) -> torch.Tensor:
        """See `Loss.__call__`."""
        predicted = context.prediction(BASE).stress
        assert predicted is not None
        residual = (predicted - context.batch.stress)[context.batch.has_stress]
        return self.measure(residual.double()).mean()
