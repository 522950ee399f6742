"""The weakly supervised losses: PITC, PISC, second difference, strain, gradient match.

Takamoto, Zaverkin, Niepert, "Physics-Informed Weakly Supervised Learning for Interatomic
Potentials", ICML 2025 (arXiv 2408.05215).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch

from finetune.core.units import FORCE_UNIT, Prediction, energy_unit
from finetune.data.graphs import GraphBatch
from finetune.losses.loss import BASE, Loss, LossContext, Request, Site
from finetune.recipe.loss_options import (
    ConsistencyOptions,
    ExtrapolationOptions,
    GradientMatchOptions,
    SecondDifferenceOptions,
    SpatialOptions,
    StrainOptions,
    TaylorOptions,
)


class ConsistencyLoss(Loss):
    """Mean of ℓ over structures and copies, of the energy E or, if anchored, of D = E − E_f.

    The correction D between two levels of theory is far smoother than the energy, so that larger
    displacements stay valid and the foundation's curvature is kept.
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
        return context.correction(site) if self.options.anchored else context.prediction(site)


def work(context: LossContext, displacement: torch.Tensor, prediction: Prediction) -> torch.Tensor:
    """Return Σ_i δ_i·F_i ``[B]``, eV, of each structure; δ and F are ``[N, 3]``."""
    if prediction.forces is None:
        raise ValueError("forces were not requested at this site")
    return context.batch.sum_atoms((displacement * prediction.forces).sum(dim=1))


def remainder(
    energy: torch.Tensor, base: torch.Tensor, change: torch.Tensor, options: ExtrapolationOptions
) -> torch.Tensor:
    """Return ``energy`` − (``base`` + ``change``) ``[B]``, eV, without the gradients of `hold`."""
    if options.hold == "energies":
        energy, base = energy.detach(), base.detach()
    expected = base + change
    return energy - (expected.detach() if options.hold == "extrapolation" else expected)


class ExtrapolationLoss(ConsistencyLoss):
    """Mean of ℓ over what first-order extrapolation from a structure, given ``base``, leaves."""

    options: TaylorOptions | StrainOptions
    base: Request

    @abstractmethod
    def site(self, copy: int, sign: Literal[1, -1] = 1) -> Site:
        """Return a copy, or its mirror image with ``sign`` -1."""

    @abstractmethod
    def change(self, context: LossContext, site: Site, base: Prediction) -> torch.Tensor:
        """Return the first-order change of energy at a site ``[B]``, eV."""

    def base_energy(self, context: LossContext, predicted: torch.Tensor) -> torch.Tensor:
        """Return the energy that the extrapolation starts from ``[B]``, eV."""
        return predicted

    def needs(self, copy: int) -> Sequence[Request]:
        """See `ConsistencyLoss.needs`."""
        asked = [self.base, Request(self.site(copy))]
        return [*asked, Request(self.site(copy, -1))] if self.options.form == "symmetric" else asked

    def residual(self, context: LossContext, copy: int) -> torch.Tensor:
        """See `ConsistencyLoss.residual`."""
        site = self.site(copy)
        base, there = self.at(context, BASE), self.at(context, site).energy
        if self.options.form == "symmetric":
            there = 0.5 * (there - self.at(context, self.site(copy, -1)).energy)
            start = torch.zeros_like(there)
        else:
            start = self.base_energy(context, base.energy)
        return remainder(there, start, self.change(context, site, base), self.options)


class TaylorLoss(ExtrapolationLoss):
    """PITC: mean over structures of ℓ(E(r+δ) − [E(r) − Σ_i δ_i·F_i(r)]).

    The symmetric form is ℓ(½ [E(r+δ) − E(r−δ)] + Σ_i δ_i·F_i(r)). For a conservative potential the
    one-sided residual is the Taylor remainder ½ δᵀHδ + O(δ³), the symmetric one O(δ³).
    """

    Options = TaylorOptions
    options: TaylorOptions
    base = Request(BASE, forces=True)

    def site(self, copy: int, sign: Literal[1, -1] = 1) -> Site:
        """See `ExtrapolationLoss.site`."""
        return Site(self.options.displaced, copy=copy, sign=sign)

    def change(self, context: LossContext, site: Site, base: Prediction) -> torch.Tensor:
        """See `ExtrapolationLoss.change`."""
        return -work(context, context.displacement(site), base)

    def base_energy(self, context: LossContext, predicted: torch.Tensor) -> torch.Tensor:
        """See `ExtrapolationLoss.base_energy`."""
        if self.options.base == "prediction":
            return predicted
        return torch.where(context.batch.has_energy, context.batch.energy, predicted)


