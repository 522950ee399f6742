"""Low-rank updates of `e3nn.o3.Linear`, as a layer that peft can inject, save and merge.

An equivariant linear layer mixes channels of the same irrep only: one matrix ``[mul_in, mul_out]``
for each of its paths. Each matrix W gets an update (alpha / rank) · A B of its own, so that the
updated layer is equivariant for any A and B (LoRA: Hu et al., arXiv 2106.09685).
"""

from __future__ import annotations

from typing import Any

import torch
from e3nn import o3
from peft import LoraConfig
from peft.tuners.lora import LoraLayer

from finetune.errors import RecipeError


class EquivariantLinearLora(torch.nn.Module, LoraLayer):
    """A frozen `o3.Linear` with a low-rank update for each path.

    Args:
        base_layer: The layer to adapt, with shared internal weights.
        adapter_name: peft's name of the adapter.
        config: peft's configuration.
        r: Rank, at most; smaller where the factors would outgrow the matrix.
        lora_alpha: The update is scaled by alpha / rank.

    Raises:
        RecipeError: For options of peft that break equivariance.
    """

    adapter_layer_names = ("lora_A", "lora_B")
    # Provided by LoraLayer, which is not typed.
    lora_A: Any  # noqa: N815
    lora_B: Any  # noqa: N815
    r: Any
    lora_alpha: Any
    scaling: Any
    active_adapters: Any
    disable_adapters: Any
    merged: Any
    merged_adapters: Any
    get_base_layer: Any
    set_adapter: Any

    def __init__(
        self,
        base_layer: o3.Linear,
        adapter_name: str,
        config: LoraConfig,
        r: int = 0,
        lora_alpha: float = 1,
        **_: Any,
    ) -> None:
        torch.nn.Module.__init__(self)
        LoraLayer.__init__(self, base_layer)
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, r, lora_alpha, config=config)

    def _get_in_out_features(self, module: torch.nn.Module) -> tuple[int, int]:
        return int(module.irreps_in.dim), int(module.irreps_out.dim)  # type: ignore[arg-type]

    def update_layer(
        self, adapter_name: str, r: int, lora_alpha: float, config: LoraConfig, **_: Any
    ) -> None:
        """Add the factors of an adapter: A random, B zero, so that the layer starts unchanged."""
        for option in ("lora_dropout", "use_dora", "lora_bias"):
            if getattr(config, option, None):
                raise RecipeError(f"peft's {option} breaks the equivariance of a linear layer.")
        base = self.get_base_layer()
        first, second = torch.nn.ParameterDict(), torch.nn.ParameterDict()
        for name, (rows, columns) in self._paths().items():
            rank = max(1, min(r, rows * columns // (rows + columns)))
            factor = torch.randn(rows, rank, dtype=torch.float64) / rank**0.5
            first[name] = torch.nn.Parameter(factor.to(base.weight))
            second[name] = torch.nn.Parameter(base.weight.new_zeros(rank, columns))
        self.lora_A[adapter_name], self.lora_B[adapter_name] = first, second
        self.r[adapter_name] = r
        self.lora_alpha[adapter_name] = lora_alpha
        self.scaling[adapter_name] = lora_alpha / r
        self.set_adapter(self.active_adapters)

    def get_delta_weight(self, adapter: str) -> torch.Tensor:
        """Return an adapter's change of the layer's flat weight ``[weight_numel]``."""
        first, second = self.lora_A[adapter], self.lora_B[adapter]
        parts = [(first[name] @ second[name]).reshape(-1) for name in self._paths()]
        delta: torch.Tensor = self.scaling[adapter] * torch.cat(parts)
        return delta

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Apply the layer with the active adapters' updates to ``[…, irreps_in.dim]``."""
        base = self.get_base_layer()
        if self.disable_adapters or self.merged:
            unchanged: torch.Tensor = base(features)
            return unchanged
        weight = base.weight
        for adapter in self.active_adapters:
            if adapter in self.lora_A:
                weight = weight + self.get_delta_weight(adapter)
        changed: torch.Tensor = base(features, weight)
        return changed

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add the updates to the layer's own weight."""
        base = self.get_base_layer()
        for adapter in adapter_names or self.active_adapters:
            if adapter in self.lora_A and adapter not in self.merged_adapters:
                base.weight.data += self.get_delta_weight(adapter).data
                self.merged_adapters.append(adapter)

    def unmerge(self) -> None:
        """Take merged updates out of the layer's weight again."""
        base = self.get_base_layer()
        while self.merged_adapters:
            base.weight.data -= self.get_delta_weight(self.merged_adapters.pop()).data

    def _paths(self) -> dict[str, tuple[int, int]]:
        """Names and shapes of the matrices, in the order of the flat weight."""
        base = self.get_base_layer()
        return {
            f"path_{index}": instruction.path_shape
            for index, instruction in enumerate(base.instructions)
            if instruction.i_in != -1 and 0 not in instruction.path_shape
        }
