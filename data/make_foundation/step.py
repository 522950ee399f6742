"""Loss and parameter gradients of one batch, compiled into one graph.

Training on forces differentiates twice, which ``torch.compile`` cannot trace by itself: the step,
derivatives included, is first written out as one graph of tensor operations.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from mace.modules.models import ScaleShiftMACE
from torch.fx.experimental.proxy_tensor import make_fx

Tensors = dict[str, torch.Tensor]
#: Parameters, batch and energy weight in; loss, force term, energy term and gradients out.
Step = Callable[[list[torch.Tensor], Tensors, torch.Tensor], list[torch.Tensor]]

FORCE_SOFTENING = 0.02  # eV/Å, where the force term turns from quadratic to linear
ENERGY_SOFTENING = 0.002  # eV/atom, likewise


def make_step(model: ScaleShiftMACE) -> Step:
    """The eager step; ``model`` only lends its structure, its parameters are passed in."""
    names = [name for name, _ in model.named_parameters()]

    def step(
        parameters: list[torch.Tensor], batch: Tensors, energy_weight: torch.Tensor
    ) -> list[torch.Tensor]:
        leaves = [p.detach().requires_grad_(True) for p in parameters]
        zeros = torch.zeros(batch["edge_index"].shape[1], 3)
        graphs = batch["ptr"].shape[0] - 1
        data = {
            "positions": batch["positions"].detach().requires_grad_(True),
            "node_attrs": batch["node_attrs"],
            "edge_index": batch["edge_index"],
            "batch": batch["batch"],
            "ptr": batch["ptr"],
            "shifts": zeros,
            "unit_shifts": zeros,
            "cell": torch.zeros(3 * graphs, 3),
        }
        out = torch.func.functional_call(
            model, dict(zip(names, leaves, strict=True)), (data,), {"training": True}
        )
        force_error = (out["forces"] - batch["forces"]).square().sum(dim=-1)
        force = (batch["atom_weight"] * (force_error + FORCE_SOFTENING**2).sqrt()).sum()
        per_atom = (out["interaction_energy"] - batch["energy"]) * batch["inverse_size"]
        energy = (batch["graph_weight"] * (per_atom.square() + ENERGY_SOFTENING**2).sqrt()).sum()
        loss = force + energy_weight * energy
        gradients = torch.autograd.grad(loss, leaves, allow_unused=True)
        return [loss.detach(), force.detach(), energy.detach()] + [
            torch.zeros_like(p) if g is None else g for g, p in zip(gradients, leaves, strict=True)
        ]

    return step


def compile_step(
    step: Step, parameters: list[torch.Tensor], batch: Tensors, energy_weight: torch.Tensor
) -> Step:
    """``step`` as compiled code for batches of the same shapes as ``batch``."""
    traced = make_fx(step)(parameters, batch, energy_weight)
    return torch.compile(traced, dynamic=False)
