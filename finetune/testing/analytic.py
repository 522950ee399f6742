"""Potentials with closed forms, to hold losses and training against hand calculations."""

from __future__ import annotations

from abc import abstractmethod

import torch

from finetune.data.graphs import GraphBatch
from finetune.potentials.mace.potential import MacePotential, MaceSettings
from finetune.potentials.potential import Interaction, Potential


class HarmonicPotential(Potential):
    """Every atom in a well at the origin: E = ½ k Σ_i |r_i|², F_i = −k r_i.

    ``stiffness`` is k, eV/Å², and the only parameter.
    """

    def __init__(self, stiffness: float = 3.0) -> None:
        super().__init__(cutoff=1.0, reference_energies={1: 0.0, 6: 0.0, 8: 0.0})
        self.stiffness = torch.nn.Parameter(torch.tensor(stiffness, dtype=torch.float64))

    def interaction(self, batch: GraphBatch, element: torch.Tensor, strain: bool) -> Interaction:
        """See `Potential.interaction`."""
        positions = batch.positions.detach().requires_grad_(torch.is_grad_enabled())
        return 0.5 * self.stiffness * positions.square().sum(dim=1), positions, None


class PairPotential(Potential):
    """E = ½ Σ_edges φ(r) (1 − r²/r_c²)³: periodic structures, stress and neighbour lists take part.

    ``depth`` is the energy scale of φ, eV, and the only parameter; ``cutoff`` is r_c, Å.
    """

    def __init__(self, depth: float, cutoff: float) -> None:
        super().__init__(cutoff=cutoff, reference_energies={1: 0.0, 6: 0.0, 8: 0.0, 18: 0.0})
        self.depth = torch.nn.Parameter(torch.tensor(depth, dtype=torch.float64))

    @abstractmethod
    def pair(self, distance: torch.Tensor) -> torch.Tensor:
        """Return φ ``[E]``, eV, at distances ``[E]``, Å."""

    def interaction(self, batch: GraphBatch, element: torch.Tensor, strain: bool) -> Interaction:
        """See `Potential.interaction`."""
        leaf = torch.is_grad_enabled()
        positions = batch.positions.detach().requires_grad_(leaf)
        epsilon = torch.zeros_like(batch.cell).requires_grad_(leaf) if strain else None
        sender, receiver = batch.edge_index
        shift = torch.einsum("ei,eij->ej", batch.unit_shifts, batch.cell[batch.structure[sender]])
        vectors = positions[receiver] - positions[sender] + shift
        if epsilon is not None:
            symmetric = 0.5 * (epsilon + epsilon.transpose(1, 2))
            deformed = torch.einsum("ei,eij->ej", vectors, symmetric[batch.structure[sender]])
            vectors = vectors + deformed
        square = vectors.square().sum(dim=1)
        inside = square < self.cutoff**2
        square = torch.where(inside, square, torch.ones_like(square))
        smooth = torch.where(inside, (1.0 - square / self.cutoff**2) ** 3, 0.0)
        energy = 0.5 * self.pair(square.sqrt()) * smooth
        return positions.new_zeros(len(positions)).index_add(0, sender, energy), positions, epsilon


class MorsePotential(PairPotential):
    """φ = D [(1 − exp(−a (r − r₀)))² − 1].

    ``depth`` is D, eV, ``width`` a, 1/Å, ``distance`` r₀ and ``cutoff``, Å.
    """

    def __init__(
        self, depth: float = 4.0, width: float = 1.9, distance: float = 1.1, cutoff: float = 4.0
    ) -> None:
        super().__init__(depth, cutoff)
        self.width, self.distance = width, distance

    def pair(self, distance: torch.Tensor) -> torch.Tensor:
        """See `PairPotential.pair`."""
        decay = torch.exp(-self.width * (distance - self.distance))
        return self.depth * ((1.0 - decay) ** 2 - 1.0)


class LennardJonesPotential(PairPotential):
    """φ = 4 ε [(σ/r)¹² − (σ/r)⁶]; the defaults are argon.

    ``depth`` is ε, eV, ``diameter`` σ and ``cutoff``, Å.
    """

    def __init__(self, depth: float = 0.0104, diameter: float = 3.4, cutoff: float = 8.0) -> None:
        super().__init__(depth, cutoff)
        self.diameter = diameter

    def pair(self, distance: torch.Tensor) -> torch.Tensor:
        """See `PairPotential.pair`."""
        sixth = (self.diameter / distance) ** 6
        return 4.0 * self.depth * (sixth.square() - sixth)


def tiny_settings(**changes: object) -> MaceSettings:
    """Return settings of a two-interaction MACE for H, C, N, O; ``changes`` replace fields."""
    fields: dict[str, object] = {
        "r_max": 4.0,
        "num_bessel": 4,
        "num_polynomial_cutoff": 5,
        "max_ell": 2,
        "hidden_irreps": "4x0e + 4x1o",
        "MLP_irreps": "4x0e",
        "radial_MLP": (8, 8),
        "correlation": 2,
        "avg_num_neighbors": 6.0,
        "atomic_numbers": (1, 6, 7, 8),
        "atomic_energies": ((-13.0, -1030.0, -1480.0, -2040.0),),
        "atomic_inter_scale": (1.5,),
        "atomic_inter_shift": (-0.2,),
    }
    return MaceSettings.model_validate({**fields, **changes})


def tiny_mace(
    seed: int = 0, dtype: torch.dtype = torch.float64, head: str | None = None, **changes: object
) -> MacePotential:
    """Return an untrained `MacePotential` with seeded weights, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MacePotential.build(tiny_settings(**changes), dtype, head).eval()
