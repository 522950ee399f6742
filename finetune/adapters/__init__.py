"""Adapters: which weights of a foundation potential a run may change.

Importing this package is cheap; implementations are imported when a run needs them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from finetune.registry import Registry

if TYPE_CHECKING:
    from finetune.adapters.base import Adapter

_OPTIONS = "finetune.adapters.options"

adapters: Registry[Adapter] = Registry(
    kind="adapter",
    group="piwsl_finetune.adapters",
    builtin={
        "full": ("finetune.adapters.full:FullAdapter", f"{_OPTIONS}:FullOptions"),
        "frozen": ("finetune.adapters.frozen:FrozenAdapter", f"{_OPTIONS}:FrozenOptions"),
        "head": ("finetune.adapters.head:HeadAdapter", f"{_OPTIONS}:HeadOptions"),
        "lora": ("finetune.adapters.lora:LoraAdapter", f"{_OPTIONS}:LoraOptions"),
        "shift": ("finetune.adapters.shift:ShiftAdapter", f"{_OPTIONS}:ShiftOptions"),
        "readout": ("finetune.adapters.frozen:ReadoutAdapter", f"{_OPTIONS}:ReadoutOptions"),
    },
)

register_adapter = adapters.register
