"""Batches of one fixed shape, so that the training step is compiled once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from .dataset import Configurations, batch_of, labels_of

#: Configurations considered ahead when a batch is filled.
WINDOW = 60


@dataclass(frozen=True)
class Shape:
    """Numbers of graphs, atoms and edges of a batch; the last graph is two far-apart atoms.

    The padding edges all join those two atoms, which are further apart than the cutoff, so that
    neither they nor the padding atoms have any energy or force.
    """

    graphs: int
    atoms: int
    edges: int


def pack(
    data: Configurations, indices: NDArray[np.int64], shape: Shape, rng: np.random.Generator
) -> Iterator[NDArray[np.int64]]:
    """One pass over ``indices`` in random order, in groups that fit into ``shape``."""
    n_atoms, n_edges = data.n_atoms, data.n_edges
    queue = [int(i) for i in rng.permutation(indices)]
    while queue:
        atoms, edges, chosen = shape.atoms - 2, shape.edges, []
        for position, i in enumerate(queue[:WINDOW]):
            if len(chosen) == shape.graphs - 1:
                break
            if n_atoms[i] <= atoms and n_edges[i] <= edges:
                atoms, edges = atoms - n_atoms[i], edges - n_edges[i]
                chosen.append(position)
        if not chosen:
            raise ValueError(f"a configuration does not fit into a batch of {shape}")
        yield np.array([queue[position] for position in chosen])
        for position in reversed(chosen):
            del queue[position]


def padded(
    data: Configurations,
    indices: NDArray[np.int64],
    shape: Shape,
    r_max: float,
    interaction_energy: NDArray[np.float64],
) -> dict[str, torch.Tensor]:
    """Model input, labels (eV, eV/Å) and weights of one batch, padded to ``shape``.

    ``inverse_size`` is 1 / atoms of each graph, ``graph_weight`` 1 / graphs and ``atom_weight``
    1 / atoms of the batch on what is real, and 0 on the padding.
    """
    batch = batch_of(data, indices)
    _, forces = labels_of(data, indices)
    sizes = data.n_atoms[indices]
    atoms, edges = len(forces), batch["edge_index"].shape[1]
    positions = torch.zeros(shape.atoms, 3)
    positions[:atoms] = batch["positions"]
    positions[atoms + 1 :, 0] = 2.0 * r_max
    node_attrs = torch.zeros(shape.atoms, batch["node_attrs"].shape[1])
    node_attrs[:atoms] = batch["node_attrs"]
    node_attrs[atoms:, 0] = 1.0
    edge_index = torch.empty(2, shape.edges, dtype=torch.int64)
    edge_index[:, :edges] = batch["edge_index"]
    edge_index[0, edges:], edge_index[1, edges:] = atoms, atoms + 1
    membership = torch.full((shape.atoms,), shape.graphs - 1)
    membership[:atoms] = batch["batch"]
    energy, inverse_size, graph_weight = torch.zeros(3, shape.graphs).unbind()
    energy[: len(indices)] = torch.as_tensor(interaction_energy[indices], dtype=torch.float32)
    inverse_size[: len(indices)] = torch.as_tensor(1.0 / sizes)
    graph_weight[: len(indices)] = 1.0 / len(indices)
    force_labels, atom_weight = torch.zeros(shape.atoms, 3), torch.zeros(shape.atoms)
    force_labels[:atoms] = torch.as_tensor(forces)
    atom_weight[:atoms] = 1.0 / atoms
    return {
        "positions": positions,
        "node_attrs": node_attrs,
        "edge_index": edge_index,
        "batch": membership,
        "ptr": torch.zeros(shape.graphs + 1, dtype=torch.int64),
        "energy": energy,
        "forces": force_labels,
        "inverse_size": inverse_size,
        "graph_weight": graph_weight,
        "atom_weight": atom_weight,
    }