class SpatialLoss(ConsistencyLoss):
    """PISC: mean over structures of ℓ(E(r+δ) − [E(r+δ′) − Σ_i (δ_i−δ′_i)·F_i(r+δ′)])."""

    Options = SpatialOptions
    options: SpatialOptions

    def needs(self, copy: int) -> Sequence[Request]:
        """See `ConsistencyLoss.needs`."""
        site, other = self._sites(copy)
        return [Request(site), Request(other, forces=True)]

    def residual(self, context: LossContext, copy: int) -> torch.Tensor:
        """See `ConsistencyLoss.residual`."""
        site, other = self._sites(copy)
        there = self.at(context, other)
        step = context.displacement(site) - context.displacement(other)
        energy, change = self.at(context, site).energy, -work(context, step, there)
        return remainder(energy, there.energy, change, self.options)

    def _sites(self, copy: int) -> tuple[Site, Site]:
        """The first of each pair are the copies that PITC takes."""
        displaced, copies = self.options.displaced, self.options.copies
        return Site(displaced, copy=copy), Site(displaced, copy=copies + copy)


class SecondDifferenceLoss(ConsistencyLoss):
    """Mean over structures of ℓ(½ [E(r+δ) + E(r−δ)] − E(r)).

    For a conservative potential this is ½ δᵀHδ + O(δ⁴), PITC's one-sided remainder to leading
    order, without forces and so without differentiating twice.
    """

    Options = SecondDifferenceOptions
    options: SecondDifferenceOptions

    def needs(self, copy: int) -> Sequence[Request]:
        """See `ConsistencyLoss.needs`."""
        return [Request(BASE), *(Request(site) for site in self._sites(copy))]

    def residual(self, context: LossContext, copy: int) -> torch.Tensor:
        """See `ConsistencyLoss.residual`."""
        site, mirrored = (self.at(context, site).energy for site in self._sites(copy))
        return 0.5 * (site + mirrored) - self.at(context, BASE).energy

    def _sites(self, copy: int) -> tuple[Site, Site]:
        displaced = self.options.displaced
        return Site(displaced, copy=copy), Site(displaced, copy=copy, sign=-1)


class StrainLoss(ExtrapolationLoss):
    """Mean over periodic structures of ℓ(E((1+ε)·cell) − [E + V σ:ε]).

    PITC with atoms and cells deformed by a symmetric strain ε instead of displaced, and the stress
    σ instead of the forces. The symmetric form is ℓ(½ [E(ε) − E(−ε)] − V σ:ε).
    """

    Options = StrainOptions
    options: StrainOptions
    base = Request(BASE, stress=True)

    def applies(self, batch: GraphBatch) -> torch.Tensor:
        """Return which structures are periodic in all directions ``[B]``."""
        return batch.pbc.all(dim=1)

    def site(self, copy: int, sign: Literal[1, -1] = 1) -> Site:
        """See `ExtrapolationLoss.site`."""
        return Site(strain=self.options.strain, copy=copy, sign=sign)

    def change(self, context: LossContext, site: Site, base: Prediction) -> torch.Tensor:
        """Return V σ:ε ``[B]``, eV, of each structure."""
        if base.stress is None:
            raise ValueError("the stress was not requested at this site")
        return context.batch.volume * (context.strain(site) * base.stress).sum(dim=(1, 2))


class GradientMatchLoss(Loss):
    """Mean of ℓ(F + dE/dr) over components, of structures as they are and of displaced copies.

    F are the forces of a head; for a conservative potential the residual is zero.
    """

    Options = GradientMatchOptions
    options: GradientMatchOptions
    unit = FORCE_UNIT

    def requests(self, batch: GraphBatch) -> Sequence[Request]:
        """See `Loss.requests`."""
        gradient: Literal[True, "held"] = "held" if self.options.hold == "energies" else True
        return [Request(site, forces=True, gradient=gradient) for site in self._sites()]

    def count(self, batch: GraphBatch) -> int:
        """Count atoms."""
        return int(batch.numbers.numel())

    def __call__(self, context: LossContext) -> torch.Tensor:
        """See `Loss.__call__`."""
        residuals = torch.stack([self._residual(context, site) for site in self._sites()])
        return self.measure(residuals.double()).mean()

    def _residual(self, context: LossContext, site: Site) -> torch.Tensor:
        found = context.prediction(site)
        forces, downhill = found.forces, found.gradient_forces
        assert forces is not None and downhill is not None
        return forces - (downhill.detach() if self.options.hold == "energies" else downhill)

    def _sites(self) -> list[Site]:
        displaced = self.options.displaced
        copies = range(self.options.copies if displaced is not None else 0)
        return [BASE, *(Site(displaced, copy=copy) for copy in copies)]
