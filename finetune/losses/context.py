"""Evaluate the potentials wherever a step's losses need them, each place once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from finetune.core.units import Prediction
from finetune.data.graphs import GraphBatch, concatenate
from finetune.losses.frozen_foundation import FrozenFoundation
from finetune.losses.perturbation import Generators, draw, draw_strain, reach, strain_reach
from finetune.potentials.potential import Potential
from finetune.recipe.loss_options import DisplacementOptions, Schedule, at, peak


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
    """What a loss needs at a site, of one of the potentials; requests at one site are shared."""

    site: Site
    forces: bool = False
    stress: bool = False
    of: Which = "trained"


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
        needs: dict[Which, dict[Site, tuple[bool, bool]]] = {"trained": {}, "foundation": {}}
        for request in requests:
            if request.site not in self._found[request.of]:
                forces, stress = needs[request.of].get(request.site, (False, False))
                wanted = (forces or request.forces, stress or request.stress)
                needs[request.of][request.site] = wanted
        self._evaluate_copies(self._potential, needs["trained"], self._found["trained"])
        if needs["foundation"]:
            if self._foundation is None:
                raise ValueError("a loss asks for the foundation, but there is none")
            base = needs["foundation"].pop(BASE, None)
            if base is not None:
                self._found["foundation"][BASE] = self._foundation.base(self.batch, *base)
            self._evaluate_copies(self._foundation, needs["foundation"], self._found["foundation"])

    def _evaluate_copies(
        self,
        potential: Callable[..., Prediction],
        needs: Mapping[Site, tuple[bool, bool]],
        found: dict[Site, Prediction],
    ) -> None:
        for forces, stress in sorted(set(needs.values())):
            sites = [site for site, need in needs.items() if need == (forces, stress)]
            copies = concatenate([self._at(site) for site in sites])
            together = potential(copies, forces=forces, stress=stress)
            found.update(zip(sites, self._split(together, len(sites)), strict=True))

    def _at(self, site: Site) -> GraphBatch:
        if site.strain is not None:
            return self.batch.strained(self.strain(site))
        if site.displacement is not None:
            return self.batch.displaced(self.displacement(site))
        return self.batch

    def _split(self, together: Prediction, copies: int) -> list[Prediction]:
        structures, atoms = len(self.batch), int(self.batch.numbers.numel())
        values = (together.energy, together.node_energy, together.forces, together.stress)
        parts: list[Any] = [
            [None] * copies if value is None else torch.split(value, size)
            for value, size in zip(values, (structures, atoms, atoms, structures), strict=True)
        ]
        return [Prediction(*part) for part in zip(*parts, strict=True)]


def _adversarial(site: Site) -> bool:
    return site.displacement is not None and site.displacement.kind == "adversarial"


def _minus(first: torch.Tensor | None, second: torch.Tensor | None) -> torch.Tensor | None:
    return None if first is None or second is None else first - second
