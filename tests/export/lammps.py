"""Stand in for LAMMPS: local atoms, the ghosts around them, and what its pair styles pass on."""

from dataclasses import dataclass, field

import numpy as np
import torch
from ase import Atoms

from finetune.data.graphs import GraphBatch, graph
from tests.conftest import structure


@dataclass
class Subdomain:
    """All atoms as local ones, their periodic images within a distance as ghosts.

    Of each atom: positions ``[n, 3]``, atomic numbers ``[n]`` and the local atom that it is an
    image of ``[n]``; the first ``local`` are local.
    """

    positions: np.ndarray
    numbers: np.ndarray
    owner: np.ndarray
    local: int

    @classmethod
    def of(cls, atoms: Atoms, reach: float) -> "Subdomain":
        positions, owner = [atoms.positions], [np.arange(len(atoms))]
        if atoms.pbc.any():
            counts = np.ceil(reach / (1 / np.linalg.norm(np.linalg.pinv(atoms.cell[:]), axis=0)))
            for image in np.ndindex(*(2 * counts.astype(int) + 1)):
                shift = (np.array(image) - counts) @ atoms.cell[:]
                moved = atoms.positions + shift
                apart = np.linalg.norm(moved[:, None] - atoms.positions[None], axis=2).min(axis=1)
                near = (apart < reach) & (np.abs(shift).sum() > 1e-9)
                positions.append(moved[near])
                owner.append(np.flatnonzero(near))
        owners = np.concatenate(owner)
        return cls(np.concatenate(positions), atoms.numbers[owners], owners, len(atoms))

    def graph(self, cutoff: float) -> GraphBatch:
        return graph(structure(Atoms(self.numbers, self.positions)), cutoff)

    def folded(self, forces: np.ndarray) -> np.ndarray:
        """Add the forces on ghosts to those on the atoms that they are images of."""
        total = np.zeros((self.local, 3))
        np.add.at(total, self.owner, forces)
        return total


def pair_style_mace(
    model: torch.jit.ScriptModule, domain: Subdomain, virials: bool = False
) -> dict[str, torch.Tensor]:
    """Call a compiled model with the inputs of ``pair_style mace``, domains decomposed."""
    numbers = model.atomic_numbers.tolist()
    dtype = model.r_max.dtype
    found = domain.graph(float(model.r_max))
    species = torch.tensor([numbers.index(number) for number in domain.numbers])
    count = len(domain.numbers)
    edges = found.edge_index.shape[1]
    inputs = {
        "batch": torch.zeros(count, dtype=torch.int64),
        "cell": torch.zeros((3, 3), dtype=dtype),
        "edge_index": found.edge_index,
        "energy": torch.zeros(1, dtype=dtype),
        "forces": torch.zeros((count, 3), dtype=dtype),
        "node_attrs": torch.nn.functional.one_hot(species, len(numbers)).to(dtype),
        "positions": found.positions.to(dtype),
        "ptr": torch.tensor([0, count]),
        "shifts": torch.zeros((edges, 3), dtype=dtype),
        "unit_shifts": torch.zeros((edges, 3), dtype=dtype),
        "weight": torch.ones(1, dtype=dtype),
    }
    mask = torch.arange(count) < domain.local
    return model(inputs, mask, virials)


@dataclass
class MliapData:
    """What ``pair_style mliap unified`` hands to the model in each step."""

    domain: Subdomain
    elements: list[str]
    cutoff: float
    energy: float = 0.0
    forces: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        from ase.data import chemical_symbols

        found = self.domain.graph(self.cutoff)
        first, second = found.edge_index
        inside = first < self.domain.local
        self.pair_i, self.pair_j = first[inside], second[inside]
        self.rij = found.positions[self.pair_j] - found.positions[self.pair_i]
        self.npairs = len(self.pair_i)
        self.nlocal, self.ntotal = self.domain.local, len(self.domain.numbers)
        symbols = [chemical_symbols[number] for number in self.domain.numbers]
        self.elems = np.array([self.elements.index(symbol) for symbol in symbols])
        self.eatoms = np.zeros(self.nlocal)
        self.forces = np.zeros((self.ntotal, 3))
        self._owner = torch.from_numpy(self.domain.owner)

    def forward_exchange(self, features: torch.Tensor, out: torch.Tensor, _: int) -> None:
        out.copy_(features[self._owner])

    def reverse_exchange(self, gradient: torch.Tensor, out: torch.Tensor, _: int) -> None:
        out.zero_()
        out.index_add_(0, self._owner, gradient)

    def update_pair_forces_gpu(self, pair_forces: torch.Tensor) -> None:
        values = pair_forces.detach().numpy()
        np.add.at(self.forces, self.pair_i.numpy(), values)
        np.subtract.at(self.forces, self.pair_j.numpy(), values)
