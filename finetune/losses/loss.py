"""The contract of a loss: where it asks the potentials, what it gets; and the sum of all losses.

What all losses of a step need is evaluated once.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from ase.build import bulk, molecule

from finetune.core.errors import RecipeError
from finetune.core.units import Prediction
from finetune.data.graphs import GraphBatch, concatenate, graph
from finetune.data.structures import from_atoms
from finetune.losses.frozen_foundation import FrozenFoundation
from finetune.losses.perturbation import Generators, draw, draw_strain, reach, strain_reach
from finetune.potentials.potential import Potential
from finetune.recipe.loss_options import DisplacementOptions, LossOptions, Schedule, at, peak
from finetune.recipe.plugins import losses as registry
from finetune.recipe.sections import LabelKeys


@dataclass(frozen=True)
class Site:
    """A geometry at which the potential is evaluated.

    Attributes:
        displacement: How the atoms are displaced; None for where they are.
        strain: Largest component of the strain of atoms and cells; None for cells as they are.
        copy: Number of the draw, so that one loss can ask for several.
        sign: −1 for the mirrored displacement or strain of the same draw.
    """

    displacement: DisplacementOptions | None = None
    strain: float | Schedule | None = None
    copy: int = 0
    sign: Literal[1, -1] = 1

    @property
    def drawn(self) -> Site | None:
        """The site whose draw this one uses, mirrored or not; None where nothing is drawn."""
        return None if self == BASE else replace(self, sign=1)

    def skin(self, cutoff: float) -> float:
        """Return the Å by which neighbour lists must reach beyond ``cutoff`` for this site."""
        if self.strain is not None:
            return strain_reach(peak(self.strain), cutoff)
        return 0.0 if self.displacement is None else reach(self.displacement)


BASE = Site()
"""The structures as they are."""
Which = Literal["trained", "foundation"]


@dataclass(frozen=True)
class Request:
    """What a loss needs at a site, of one of the potentials; requests at one site are shared.

    ``gradient`` asks for −dE/dr of the potential in training; ``held`` for numbers that are not
    differentiated by the weights. Where another loss asks for it with True, it is not held.
    """

    site: Site
    forces: bool = False
    stress: bool = False
    of: Which = "trained"
    gradient: bool | Literal["held"] = False

    def with_needs_of(self, other: Request) -> Request:
        """Return a request at this site that gives what another one needs, too."""
        asked = (self.gradient, other.gradient)
        return replace(
            self,
            forces=self.forces or other.forces,
            stress=self.stress or other.stress,
            gradient=True if True in asked else self.gradient or other.gradient,
        )

    def evaluate(self, potential: Callable[..., Prediction], batch: GraphBatch) -> Prediction:
        """Return what a potential predicts for a batch of copies at such sites."""
        further = {"gradient": self.gradient} if self.gradient else {}
        return potential(batch, forces=self.forces, stress=self.stress, **further)


class LossContext:
    """What the losses of one step see.

    Places that need the same quantities are evaluated as one large batch; places that need energies
    only never build the graph of forces, and the foundation never builds one of its weights. What
    the foundation predicts for the undisplaced structures is kept from step to step.

    Args:
        batch: The structures of the step, labelled or not.
        potential: The potential in training.
        requests: What all losses of the step ask for.
        generator: Draws displacements and strains; one for all structures or one for each.
        foundation: The frozen foundation; may be None where nothing asks for it.
        progress: Of the run, 0 to 1, for scheduled sizes.
        drawn: Displacements ``[N, 3]`` and strains ``[B, 3, 3]`` of sites that are not to be drawn.
    """

    def __init__(
        self,
        batch: GraphBatch,
        potential: Potential | Callable[..., Prediction],
        requests: Iterable[Request],
        generator: Generators,
        foundation: FrozenFoundation | None = None,
        progress: float = 1.0,
        drawn: Mapping[Site, torch.Tensor] | None = None,
    ) -> None:
        self.batch = batch
        self.drawn: dict[Site, torch.Tensor] = dict(drawn or {})
        self._potential = potential
        self._foundation = foundation
        self._generator = generator
        self._progress = progress
        self._found: dict[Which, dict[Site, Prediction]] = {"trained": {}, "foundation": {}}
        requests = list(requests)
        if any(_adversarial(request.site) for request in requests):
            requests.append(Request(BASE, forces=True))
            if not bool(batch.has_forces.all()):
                requests.append(Request(BASE, forces=True, of="foundation"))
            self._evaluate([request for request in requests if request.site == BASE])
        for site in dict.fromkeys(request.site.drawn for request in requests):
            if site is not None and site not in self.drawn:
                self.drawn[site] = self._draw(site)
        self._evaluate(requests)

    def prediction(self, site: Site) -> Prediction:
        """Return what the potential in training predicts at a requested site."""
        return self._found["trained"][site]

    def foundation(self, site: Site) -> Prediction:
        """Return what the frozen foundation predicts at a requested site."""
        return self._found["foundation"][site]

    def correction(self, site: Site) -> Prediction:
        """Return the difference of the two at a site requested of both: D = E_θ − E_f."""
        trained, foundation = self.prediction(site), self.foundation(site)
        return Prediction(
            energy=trained.energy - foundation.energy,
            node_energy=trained.node_energy - foundation.node_energy,
            forces=_minus(trained.forces, foundation.forces),
            stress=_minus(trained.stress, foundation.stress),
        )

    def displacement(self, site: Site) -> torch.Tensor:
        """Return the displacement ``[N, 3]``, Å, of a requested site."""
        if site.drawn is None:
            return torch.zeros_like(self.batch.positions)
        return site.sign * self.drawn[site.drawn]

    def strain(self, site: Site) -> torch.Tensor:
        """Return the symmetric strain ``[B, 3, 3]`` of a requested site."""
        assert site.drawn is not None
        return site.sign * self.drawn[site.drawn]

    def _draw(self, site: Site) -> torch.Tensor:
        if site.strain is not None:
            return draw_strain(at(site.strain, self._progress), self.batch, self._generator)
        assert site.displacement is not None
        return draw(
            *(site.displacement, self.batch, self._generator, self._progress),
            foundation=self._foundation,
            force_error=self._force_error() if _adversarial(site) else None,
        )

    def _force_error(self) -> torch.Tensor:
        """Return the error of the forces, against the foundation's where there are no labels."""
        batch, predicted = self.batch, self.prediction(BASE).forces
        expected = batch.forces
        if BASE in self._found["foundation"]:
            taught = self.foundation(BASE).forces
            assert taught is not None
            expected = torch.where(batch.has_forces[:, None], expected, taught)
        assert predicted is not None
        return predicted.detach() - expected

    def _evaluate(self, requests: Iterable[Request]) -> None:
        """Evaluate both potentials at the sites where they have not been yet."""
        needs: dict[Which, dict[Site, Request]] = {"trained": {}, "foundation": {}}
        for request in requests:
            if request.site not in self._found[request.of]:
                known = needs[request.of].get(request.site, request)
                needs[request.of][request.site] = known.with_needs_of(request)
        self._evaluate_copies(self._potential, needs["trained"], self._found["trained"])
        if needs["foundation"]:
            if self._foundation is None:
                raise ValueError("a loss asks for the foundation, but there is none")
            base = needs["foundation"].pop(BASE, None)
            if base is not None:
                found = base.evaluate(self._foundation.base, self.batch)
                self._found["foundation"][BASE] = found
            self._evaluate_copies(self._foundation, needs["foundation"], self._found["foundation"])

    def _evaluate_copies(
        self,
        potential: Callable[..., Prediction],
        needs: Mapping[Site, Request],
        found: dict[Site, Prediction],
    ) -> None:
        alike: dict[Request, list[Site]] = {}
        for site, need in needs.items():
            alike.setdefault(replace(need, site=BASE), []).append(site)
        for need, sites in sorted(alike.items(), key=lambda item: (item[0].forces, item[0].stress)):
            together = need.evaluate(potential, concatenate([self._at(site) for site in sites]))
            found.update(zip(sites, self._split(together, len(sites)), strict=True))

    def _at(self, site: Site) -> GraphBatch:
        if site.strain is not None:
            return self.batch.strained(self.strain(site))
        if site.displacement is not None:
            return self.batch.displaced(self.displacement(site))
        return self.batch

    def _split(self, together: Prediction, copies: int) -> list[Prediction]:
        structures, atoms = len(self.batch), int(self.batch.numbers.numel())
        sizes = {"energy": structures, "stress": structures}
        values = {item.name: getattr(together, item.name) for item in fields(together)}
        parts = {
            name: torch.split(value, sizes.get(name, atoms))
            for name, value in values.items()
            if value is not None
        }
        return [
            Prediction(**{name: part[copy] for name, part in parts.items()})
            for copy in range(copies)
        ]


