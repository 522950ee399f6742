"""Cut-off graphs and flat batches of structures of different sizes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from finetune.data.distances import neighbours
from finetune.data.structures import Structure, geometry_hash

ENERGY_DTYPE = torch.float64
"""Total energies stay in double precision whatever the model computes in: a CCSD(T) total energy
of 10⁴ eV has a resolution of 1 meV in single precision."""


@dataclass(frozen=True)
class GraphBatch:
    """B structures with N atoms and E directed edges in all, as one graph.

    Attributes:
        numbers: Atomic numbers ``[N]``.
        positions: ``[N, 3]``, Å.
        cell: Lattice vectors as rows ``[B, 3, 3]``, Å.
        pbc: ``[B, 3]``.
        structure: Index of each atom's structure ``[N]``, ascending.
        atoms: Number of atoms of each structure ``[B]``.
        edge_index: Sender and receiver atoms ``[2, E]``.
        unit_shifts: Lattice translations of the receiver ``[E, 3]``.
        skin: Å by which the edges reach beyond the cutoff.
        charge: Total charges ``[B]``, e, whole numbers.
        spin: Spin multiplicities ``[B]``, whole numbers.
        energy: ``[B]``, eV, float64; meaningless where ``has_energy`` is False.
        has_energy: ``[B]``.
        forces: ``[N, 3]``, eV/Å; meaningless where ``has_forces`` is False.
        has_forces: ``[N]``.
        stress: ``[B, 3, 3]``, eV/Å³; meaningless where ``has_stress`` is False.
        has_stress: ``[B]``.
        identity: Hash of each geometry as it was read ``[B]``, int64; 0 for displaced copies.
            Equal ones share whatever is computed once for a structure.
        where: Origin of each structure, for messages.
    """

    numbers: torch.Tensor
    positions: torch.Tensor
    cell: torch.Tensor
    pbc: torch.Tensor
    structure: torch.Tensor
    atoms: torch.Tensor
    edge_index: torch.Tensor
    unit_shifts: torch.Tensor
    skin: float
    charge: torch.Tensor
    spin: torch.Tensor
    energy: torch.Tensor
    has_energy: torch.Tensor
    forces: torch.Tensor
    has_forces: torch.Tensor
    stress: torch.Tensor
    has_stress: torch.Tensor
    identity: torch.Tensor
    where: tuple[str, ...]

    def __len__(self) -> int:
        return int(self.atoms.numel())

    @property
    def volume(self) -> torch.Tensor:
        """Cell volumes ``[B]``, Å³; zero where the structure is not periodic in all directions."""
        volume = torch.linalg.det(self.cell).abs()
        return torch.where(self.pbc.all(dim=1), volume, torch.zeros_like(volume))

    def sum_atoms(self, values: torch.Tensor) -> torch.Tensor:
        """Add per-atom values ``[N, …]`` within each structure: ``[B, …]``."""
        return sum_per_structure(values, self.structure, len(self))

    def displaced(self, displacement: torch.Tensor) -> GraphBatch:
        """Return an unlabelled copy with atoms moved by ``displacement`` ``[N, 3]``, Å.

        The edges are kept, so no two atoms may move further than ``skin`` against each other.
        """
        return self._unlabelled(self.positions + displacement, self.cell)

    def strained(self, strain: torch.Tensor) -> GraphBatch:
        """Return an unlabelled copy with atoms and cells deformed by 1 + ε, ε ``[B, 3, 3]``.

        The edges are kept: no pair may enter the cutoff from further outside than ``skin``.
        """
        moved = torch.einsum("ni,nij->nj", self.positions, strain[self.structure])
        return self._unlabelled(self.positions + moved, self.cell + self.cell @ strain)

    def _unlabelled(self, positions: torch.Tensor, cell: torch.Tensor) -> GraphBatch:
        return replace(
            self,
            positions=positions,
            cell=cell,
            has_energy=torch.zeros_like(self.has_energy),
            has_forces=torch.zeros_like(self.has_forces),
            has_stress=torch.zeros_like(self.has_stress),
            identity=torch.zeros_like(self.identity),
        )

    def single(self, index: int) -> GraphBatch:
        """Return structure ``index`` as a batch of one."""
        atoms = self.structure == index
        first = int(torch.argmax(atoms.int()))
        edges = atoms[self.edge_index[0]]
        chosen: dict[str, Any] = {
            **{name: getattr(self, name)[atoms] for name in _PER_ATOM},
            **{name: getattr(self, name)[index : index + 1] for name in _PER_STRUCTURE},
        }
        return GraphBatch(
            **chosen,
            structure=torch.zeros_like(self.structure[atoms]),
            edge_index=self.edge_index[:, edges] - first,
            unit_shifts=self.unit_shifts[edges],
            skin=self.skin,
            where=self.where[index : index + 1],
        )

    def to(self, device: torch.device, dtype: torch.dtype) -> GraphBatch:
        """Move every tensor; floating ones but the energies become ``dtype``."""
        moved: dict[str, Any] = {}
        for name, value in vars(self).items():
            if isinstance(value, torch.Tensor):
                floating = value.is_floating_point() and name != "energy"
                moved[name] = value.to(device=device, dtype=dtype if floating else value.dtype)
        return replace(self, **moved)


_PER_ATOM = ("numbers", "positions", "forces", "has_forces")
_PER_STRUCTURE = (
    *("cell", "pbc", "atoms", "charge", "spin"),
    *("energy", "has_energy", "stress", "has_stress", "identity"),
)


def concatenate(batches: Sequence[GraphBatch]) -> GraphBatch:
    """Join batches into one, in order."""
    if len(batches) == 1:
        return batches[0]
    joined = {
        name: torch.cat([getattr(batch, name) for batch in batches])
        for name in (*_PER_ATOM, *_PER_STRUCTURE, "unit_shifts")
    }
    structure, edges, structures, atoms = [], [], 0, 0
    for batch in batches:
        structure.append(batch.structure + structures)
        edges.append(batch.edge_index + atoms)
        structures += len(batch)
        atoms += int(batch.numbers.numel())
    return GraphBatch(
        **joined,
        structure=torch.cat(structure),
        edge_index=torch.cat(edges, dim=1),
        skin=min(batch.skin for batch in batches),
        where=tuple(name for batch in batches for name in batch.where),
    )


def graph(structure: Structure, cutoff: float, skin: float = 0.0) -> GraphBatch:
    """Turn one structure into a batch of one, in float64 on the CPU.

    The ``skin`` (Å) is added to the cutoff (Å): atoms may move by half of it without a new graph.
    """
    sender, receiver, shifts = neighbours(
        "ijS", structure.positions, structure.cell, structure.pbc, cutoff + skin
    )
    n = len(structure)
    forces = np.zeros((n, 3)) if structure.forces is None else structure.forces
    stress = np.zeros((3, 3)) if structure.stress is None else structure.stress
    return GraphBatch(
        numbers=torch.from_numpy(structure.numbers),
        positions=torch.tensor(structure.positions, dtype=torch.float64),
        cell=torch.tensor(structure.cell, dtype=torch.float64)[None],
        pbc=torch.tensor(structure.pbc)[None],
        structure=torch.zeros(n, dtype=torch.int64),
        atoms=torch.tensor([n]),
        edge_index=torch.from_numpy(np.stack([sender, receiver]).astype(np.int64)),
        unit_shifts=torch.tensor(shifts, dtype=torch.float64),
        skin=skin,
        charge=torch.tensor([structure.charge]),
        spin=torch.tensor([structure.spin]),
        energy=torch.tensor([structure.energy or 0.0], dtype=ENERGY_DTYPE),
        has_energy=torch.tensor([structure.energy is not None]),
        forces=torch.tensor(forces, dtype=torch.float64),
        has_forces=torch.full((n,), structure.forces is not None),
        stress=torch.tensor(stress, dtype=torch.float64)[None],
        has_stress=torch.tensor([structure.stress is not None]),
        identity=torch.tensor([geometry_hash(structure)]),
        where=(structure.where,),
    )


def batches(graphs: Sequence[GraphBatch], size: int) -> Iterator[GraphBatch]:
    """Yield the graphs in order, ``size`` at a time."""
    for start in range(0, len(graphs), size):
        yield concatenate(list(graphs[start : start + size]))


def sum_per_structure(values: torch.Tensor, batch: torch.Tensor, structures: int) -> torch.Tensor:
    """Add values ``[N, …]`` of the atoms of each structure: ``[structures, …]``."""
    total = values.new_zeros((structures, *values.shape[1:]))
    return total.index_add(0, batch, values)
