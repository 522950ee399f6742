"""LoRA through peft: low-rank updates of the equivariant linear layers, the rest frozen."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from finetune.adapters.base import AdaptedPotential, Adapter, read_weights
from finetune.adapters.defaults import LORA
from finetune.adapters.options import LoraOptions
from finetune.adapters.patterns import matching
from finetune.files import write_atomically
from finetune.foundation.importing import mace_modules
from finetune.foundation.potential import Potential

WEIGHTS = "adapter_model.safetensors"
"""peft's own name, so that its tools read the folder."""


class LoraPotential(AdaptedPotential):
    """A potential whose model peft has injected low-rank layers into.

    Args:
        potential: The potential; its ``model`` is changed in place.
        peft_model: peft's wrapper of that model.
    """

    def __init__(self, potential: Potential, peft_model: Any) -> None:
        self.peft_model = peft_model
        names = (name for name, parameter in potential.named_parameters() if "lora_" in name)
        super().__init__(potential, frozenset(names))

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
        plain.model = merged
        return plain.requires_grad_(True)


class LoraAdapter(Adapter):
    """Low-rank updates of equivariant linear layers, chosen by name."""

    Options = LoraOptions
    training_defaults = LORA
    options: LoraOptions

    def attach(self, potential: Potential) -> LoraPotential:
        """See `Adapter.attach`.

        Raises:
            RecipeError: If a target matches no equivariant linear layer, naming the nearest.
        """
        mace_modules()  # e3nn imports only after mace
        from e3nn import o3
        from peft import LoraConfig, get_peft_model

        from finetune.adapters.equivariant_linear import EquivariantLinearLora

        model: Any = potential.model
        layers = [name for name, module in model.named_modules() if isinstance(module, o3.Linear)]
        config = LoraConfig(
            r=self.options.rank,
            lora_alpha=self.options.alpha,
            target_modules=matching(layers, self.options.targets, "equivariant linear layer"),
        )
        config._register_custom_module({o3.Linear: EquivariantLinearLora})
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.options.seed)
            return LoraPotential(potential, get_peft_model(model, config))
