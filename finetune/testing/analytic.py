"""Potentials with closed forms, to hold losses and training against hand calculations."""

from __future__ import annotations

from abc import abstractmethod
from copy import deepcopy
from functools import lru_cache

import torch

from finetune.data.graphs import GraphBatch
from finetune.potentials.family import UNNAMED, Family, family
from finetune.potentials.potential import FamilyPotential, Interaction, Potential, edges_within


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
        edges = edges_within(self.cutoff, batch, strain)
        smooth = (1.0 - edges.lengths.square() / self.cutoff**2) ** 3
        energy = 0.5 * self.pair(edges.lengths) * smooth
        atoms = edges.positions.new_zeros(len(edges.positions))
        return atoms.index_add(0, edges.sender, energy), edges.positions, edges.strain


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


def small_potential(
    kind: str = UNNAMED,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    head: str | None = None,
    **changes: object,
) -> FamilyPotential:
    """Return an untrained potential of a family, for H, C, N and O, in evaluation mode.

    ``changes`` replace settings of the family's example; the weights are drawn with ``seed``.
    """
    given = {**family(kind).example().model_dump(), **changes}
    settings = family(kind).Settings.model_validate(given)
    return deepcopy(_built(type(family(kind)), settings.model_dump_json(), seed, dtype, head))


@lru_cache(maxsize=16)
def _built(
    kind: type[Family], settings: str, seed: int, dtype: torch.dtype, head: str | None
) -> FamilyPotential:
    """Build a potential once; it is copied in a tenth of the time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        found = kind().build(kind.Settings.model_validate_json(settings), dtype, head)
    return found.eval()