def _adversarial(site: Site) -> bool:
    return site.displacement is not None and site.displacement.kind == "adversarial"


def _minus(first: torch.Tensor | None, second: torch.Tensor | None) -> torch.Tensor | None:
    return None if first is None or second is None else first - second


class Loss(ABC):
    """A scalar to minimise, with validated options of the class in ``Options``."""

    Options: ClassVar[type[LossOptions]] = LossOptions
    factor: float = 1.0
    """Of a part in the loss that it is a part of; see `parts`."""

    def __init__(self, options: LossOptions) -> None:
        self.options = options

    @abstractmethod
    def requests(self, batch: GraphBatch) -> Sequence[Request]:
        """Return what must be evaluated for this batch; nothing where the loss does not apply."""

    @abstractmethod
    def __call__(self, context: LossContext) -> torch.Tensor:
        """Return the loss before its weight, a float64 scalar; not called for empty `requests`."""

    @property
    def unit(self) -> str:
        """Unit of the residual that `measure` was applied to, such as ``eV/atom``.

        Empty for a loss that is no mean of measured residuals: such a loss is recorded as it is.
        """
        return ""

    def parts(self) -> Mapping[str, Loss]:
        """Return the parts of the loss by name; by default the loss itself.

        A sum of means over different things (energies of structures and forces of atoms, say) names
        each as a part with its own ``factor``, `count` and `unit`: then each counts by its own
        share where a step is made of several batches, and each is recorded by itself.
        """
        return {"": self}

    def typical_residual(self, mean: float) -> float:
        """Return the size of the residuals, in `unit`, from the mean of their measure.

        The root mean square of ``squared`` ones, the mean absolute value of ``absolute`` ones, and
        of ``huber`` ones the residual that alone would give this mean.
        """
        if self.options.distance == "absolute":
            return mean
        if self.options.distance == "huber":
            delta = self.options.huber_delta
            return math.sqrt(2 * mean) if mean <= delta**2 / 2 else mean / delta + delta / 2
        return math.sqrt(mean)

    def skin(self, cutoff: float) -> float:
        """Return the Å by which neighbour lists must reach beyond ``cutoff`` for every copy.

        By default the furthest reach of what `requests` asks for on a labelled molecule and
        crystal. Override it where other structures need displacements that reach further.
        """
        sites = [request.site for request in self.requests(_labelled_pair())]
        return max((site.skin(cutoff) for site in sites), default=0.0)

    def count(self, batch: GraphBatch) -> int:
        """Return how many things the mean runs over (by default structures).

        Where a step is made of several batches, each counts by its share of this.
        """
        return len(batch)

    def measure(self, residual: torch.Tensor) -> torch.Tensor:
        """Apply the distance measure of the options to residuals, element by element."""
        if self.options.distance == "absolute":
            return residual.abs()
        if self.options.distance == "huber":
            zero, delta = torch.zeros_like(residual), self.options.huber_delta
            return torch.nn.functional.huber_loss(residual, zero, reduction="none", delta=delta)
        return residual.square()


