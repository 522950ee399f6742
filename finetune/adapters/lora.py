"""LoRA through peft: low-rank updates of a MACE's layers, the rest frozen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from finetune.adapters.base import AdaptedPotential, Adapter, read_weights
from finetune.adapters.defaults import LORA
from finetune.adapters.options import LoraOptions
from finetune.adapters.patterns import matching
from finetune.errors import RecipeError
from finetune.files import write_atomically
from finetune.foundation.importing import mace_modules
from finetune.foundation.potential import Potential
from finetune.foundation.wrapped import innermost

WEIGHTS = "adapter_model.safetensors"
"""peft's own name, so that its tools read the folder."""
SHOWN = 6
"""Layers of lowered rank that a note names."""


class LoraPotential(AdaptedPotential):
    """A potential whose model peft has injected low-rank layers into.

    Args:
        potential: The potential; the ``model`` inside is changed in place.
        peft_model: peft's wrapper of that model.
        notes: What the user should be told.
    """

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
        """Read back what `save` wrote.

        Raises:
            RunFolderError: If the file is missing, damaged or belongs to another adapter.
        """
        from peft import get_peft_model_state_dict, set_peft_model_state_dict

        own = get_peft_model_state_dict(self.peft_model)
        set_peft_model_state_dict(self.peft_model, read_weights(folder / WEIGHTS, own))

    def merge(self) -> Potential:
        """Return a plain potential with the updates added to its weights."""
        merged = deepcopy(self.peft_model).merge_and_unload()
        plain = deepcopy(self.potential)
        innermost(plain).model = merged
        return plain.requires_grad_(True)


class LoraAdapter(Adapter):
    """Low-rank updates of layers chosen by name."""

    Options = LoraOptions
    training_defaults = LORA
    options: LoraOptions

    def attach(self, potential: Potential) -> LoraPotential:
        """See `Adapter.attach`.

        Raises:
            RecipeError: If the potential is not a MACE, or a target matches no layer, naming the
                nearest.
        """
        model = getattr(innermost(potential), "model", None)
        if not isinstance(model, torch.nn.Module):
            raise RecipeError(
                f"lora adapts the layers of a MACE; a {type(potential).__name__} has none. Choose "
                "another adapter."
            )
        mace_modules()  # e3nn imports only after mace
        from peft import LoraConfig, get_peft_model

        from finetune.adapters.equivariant_linear import register_equivariant_layers
        from finetune.adapters.targets import peft_arguments, targets

        rank = self.options.rank
        known = targets(model, every_order=self.options.contractions == "all")
        chosen = {
            name: known[name]
            for name in matching(list(known), self.options.targets, "layer that LoRA adapts")
        }
        config = LoraConfig(**peft_arguments(chosen, rank, self.options.alpha))
        register_equivariant_layers(config)
        lowered = {name: used for name, item in chosen.items() if (used := item.rank(rank)) < rank}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.options.seed)
            return LoraPotential(potential, get_peft_model(model, config), _notes(rank, lowered))


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
