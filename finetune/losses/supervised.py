"""Losses on labels, and replay, whose labels are the predictions of the frozen foundation.

An absent label takes no part and costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch

from finetune.core.units import FORCE_UNIT, STRESS_UNIT, energy_unit
from finetune.data.graphs import GraphBatch
from finetune.losses.loss import BASE, Loss, LossContext, Request, Site
from finetune.recipe.loss_options import EnergyOptions, ForcesOptions, ReplayOptions, StressOptions


class LabelLoss(Loss):
    """Mean of ℓ over the residuals against one kind of label."""

    label: Literal["energy", "forces", "stress"]

    def requests(self, batch: GraphBatch) -> Sequence[Request]:
        """See `Loss.requests`."""
        asked = Request(BASE, forces=self.label == "forces", stress=self.label == "stress")
        return [asked] if self.count(batch) else []

    def count(self, batch: GraphBatch) -> int:
        """See `Loss.count`."""
        return int(self._labelled(batch).sum())

    def __call__(self, context: LossContext) -> torch.Tensor:
        """See `Loss.__call__`."""
        predicted = getattr(context.prediction(BASE), self.label)
        residual = (predicted - getattr(context.batch, self.label))[self._labelled(context.batch)]
        return self.measure(self.scaled(residual.double(), context.batch)).mean()

    def scaled(self, residual: torch.Tensor, batch: GraphBatch) -> torch.Tensor:
        """Return the residuals of labels in `unit`."""
        return residual

    def _labelled(self, batch: GraphBatch) -> torch.Tensor:
        return getattr(batch, f"has_{self.label}")


class EnergyLoss(LabelLoss):
    """Mean over labelled structures of ℓ((Ê_b − E_b) / n_b), with n_b = 1 if per structure."""

    Options = EnergyOptions
    options: EnergyOptions
    label = "energy"

    @property
    def unit(self) -> str:
        """See `Loss.unit`."""
        return energy_unit(self.options.normalise)

    def scaled(self, residual: torch.Tensor, batch: GraphBatch) -> torch.Tensor:
        """See `LabelLoss.scaled`."""
        per_atom = self.options.normalise == "per_atom"
        return residual / batch.atoms[batch.has_energy] if per_atom else residual


class ForcesLoss(LabelLoss):
    """Mean over the components of labelled forces of ℓ(F̂ − F)."""

    Options = ForcesOptions
    label = "forces"
    unit = FORCE_UNIT


class StressLoss(LabelLoss):
    """Mean over the nine components of labelled stresses of ℓ(σ̂ − σ)."""

    Options = StressOptions
    label = "stress"
    unit = STRESS_UNIT


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

    def __init__(self, options: ReplayOptions) -> None:
        super().__init__(options)
        self.factor = options.forces if self.forces else options.energy

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

    def __call__(self, context: LossContext) -> torch.Tensor:
        """See `Loss.__call__`."""
        energies = [context.correction(site).energy for site in self.sites()]
        return self.measure(torch.stack(energies) / context.batch.atoms).mean()


class ReplayedForces(_Replayed):
    """Mean over components and copies of ℓ(F − F_f)."""

    unit = FORCE_UNIT
    forces = True

    def count(self, batch: GraphBatch) -> int:
        """Count atoms."""
        return int(batch.numbers.numel())

    def __call__(self, context: LossContext) -> torch.Tensor:
        """See `Loss.__call__`."""
        corrections = [context.correction(site).forces for site in self.sites()]
        forces = torch.stack([item for item in corrections if item is not None])
        return self.measure(forces.double()).mean()
