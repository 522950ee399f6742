"""Keep weights that several potentials have in common in memory once."""

from __future__ import annotations

import torch

from finetune.foundation.potential import Potential


def share(potential: Potential, foundation: Potential) -> None:
    """Let parameters and constants that are the foundation's lie where the foundation has them.

    Args:
        potential: On the foundation's device; not to be trained further.
        foundation: Another potential, alone or inside of a `WrappedPotential`.
    """
    own = {**dict(foundation.named_parameters()), **dict(foundation.named_buffers())}
    for name, tensor in (*potential.named_parameters(), *potential.named_buffers()):
        other = own.get(name, own.get(name.removeprefix("base.")))  # of a `WrappedPotential`
        if "reference_energies" not in name and other is not None and _same(tensor, other):
            tensor.data = other.data


def _same(first: torch.Tensor, second: torch.Tensor) -> bool:
    alike = first.dtype == second.dtype and first.device == second.device
    return alike and torch.equal(first, second)
