"""A potential that has nothing in common with MACE: a small network with forces of its own."""

from dataclasses import replace

import torch

from finetune.core.errors import FoundationError
from finetune.data.graphs import GraphBatch
from finetune.potentials.potential import Potential

ELEMENTS = (1, 6, 7, 8)


class DirectForcePotential(Potential):
    """Energies from what surrounds an atom; forces along the bonds, not the energy's gradient."""

    def __init__(self, seed: int = 0, width: int = 12, cutoff: float = 3.0) -> None:
        super().__init__(cutoff, {1: -13.0, 6: -1030.0, 7: -1480.0, 8: -2040.0})
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.species = torch.nn.Embedding(len(ELEMENTS), width)
            self.filters = torch.nn.Linear(width, width)
            self.readout = torch.nn.Sequential(
                torch.nn.Linear(2 * width, width), torch.nn.SiLU(), torch.nn.Linear(width, 1)
            )
            self.push = torch.nn.Sequential(
                torch.nn.Linear(3 * width, width), torch.nn.SiLU(), torch.nn.Linear(width, 1)
            )
        self.register_buffer("centres", torch.linspace(0.5, cutoff, width))
        self.double()

    def _surroundings(
        self, batch: GraphBatch, element: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        sender, receiver = batch.edge_index
        shift = torch.einsum("ei,eij->ej", batch.unit_shifts, batch.cell[batch.structure[sender]])
        vectors = batch.positions[receiver] - batch.positions[sender] + shift
        length = vectors.norm(dim=1, keepdim=True)
        smooth = (1 - (length / self.cutoff) ** 2).clamp(min=0.0) ** 3
        radial = smooth * torch.exp(-4.0 * (length - self.centres) ** 2)
        species = self.species(element)
        message = self.filters(radial) * smooth * species[receiver]
        around = torch.zeros_like(species).index_add(0, sender, message)
        features = torch.cat([species, around], dim=1)
        pair = torch.cat([features[sender], radial], dim=1)
        pull = smooth * self.push(pair) * vectors / length
        return features, pull, sender

    @property
    def direct_forces(self) -> bool:
        return True

    def interaction(
        self, batch: GraphBatch, element: torch.Tensor, strain: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        return self.interaction_and_forces(batch, element, strain)[:3]

    def interaction_and_forces(
        self, batch: GraphBatch, element: torch.Tensor, strain: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor]:
        if strain:
            raise FoundationError("a direct-force network has no stress. Leave stress labels out.")
        positions = batch.positions.detach().requires_grad_(torch.is_grad_enabled())
        placed = replace(batch, positions=positions)
        features, pull, sender = self._surroundings(placed, element)
        forces = torch.zeros_like(positions).index_add(0, sender, pull)
        return self.readout(features).squeeze(1), positions, None, forces
