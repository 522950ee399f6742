"""What the weakly supervised losses share: energies or corrections, and how residuals count."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace

import torch

from finetune.core.prediction import Prediction, energy_unit
from finetune.data.graphs import GraphBatch
from finetune.losses.context import BASE, LossContext, Request, Site
from finetune.losses.loss import Loss
from finetune.recipe.loss_options import (
    ConsistencyOptions,
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
        if self.options.anchored:
            return context.correction(site)
        return context.prediction(site)


def work(context: LossContext, displacement: torch.Tensor, prediction: Prediction) -> torch.Tensor:
    """Return Σ_i δ_i·F_i ``[B]``, eV, of each structure; δ and F are ``[N, 3]``."""
    if prediction.forces is None:
        raise ValueError("forces were not requested at this site")
    return context.batch.sum_atoms((displacement * prediction.forces).sum(dim=1))


class TaylorLoss(ConsistencyLoss):
    """Mean over structures of ℓ(E(r+δ) − [E(r) − Σ_i δ_i·F_i(r)]).

    The symmetric form is ℓ(½ [E(r+δ) − E(r−δ)] + Σ_i δ_i·F_i(r)). For a conservative potential the
    one-sided residual is the Taylor remainder ½ δᵀHδ + O(δ³), the symmetric one O(δ³).
    """

    Options = TaylorOptions
    options: TaylorOptions

    def needs(self, copy: int) -> Sequence[Request]:
        """See `ConsistencyLoss.needs`."""
        asked = [Request(BASE, forces=True), Request(self._site(copy))]
        if self.options.form == "symmetric":
            asked.append(Request(self._site(copy, mirrored=True)))
        return asked

    def residual(self, context: LossContext, copy: int) -> torch.Tensor:
        """See `ConsistencyLoss.residual`."""
        site = self._site(copy)
        base, moved = self.at(context, BASE), self.at(context, site).energy
        expected = -work(context, context.displacement(site), base)
        if self.options.form == "symmetric":
            moved = 0.5 * (moved - self.at(context, self._site(copy, mirrored=True)).energy)
        else:
            expected = expected + self._base_energy(context, base.energy)
        return moved - (expected.detach() if self.options.hold_extrapolation else expected)

    def _site(self, copy: int, mirrored: bool = False) -> Site:
        return Site(self.options.displaced, copy=copy, sign=-1 if mirrored else 1)

    def _base_energy(self, context: LossContext, predicted: torch.Tensor) -> torch.Tensor:
        if self.options.base == "prediction":
            return predicted
        return torch.where(context.batch.has_energy, context.batch.energy, predicted)


class SpatialLoss(ConsistencyLoss):
    """Mean over structures of ℓ(E(r+δ) − [E(r+δ′) − Σ_i (δ_i−δ′_i)·F_i(r+δ′)])."""

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
        expected = there.energy - work(context, step, there)
        if self.options.hold_extrapolation:
            expected = expected.detach()
        return self.at(context, site).energy - expected

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
