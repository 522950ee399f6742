"""A potential that has nothing in common with MACE: a small network with forces of its own."""

import torch

from finetune.core.errors import FoundationError
from finetune.core.units import Prediction
from finetune.data.graphs import ENERGY_DTYPE, GraphBatch
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

    def interaction(
        self, batch: GraphBatch, element: torch.Tensor, strain: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        features, *_ = self._surroundings(batch, element)
        return self.readout(features).squeeze(1), batch.positions, None

    def forward(
        self,
        batch: GraphBatch,
        forces: bool = True,
        stress: bool = False,
        create_graph: bool | None = None,
    ) -> Prediction:
        if stress:
            raise FoundationError("a direct-force network has no stress. Leave stress labels out.")
        learning = self.training if create_graph is None else create_graph
        element = self.element_index(batch.numbers)
        with torch.set_grad_enabled(torch.is_grad_enabled() and (learning or not forces)):
            features, pull, sender = self._surroundings(batch, element)
            node_energy = self.readout(features).squeeze(1).to(ENERGY_DTYPE)
            node_energy = node_energy + self.reference_energies[element]
            found = torch.zeros_like(batch.positions).index_add(0, sender, pull)
        return Prediction(
            energy=batch.sum_atoms(node_energy),
            node_energy=node_energy,
            forces=found if forces else None,
        )
