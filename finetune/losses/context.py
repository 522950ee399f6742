"""Evaluate the potentials wherever a step's losses need them, each place once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch

from finetune.data.graphs import GraphBatch, concatenate
from finetune.foundation.potential import Potential
from finetune.perturbation import draw
from finetune.quantities import Prediction

if TYPE_CHECKING:
    from finetune.losses.base import Request, Site

Draw = tuple[object, int]
"""A displacement's options and the number of the draw: what mirrored sites share."""


class LossContext:
    """What the losses of one step see.

    Places that need the same quantities are evaluated as one large batch; places that need energies
    only never build the graph of forces, and the foundation never builds one of its weights.

    Args:
        batch: The structures of the step, labelled or not.
        potential: The potential in training.
        requests: What all losses of the step ask for.
        generator: Draws the displacements; on the CPU.
        foundation: The frozen foundation; may be None where nothing asks for it.
    """

    def __init__(
        self,
        batch: GraphBatch,
        potential: Potential,
        requests: Iterable[Request],
        generator: torch.Generator,
        foundation: Potential | None = None,
    ) -> None:
        self.batch = batch
        self._draws: dict[Draw, torch.Tensor] = {}
        requests = list(requests)
        for site in dict.fromkeys(request.site for request in requests):
            key = (site.displacement, site.copy)
            if site.displacement is not None and key not in self._draws:
                self._draws[key] = draw(site.displacement, batch, generator)
        self._trained = self._evaluate(potential, [r for r in requests if r.of == "trained"])
        asked = [request for request in requests if request.of == "foundation"]
        self._foundation: dict[Site, Prediction] = {}
        if asked:
            if foundation is None:
                raise ValueError("a loss asks for the foundation, but there is none")
            with torch.no_grad():
                self._foundation = self._evaluate(foundation, asked)

    def prediction(self, site: Site) -> Prediction:
        """Return what the potential in training predicts at a requested site."""
        return self._trained[site]

    def foundation(self, site: Site) -> Prediction:
        """Return what the frozen foundation predicts at a requested site."""
        return self._foundation[site]

    def correction(self, site: Site) -> Prediction:
        """Return the difference of the two at a site requested of both: D = E_θ − E_f."""
        trained, foundation = self._trained[site], self._foundation[site]
        return Prediction(
            energy=trained.energy - foundation.energy,
            node_energy=trained.node_energy - foundation.node_energy,
            forces=_minus(trained.forces, foundation.forces),
        )

    def displacement(self, site: Site) -> torch.Tensor:
        """Return the displacement ``[N, 3]``, Å, of a requested site."""
        if site.displacement is None:
            return torch.zeros_like(self.batch.positions)
        return site.sign * self._draws[(site.displacement, site.copy)]

    def _evaluate(self, potential: Potential, requests: list[Request]) -> dict[Site, Prediction]:
        needs: dict[Site, tuple[bool, bool]] = {}
        for request in requests:
            forces, stress = needs.get(request.site, (False, False))
            needs[request.site] = (forces or request.forces, stress or request.stress)
        found: dict[Site, Prediction] = {}
        for forces, stress in sorted(set(needs.values())):
            sites = [site for site, need in needs.items() if need == (forces, stress)]
            copies = [self._at(site) for site in sites]
            together = potential(concatenate(copies), forces=forces, stress=stress)
            found.update(zip(sites, self._split(together, len(sites)), strict=True))
        return found

    def _at(self, site: Site) -> GraphBatch:
        if site.displacement is None:
            return self.batch
        return self.batch.displaced(self.displacement(site))

    def _split(self, together: Prediction, copies: int) -> list[Prediction]:
        structures = len(self.batch)
        atoms = int(self.batch.numbers.numel())
        nothing: list[torch.Tensor | None] = [None] * copies
        return [
            Prediction(energy, node_energy, forces, stress)
            for energy, node_energy, forces, stress in zip(
                torch.split(together.energy, structures),
                torch.split(together.node_energy, atoms),
                nothing if together.forces is None else torch.split(together.forces, atoms),
                nothing if together.stress is None else torch.split(together.stress, structures),
                strict=True,
            )
        ]


def _minus(first: torch.Tensor | None, second: torch.Tensor | None) -> torch.Tensor | None:
    return None if first is None or second is None else first - second
