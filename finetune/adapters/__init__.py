"""Adapters: which weights are trained, and LoRA through peft."""

from finetune.core.lazy import offers

__getattr__, __all__ = offers(
    __name__,
    {
        "adapter": "AdaptedPotential Adapter check_match matches",
        "lora_layers": "register_equivariant_layers",
    },
)