@cache
def _labelled_pair() -> GraphBatch:
    """Return a molecule and a crystal with labels of every kind."""
    graphs = []
    for atoms in (molecule("H2O"), bulk("Si")):
        bare = from_atoms(atoms, LabelKeys(), "a probe")
        zero = np.zeros((len(atoms), 3))
        labels: dict[str, Any] = {"energy": 0.0, "forces": zero, "stress": np.zeros((3, 3))}
        graphs.append(graph(replace(bare, **labels), 1.0))
    return concatenate(graphs)


@dataclass(frozen=True)
class LossValue:
    """The total of one step, and each loss before its weight by the recipe's names."""

    total: torch.Tensor
    parts: dict[str, torch.Tensor]


class TotalLoss:
    """Σ weight · loss over the losses with a weight above zero.

    ``losses`` has them by the recipe's names; a loss of several parts is there as ``NAME/PART``.
    """

    def __init__(self, options: Mapping[str, LossOptions]) -> None:
        self.losses: dict[str, Loss] = {
            f"{name}/{part}" if part else name: loss
            for name, chosen in options.items()
            if chosen.peak_weight > 0
            for part, loss in registry.get(chosen.kind)(chosen).parts().items()
        }

    def skin(self, cutoff: float) -> float:
        """Return the Å by which neighbour lists must reach beyond ``cutoff`` for every copy."""
        return max((loss.skin(cutoff) for loss in self.losses.values()), default=0.0)

    def weights(self, progress: float) -> dict[str, float]:
        """Return what each loss is multiplied by in the total at a progress of 0 to 1, by name."""
        return {
            name: loss.factor * loss.options.weight_at(progress)
            for name, loss in self.losses.items()
        }

    def counts(self, batch: GraphBatch, progress: float = 1.0) -> dict[str, int]:
        """Return what each loss averages over in the batch, by name; 0 where it does not apply."""
        wanted = self._wanted(batch, progress)
        return {
            name: loss.count(batch) if name in wanted else 0 for name, loss in self.losses.items()
        }

    def __call__(
        self,
        batch: GraphBatch,
        potential: Potential,
        generator: Generators,
        foundation: FrozenFoundation | None = None,
        progress: float = 1.0,
        shares: Mapping[str, float] | None = None,
    ) -> LossValue | None:
        """Evaluate the losses that apply to the batch; None if no loss does.

        Args:
            batch: The structures of the step, on the potential's device and in its dtype.
            potential: The potential in training.
            generator: Draws displacements and strains; one for all structures or one for each.
            foundation: The frozen foundation; may be None where no loss needs it.
            progress: Of the run, 0 to 1, for schedules; a loss with weight 0 now costs nothing.
            shares: Further factors of the losses in the total, by name (1 by default): the batch's
                shares of a step that is made of several.
        """
        weights = self.weights(progress)
        wanted = self._wanted(batch, progress)
        if not wanted:
            return None
        requests = [request for asked in wanted.values() for request in asked]
        self._check_skin(wanted, batch, potential)
        context = LossContext(batch, potential, requests, generator, foundation, progress)
        parts: dict[str, torch.Tensor] = {}
        for name in wanted:
            parts[name] = self.losses[name](context)
        shares = shares or {}
        total = sum(
            (weights[name] * shares.get(name, 1.0) * value for name, value in parts.items()),
            start=torch.zeros((), dtype=torch.float64, device=batch.positions.device),
        )
        return LossValue(total, parts)

    def _check_skin(
        self, wanted: Mapping[str, Sequence[Request]], batch: GraphBatch, potential: Potential
    ) -> None:
        """Refuse displacements that bring atoms into the cutoff which the edges leave out."""
        for name, asked in wanted.items():
            for request in asked:
                needed = request.site.skin(potential.cutoff)
                if needed > batch.skin + 1e-9:  # Å, rounding
                    raise RecipeError(
                        f"the loss '{name}' displaces structures so far that neighbour lists must "
                        f"reach {needed:.3g} Å beyond the cutoff; they reach {batch.skin:.3g} Å. "
                        "Return the larger number from `skin` of that loss."
                    )

    def _wanted(self, batch: GraphBatch, progress: float) -> dict[str, Sequence[Request]]:
        """Return what the losses that have a weight at the moment ask for, by name."""
        return {
            name: asked
            for name, loss in self.losses.items()
            if loss.options.weight_at(progress) > 0 and (asked := loss.requests(batch))
        }
