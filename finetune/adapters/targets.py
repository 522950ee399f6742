"""What LoRA can adapt in a MACE model, and how peft is told of it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch
from e3nn import nn, o3

from finetune.adapters.equivariant_linear import (
    HIGHEST,
    clamped,
    contraction_class,
    contraction_weights,
)


@dataclass(frozen=True)
class Target:
    """A layer that can be adapted.

    Attributes:
        parameter: Name of the parameter that peft wraps; empty where the layer as a whole is
            exchanged.
        shapes: Rows and columns of its matrices.
    """

    parameter: str
    shapes: tuple[tuple[int, int], ...]

    def rank(self, rank: int) -> int:
        """Return the smallest rank of its updates where ``rank`` is asked for."""
        return min(clamped(rank, *shape) for shape in self.shapes)


def targets(model: torch.nn.Module, every_order: bool = False) -> dict[str, Target]:
    """Return what can be adapted, by the layer's name in the model.

    These are equivariant linear layers and tensor products, radial networks, symmetric contractions
    and dense layers.

    Args:
        model: The model.
        every_order: Adapt the weights of every order of a symmetric contraction, not only those
            of the highest.
    """
    contraction = contraction_class()
    found: dict[str, Target] = {}
    for name, module in model.named_modules():
        if isinstance(module, o3.Linear):
            paths = [i.path_shape for i in module.instructions if i.i_in != -1]
            found[name] = Target("", tuple(paths))
        elif isinstance(module, o3.FullyConnectedTensorProduct):
            paths = [i.path_shape for i in module.instructions if i.has_weight]
            found[name] = Target("", tuple((shape[0], shape[2]) for shape in paths))
        elif isinstance(module, nn.FullyConnectedNet):
            for layer, child in module.named_children():
                found[f"{name}.{layer}"] = Target("weight", (tuple(child.weight.shape),))
        elif isinstance(module, contraction):
            orders = {
                order: (item.shape[1], item.shape[2])
                for order, item in contraction_weights(module).items()
            }
            if every_order:
                found[name] = Target("", tuple(orders.values()))
            elif HIGHEST in orders:
                found[name] = Target(HIGHEST, (orders[HIGHEST],))
        elif isinstance(module, torch.nn.Linear):
            found[name] = Target("", ((module.in_features, module.out_features),))
    return {
        name: Target(item.parameter, shapes)
        for name, item in found.items()
        if (shapes := tuple(shape for shape in item.shapes if 0 not in shape))
    }


def peft_arguments(chosen: dict[str, Target], rank: int, alpha: float) -> dict[str, Any]:
    """Return arguments of peft's `LoraConfig` that adapt the chosen layers.

    The layers of `equivariant_linear` clamp the rank of each of their matrices; for the others it
    is given here, with an alpha that keeps alpha / rank.
    """
    parameters = {
        f"{name}.{item.parameter}": item for name, item in chosen.items() if item.parameter
    }
    modules = {name: item for name, item in chosen.items() if not item.parameter}
    lowered = {
        f"^{re.escape(name)}": item.rank(rank)
        for name, item in {**parameters, **modules}.items()
        if len(item.shapes) == 1 and item.rank(rank) < rank
    }
    return {
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": list(modules),
        "target_parameters": list(parameters) or None,
        "rank_pattern": lowered,
        "alpha_pattern": {name: alpha * lower / rank for name, lower in lowered.items()},
    }
