"""Evaluate the potential wherever a step's losses need it, each place once."""

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


class LossContext:
    """What the losses of one step see.

    Places that need the same quantities are evaluated as one large batch; places that need energies
    only never build the graph of forces.

    Args:
        batch: The structures of the step, labelled or not.
        potential: The potential in training.
        requests: What all losses of the step ask for.
        generator: Draws the displacements; on the CPU.
    """

    def __init__(
        self,
        batch: GraphBatch,
        potential: Potential,
        requests: Iterable[Request],
        generator: torch.Generator,
    ) -> None:
        self.batch = batch
        self._displacements: dict[Site, torch.Tensor] = {}
        self._predictions: dict[Site, Prediction] = {}
        needs: dict[Site, tuple[bool, bool]] = {}
        for request in requests:
            forces, stress = needs.get(request.site, (False, False))
            needs[request.site] = (forces or request.forces, stress or request.stress)
        for site in needs:
            if site.displacement is not None:
                self._displacements[site] = draw(site.displacement, batch, generator)
        for forces, stress in sorted(set(needs.values())):
            sites = [site for site, need in needs.items() if need == (forces, stress)]
            self._evaluate(potential, sites, forces, stress)

    def prediction(self, site: Site) -> Prediction:
        """Return what the potential predicts at a requested site."""
        return self._predictions[site]

    def displacement(self, site: Site) -> torch.Tensor:
        """Return the displacement ``[N, 3]``, Å, of a requested site."""
        if site.displacement is None:
            return torch.zeros_like(self.batch.positions)
        return self._displacements[site]

    def _evaluate(
        self, potential: Potential, sites: list[Site], forces: bool, stress: bool
    ) -> None:
        copies = [
            self.batch
            if site.displacement is None
            else self.batch.displaced(self._displacements[site])
            for site in sites
        ]
        together = potential(concatenate(copies), forces=forces, stress=stress)
        structures = [len(self.batch)] * len(sites)
        atoms = [int(self.batch.numbers.numel())] * len(sites)
        energy = together.energy.split(structures)
        node_energy = together.node_energy.split(atoms)
        force_parts = together.forces.split(atoms) if together.forces is not None else None
        stress_parts = together.stress.split(structures) if together.stress is not None else None
        for index, site in enumerate(sites):
            self._predictions[site] = Prediction(
                energy=energy[index],
                node_energy=node_energy[index],
                forces=force_parts[index] if force_parts is not None else None,
                stress=stress_parts[index] if stress_parts is not None else None,
            )
