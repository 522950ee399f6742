"""Losses on labels, and replay, whose labels are the predictions of the frozen foundation.

An absent label takes no part and costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from finetune.core.prediction import FORCE_UNIT, STRESS_UNIT, energy_unit
from finetune.data.graphs import GraphBatch
from finetune.losses.context import BASE, LossContext, Request, Site
from finetune.losses.loss import Loss
from finetune.recipe.loss_options import EnergyOptions, ForcesOptions, ReplayOptions, StressOptions


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


class ReplayLoss(Loss):
    """Mean of ℓ over the residuals against the foundation's energies (per atom) and forces.

    A first-order anchor where labels say nothing, well posed for any number of labels and biased
    towards the foundation.
    """

    Options = ReplayOptions
    options: ReplayOptions

    def parts(self) -> Mapping[str, Loss]:
        """See `Loss.parts`."""
        energies, forces = ReplayedEnergies(self.options), ReplayedForces(self.options)
        if energies.factor and forces.factor:
            return {"energy": energies, "forces": forces}
        return {"": energies if energies.factor else forces}

    def requests(self, batch: GraphBatch) -> Sequence[Request]:
        """See `Loss.requests`."""
        return [request for part in self.parts().values() for request in part.requests(batch)]

    def __call__(self, context: LossContext) -> torch.Tensor:
        """See `Loss.__call__`."""
        return torch.stack([part.factor * part(context) for part in self.parts().values()]).sum()


class _Replayed(Loss):
    """One of the two parts."""

    options: ReplayOptions
    forces: bool

    def requests(self, batch: GraphBatch) -> Sequence[Request]:
        asked = [Request(site, forces=self.forces) for site in self.sites()]
        return [*asked, *(replace(request, of="foundation") for request in asked)]

    def sites(self) -> list[Site]:
        """Return the copies of the structures that are compared."""
        displaced = self.options.displaced
        if displaced is None:
            return [BASE]
        return [Site(displaced, copy=copy) for copy in range(self.options.copies)]


class ReplayedEnergies(_Replayed):
    """Mean over structures and copies of ℓ((E − E_f) / n)."""

    unit = "eV/atom"
    forces = False

    def __init__(self, options: ReplayOptions) -> None:
        super().__init__(options)
        self.factor = options.energy

    def __call__(self, context: LossContext) -> torch.Tensor:
        """See `Loss.__call__`."""
        energies = [context.correction(site).energy for site in self.sites()]
        return self.measure(torch.stack(energies) / context.batch.atoms).mean()


class ReplayedForces(_Replayed):
    """Mean over components and copies of ℓ(F − F_f)."""

    unit = FORCE_UNIT
    forces = True

    def __init__(self, options: ReplayOptions) -> None:
        super().__init__(options)
        self.factor = options.forces

    def count(self, batch: GraphBatch) -> int:
        """Count atoms."""
        return int(batch.numbers.numel())

    def __call__(self, context: LossContext) -> torch.Tensor:
        """See `Loss.__call__`."""
        corrections = [context.correction(site).forces for site in self.sites()]
        forces = torch.stack([item for item in corrections if item is not None])
        return self.measure(forces.double()).mean()
