"""LoRA through peft: low-rank updates of a network's layers, the rest frozen."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from finetune.adapters.adapter import AdaptedPotential, Adapter, matching, read_weights
from finetune.adapters.lora_layers import clamped, register_equivariant_layers
from finetune.core.errors import RecipeError
from finetune.core.files import write_atomically
from finetune.potentials.equivariant import quiet_import
from finetune.potentials.family import MatrixStack, family
from finetune.potentials.potential import FamilyPotential, Potential, innermost, plain_name
from finetune.recipe.adapter_options import LoraOptions


@dataclass(frozen=True)
class Target:
    """A layer that can be adapted: rows and columns of its matrices in ``shapes``.

    ``parameter`` is the one that peft wraps; empty where the complete layer is exchanged.
    """

    parameter: str
    shapes: tuple[tuple[int, int], ...]

    def rank(self, rank: int) -> int:
        """Return the smallest rank of its updates where ``rank`` is asked for."""
        return min(clamped(rank, *shape) for shape in self.shapes)


def targets(
    model: torch.nn.Module, stacks: Mapping[type, MatrixStack], complete: bool = False
) -> dict[str, Target]:
    """Return what can be adapted, by the layer's name in the model.

    ``stacks`` are the layers that are the family's own; their main weight alone is adapted, unless
    ``complete``.
    """
    o3, nn = quiet_import("e3nn.o3"), quiet_import("e3nn.nn")
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
        elif (stack := stacks.get(type(module))) is not None:
            weights = stack.weights(module)
            matrices = {key: (item.shape[1], item.shape[2]) for key, item in weights.items()}
            if complete:
                found[name] = Target("", tuple(matrices.values()))
            elif stack.main in matrices:
                found[name] = Target(stack.main, (matrices[stack.main],))
        elif isinstance(module, torch.nn.Linear):
            found[name] = Target("", ((module.in_features, module.out_features),))
    return {
        name: Target(item.parameter, shapes)
        for name, item in found.items()
        if (shapes := tuple(shape for shape in item.shapes if 0 not in shape))
    }


def peft_arguments(chosen: dict[str, Target], rank: int, alpha: float) -> dict[str, Any]:
    """Return arguments of peft's `LoraConfig` that adapt the chosen layers.

    Equivariant layers clamp the ranks of their matrices themselves; for others the rank is given
    here, with an alpha that keeps alpha / rank.
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


WEIGHTS = "adapter_model.safetensors"
"""peft's own name, so that its tools read the folder."""
SHOWN = 6
"""Layers of lowered rank that a note names."""


class LoraPotential(AdaptedPotential):
    """A potential into whose ``model`` peft has injected low-rank layers, in place."""

    def __init__(self, potential: Potential, peft_model: Any, notes: Sequence[str] = ()) -> None:
        self.peft_model = peft_model
        names = (name for name, parameter in potential.named_parameters() if "lora_" in name)
        super().__init__(potential, frozenset(names), notes)

    def save(self, folder: Path) -> None:
        """Write ``adapter_config.json`` and ``adapter_model.safetensors``, as peft does."""
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory() as temporary:
            self.peft_model.save_pretrained(temporary)
            for name in ("adapter_config.json", WEIGHTS):
                write_atomically(folder / name, (Path(temporary) / name).read_bytes())

    def load(self, folder: Path) -> None:
        """See `AdaptedPotential.load`."""
        from peft import get_peft_model_state_dict, set_peft_model_state_dict

        own = get_peft_model_state_dict(self.peft_model)
        set_peft_model_state_dict(self.peft_model, read_weights(folder / WEIGHTS, own))

    def merge(self) -> Potential:
        """Return a plain potential with the updates added to its weights."""
        merged = deepcopy(self.peft_model).merge_and_unload()
        plain = deepcopy(self.potential)
        inside = innermost(plain)
        assert isinstance(inside, FamilyPotential)
        inside.model = merged
        return plain.requires_grad_(True)


class LoraAdapter(Adapter):
    """Low-rank updates of layers chosen by name."""

    Options = LoraOptions
    options: LoraOptions

    def attach(self, potential: Potential) -> LoraPotential:
        """See `Adapter.attach`; refuses a potential of no family and targets without a layer."""
        inside = innermost(potential)
        if not isinstance(inside, FamilyPotential):
            raise RecipeError(
                f"lora adapts the layers of a family's network; a {type(potential).__name__} has "
                "none. Choose another adapter."
            )
        from peft import LoraConfig, get_peft_model

        rank = self.options.rank
        stacks = family(inside.family).matrix_stacks_of(inside.settings)
        found = targets(inside.model, stacks, complete=self.options.contractions == "all")
        known = {plain_name(name): name for name in found}
        wanted = matching(list(known), self.options.targets, "layer that LoRA adapts")
        chosen = {known[name]: found[known[name]] for name in wanted}
        config = LoraConfig(**peft_arguments(chosen, rank, self.options.alpha))
        register_equivariant_layers(config, stacks)
        lowered = {name: used for name, item in chosen.items() if (used := item.rank(rank)) < rank}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.options.seed)
            return LoraPotential(
                potential, get_peft_model(inside.model, config), _notes(rank, lowered)
            )


def _notes(rank: int, lowered: Mapping[str, int]) -> list[str]:
    """Tell where the rank is lower than asked for."""
    if not lowered:
        return []
    names = [f"{name} {used}" for name, used in lowered.items()]
    shown = ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")
    return [
        f"note: the rank of {rank} is lowered in {len(lowered)} layer"
        f"{'s' if len(lowered) > 1 else ''}, where the factors would have more entries than a "
        f"matrix: {shown}."
    ]
