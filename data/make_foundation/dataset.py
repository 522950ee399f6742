"""The labelled configurations in memory, their neighbour lists, and batches for MACE."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from .molecules import named_molecules, split_of

ELEMENTS = (1, 6, 7, 8)


@dataclass
class Configurations:
    """Flat arrays over the atoms of all configurations (Å, eV, eV/Å, K).

    Atoms of configuration ``i`` are ``first_atom[i]:first_atom[i + 1]``, its directed edges
    (numbered within the configuration) ``first_edge[i]:first_edge[i + 1]``.
    """

    smiles: list[str]
    molecule: NDArray[np.int64]
    kind: NDArray[np.str_]
    temperature: NDArray[np.int64]
    energy: NDArray[np.float64]
    numbers: NDArray[np.int64]
    positions: NDArray[np.float64]
    forces: NDArray[np.float64]
    first_atom: NDArray[np.int64]
    edges: NDArray[np.int64]
    first_edge: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.energy)

    @property
    def n_atoms(self) -> NDArray[np.int64]:
        """Number of atoms of each configuration."""
        return np.diff(self.first_atom)

    @property
    def n_edges(self) -> NDArray[np.int64]:
        """Number of directed edges of each configuration."""
        return np.diff(self.first_edge)

    def composition(self) -> NDArray[np.float64]:
        """Number of atoms of each of :data:`ELEMENTS`, one row per configuration."""
        one_hot = np.equal.outer(self.numbers, np.array(ELEMENTS)).astype(float)
        return np.add.reduceat(one_hot, self.first_atom[:-1], axis=0)

    def splits(self, seed: int) -> dict[str, NDArray[np.int64]]:
        """Indices of the configurations of the ``train``, ``valid`` and ``test`` molecules."""
        named = named_molecules()
        by_molecule = np.array([split_of(s, seed, named) for s in self.smiles])
        return {
            name: np.flatnonzero(by_molecule[self.molecule] == name)
            for name in ("train", "valid", "test")
        }


def neighbour_list(positions: NDArray[np.float64], r_max: float) -> NDArray[np.int64]:
    """Directed edges ``[2, n]`` (sender, receiver) within ``r_max`` Å, sorted by receiver."""
    distance = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    np.fill_diagonal(distance, np.inf)
    return np.stack(np.nonzero(distance < r_max)[::-1])


def load(folder: Path, r_max: float) -> Configurations:
    """Read every molecule file of ``folder`` and find the neighbours within ``r_max`` Å."""
    files = sorted(folder.glob("*.npz"))
    if not files:
        raise FileNotFoundError(f"no configurations in {folder}: run the 'generate' step first")
    smiles: list[str] = []
    fields: dict[str, list[NDArray]] = {}
    for molecule, path in enumerate(files):
        with np.load(path) as stored:
            smiles.append(str(stored["smiles"]))
            for name in (
                "n_atoms",
                "numbers",
                "positions",
                "forces",
                "energy",
                "kind",
                "temperature",
            ):
                fields.setdefault(name, []).append(stored[name])
            fields.setdefault("molecule", []).append(np.full(len(stored["energy"]), molecule))
    flat = {name: np.concatenate(values) for name, values in fields.items()}
    first_atom = np.concatenate([[0], np.cumsum(flat["n_atoms"])])
    edges = [
        neighbour_list(flat["positions"][a:b], r_max)
        for a, b in zip(first_atom[:-1], first_atom[1:], strict=True)
    ]
    first_edge = np.concatenate([[0], np.cumsum([e.shape[1] for e in edges])])
    return Configurations(
        smiles=smiles,
        molecule=flat["molecule"],
        kind=flat["kind"].astype(str),
        temperature=flat["temperature"],
        energy=flat["energy"],
        numbers=flat["numbers"],
        positions=flat["positions"],
        forces=flat["forces"],
        first_atom=first_atom,
        edges=np.concatenate(edges, axis=1),
        first_edge=first_edge,
    )


def graph(
    numbers: NDArray[np.int64],
    positions: NDArray[np.float64],
    edges: NDArray[np.int64],
    sizes: NDArray[np.int64],
    dtype: torch.dtype,
) -> dict[str, torch.Tensor]:
    """The input of ``ScaleShiftMACE.forward`` for clusters with ``sizes`` atoms, no cell."""
    n_graphs, n_edges = len(sizes), edges.shape[1]
    one_hot = np.equal.outer(numbers, np.array(ELEMENTS))
    if not one_hot.any(axis=1).all():
        raise ValueError(f"only the elements {ELEMENTS} are known, got {sorted(set(numbers))}")
    return {
        "positions": torch.as_tensor(positions, dtype=dtype),
        "node_attrs": torch.as_tensor(one_hot, dtype=dtype),
        "edge_index": torch.as_tensor(edges),
        "shifts": torch.zeros(n_edges, 3, dtype=dtype),
        "unit_shifts": torch.zeros(n_edges, 3, dtype=dtype),
        "cell": torch.zeros(3 * n_graphs, 3, dtype=dtype),
        "batch": torch.as_tensor(np.repeat(np.arange(n_graphs), sizes)),
        "ptr": torch.as_tensor(np.concatenate([[0], np.cumsum(sizes)])),
    }


def batch_of(
    data: Configurations, indices: NDArray[np.int64], dtype: torch.dtype = torch.float32
) -> dict[str, torch.Tensor]:
    """The configurations ``indices`` as one graph batch, with no labels."""
    sizes = data.n_atoms[indices]
    offset = np.concatenate([[0], np.cumsum(sizes)])
    atoms = np.concatenate([np.arange(data.first_atom[i], data.first_atom[i + 1]) for i in indices])
    edges = np.concatenate(
        [
            data.edges[:, data.first_edge[i] : data.first_edge[i + 1]] + shift
            for i, shift in zip(indices, offset, strict=False)
        ],
        axis=1,
    )
    return graph(data.numbers[atoms], data.positions[atoms], edges, sizes, dtype)


def labels_of(
    data: Configurations, indices: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Total energies (eV) and forces (eV/Å) of the configurations ``indices``."""
    forces = np.concatenate(
        [data.forces[data.first_atom[i] : data.first_atom[i + 1]] for i in indices]
    )
    return data.energy[indices], forces


def ordered_batches(indices: NDArray[np.int64], size: int) -> Iterator[NDArray[np.int64]]:
    """Consecutive slices of ``indices``."""
    for start in range(0, len(indices), size):
        yield indices[start : start + size]
