"""Bonds of a batch, which two directed edges share, and the angles between them."""

from __future__ import annotations

import torch


def bonds(
    sender: torch.Tensor, receiver: torch.Tensor, unit_shifts: torch.Tensor, atoms: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the bond of each directed edge ``[E]``, and an edge of each bond ``[U]``.

    The edge from i to j translated by S, and that from j to i translated by −S, are one bond.

    Args:
        sender: Atoms from which the edges go ``[E]``.
        receiver: Atoms to which they go ``[E]``.
        unit_shifts: Lattice translations of the receiver ``[E, 3]``.
        atoms: Number of atoms.
    """
    shifts = unit_shifts.round().long()
    x, y, z = shifts.unbind(1)
    turned = (x < 0) | ((x == 0) & ((y < 0) | ((y == 0) & (z < 0))))
    backward = (sender > receiver) | ((sender == receiver) & turned)
    low, high = torch.minimum(sender, receiver), torch.maximum(sender, receiver)
    shifts = torch.where(backward[:, None], -shifts, shifts)
    reach = 2 * int(shifts.abs().max()) + 1 if len(shifts) else 1
    translations, translation = torch.unique(
        (shifts[:, 0] * reach + shifts[:, 1]) * reach + shifts[:, 2], return_inverse=True
    )
    key = (low * atoms + high) * len(translations) + translation
    found, bond = torch.unique(key, return_inverse=True)
    edges = torch.arange(len(bond), device=bond.device)
    first = bond.new_zeros(len(found)).scatter_reduce(0, bond, edges, "amin", include_self=False)
    return bond, first


def angles(sender: torch.Tensor, short: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return all ordered pairs of different short edges that go out from the same atom.

    Args:
        sender: Atoms from which the edges go ``[E]``.
        short: Which of them take part ``[E]``.

    Returns:
        The first and the second edge of each angle, two ``[A]``.
    """
    edges = short.nonzero()[:, 0]
    edges = edges[torch.argsort(sender[edges], stable=True)]
    _, group, sizes = torch.unique_consecutive(
        sender[edges], return_inverse=True, return_counts=True
    )
    starts, partners = torch.cumsum(sizes, 0) - sizes, sizes[group]
    first = torch.repeat_interleave(torch.arange(len(edges), device=edges.device), partners)
    before = torch.cumsum(partners, 0) - partners
    place = torch.arange(len(first), device=edges.device) - before[first]
    second = starts[group[first]] + place
    different = first != second
    return edges[first[different]], edges[second[different]]
