"""A potential whose forces are no gradient is pushed towards conservative ones."""

import pytest
import torch

from finetune.core.units import Prediction
from finetune.data.graphs import GraphBatch, concatenate, graph
from finetune.losses.loss import TotalLoss
from finetune.potentials.potential import Potential
from finetune.recipe.loss_options import SpatialOptions
from finetune.testing import MorsePotential
from tests.conftest import rattled, structure

CUTOFF = 3.0


class DirectForces(Potential):
    """Energies of a fixed Morse potential, forces of a network on bond vectors beside it.

    The forces Σ_j f(r_ij, z_i) r̂_ij depend on the first atom's element, so that they obey neither
    Newton's third law nor any energy.
    """

    def __init__(self) -> None:
        super().__init__(CUTOFF, {1: 0.0, 6: 0.0, 8: 0.0})
        self.energy = MorsePotential(1.0, 1.0, 1.3, CUTOFF).requires_grad_(False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.network = torch.nn.Sequential(
                torch.nn.Linear(4, 24), torch.nn.Tanh(), torch.nn.Linear(24, 1)
            ).double()

    def interaction(self, batch, element, strain):  # type: ignore[no-untyped-def]
        raise NotImplementedError

    def direct(self, batch: GraphBatch, positions: torch.Tensor) -> torch.Tensor:
        sender, receiver = batch.edge_index
        vectors = positions[receiver] - positions[sender]
        distance = vectors.norm(dim=1, keepdim=True)
        element = torch.nn.functional.one_hot(self.element_index(batch.numbers), 3).double()
        pull = self.network(torch.cat([distance, element[sender]], dim=1))
        smooth = torch.clamp(1 - (distance / CUTOFF) ** 2, min=0.0) ** 2
        pairs = pull * smooth * vectors / distance
        return torch.zeros_like(positions).index_add(0, sender, pairs)

    def forward(
        self,
        batch: GraphBatch,
        forces: bool = True,
        stress: bool = False,
        create_graph: bool | None = None,
    ) -> Prediction:
        found = self.energy(batch, forces=False)
        direct = self.direct(batch, batch.positions) if forces else None
        return Prediction(found.energy, found.node_energy, direct)


def curl(potential: DirectForces, single: GraphBatch) -> float:
    """Size of the antisymmetric part of ∂F/∂r, relative to the whole."""
    jacobian = torch.autograd.functional.jacobian(
        lambda flat: potential.direct(single, flat.reshape(-1, 3)).reshape(-1),
        single.positions.reshape(-1),
    )
    return float((jacobian - jacobian.T).norm() / (jacobian + jacobian.T).norm())


@pytest.mark.slow
def test_pisc_lowers_the_curl_of_direct_forces() -> None:
    potential = DirectForces().train()
    total = TotalLoss({"pisc": SpatialOptions(kind="pisc", displacement=0.03, copies=4)})
    graphs = [
        graph(structure(rattled("CH3OH", seed, 0.05)), CUTOFF, total.skin(CUTOFF))
        for seed in range(8)
    ]
    unseen = graph(structure(rattled("CH3OH", 99, 0.05)), CUTOFF)
    batch, generator = concatenate(graphs), torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam(potential.network.parameters(), lr=1e-2)
    curls, values = [curl(potential, unseen)], []
    for _ in range(300):
        value = total(batch, potential, generator)
        assert value is not None
        optimiser.zero_grad()
        value.total.backward()
        optimiser.step()
        values.append(value.total.item())
    curls.append(curl(potential, unseen))
    assert values[-1] < 0.1 * values[0]
    assert curls[1] < 0.5 * curls[0]
