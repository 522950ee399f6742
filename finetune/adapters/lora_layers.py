"""Low-rank updates of equivariant layers, as layers that peft can inject, save and merge.

An equivariant linear layer mixes channels of the same irrep only: one matrix ``[mul_in, mul_out]``
for each of its paths. Each matrix W gets an update (alpha / rank) · A B of its own, so that the
updated layer is equivariant for any A and B (LoRA: Hu et al., arXiv 2106.09685). A fully connected
tensor product has such a matrix for each channel of its second input, usually the element. A family
may name further layers whose weights are such matrices.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from torch.func import functional_call

from finetune.core.errors import RecipeError
from finetune.potentials.equivariant import quiet_import
from finetune.potentials.family import MatrixStack, families, family
from finetune.recipe.adapter_options import REFUSED

o3 = quiet_import("e3nn.o3")

_stacks: dict[type, MatrixStack] = {}
"""Further layers that are registered, by class."""


def register_equivariant_layers(
    config: LoraConfig, stacks: Mapping[type, MatrixStack] | None = None
) -> LoraConfig:
    """Make a configuration of peft know layers, and return it.

    ``stacks`` are a potential's own kinds of layers, by default those of all families. peft does
    not store this with an adapter, so it is needed before `PeftModel.from_pretrained`.
    """
    layers: dict[Any, Any] = {
        o3.Linear: EquivariantLinearLora,
        o3.FullyConnectedTensorProduct: EquivariantProductLora,
    }
    named = config.target_parameters or ()  # peft adapts these parameters itself
    if stacks is None:
        known = [family(name).matrix_stacks() for name in families.names()]
        stacks = {layer: stack for own in known for layer, stack in own.items()}
    for layer, stack in stacks.items():
        _stacks[layer] = stack
        if not any(parameter.endswith(f".{stack.main}") for parameter in named):
            layers[layer] = MatrixStackLora
    config._register_custom_module(layers)
    # peft applies these patterns to parameters, too, but looks for them among modules alone
    warnings.filterwarnings(
        "ignore",
        message="The following (rank|alpha)_pattern keys did not match",
        category=RuntimeWarning,
    )
    return config


def clamped(rank: int, rows: int, columns: int) -> int:
    """Return the rank, at most the largest whose factors are no larger than the matrix."""
    return max(1, min(rank, rows * columns // (rows + columns)))


class EquivariantLora(torch.nn.Module, LoraLayer):
    """A frozen layer, its weights shared and internal, with a low-rank update for each matrix.

    Ranks are smaller than ``r`` where the factors would outgrow the matrix. An update is scaled by
    alpha / rank, or alpha / √rank with peft's rsLoRA; RecipeError for options that break
    equivariance.
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
        base_layer: torch.nn.Module,
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

    @abstractmethod
    def shapes(self) -> dict[str, tuple[int, int, int]]:
        """Return how many matrices a path has, their rows and columns, in the weight's order."""

    def weights(self) -> Mapping[str, torch.nn.Parameter]:
        """Return the layer's own weights by name, in the order of its flat weight."""
        return {"weight": self.get_base_layer().weight}

    @abstractmethod
    def flat(self, delta: torch.Tensor) -> torch.Tensor:
        """Return a path's matrices ``[(matrices,) rows, columns]`` as its part of the weight."""

    def ranks(self, rank: int) -> list[int]:
        """Return the rank of each path's update where ``rank`` is asked for."""
        return [clamped(rank, rows, columns) for _, rows, columns in self.shapes().values()]

    def update_layer(
        self, adapter_name: str, r: int, lora_alpha: float, config: LoraConfig, **_: Any
    ) -> None:
        """Add the factors of an adapter: A random, B zero, so that the layer starts unchanged."""
        _check(config)
        like = next(iter(self.weights().values()))
        first, second = torch.nn.ParameterDict(), torch.nn.ParameterDict()
        shapes = self.shapes()
        for (name, shape), rank in zip(shapes.items(), self.ranks(r), strict=True):
            matrices, rows, columns = shape
            several = (matrices,) if matrices > 1 else ()
            factor = torch.randn(*several, rows, rank, dtype=torch.float64) / rank**0.5
            first[name] = torch.nn.Parameter(factor.to(like))
            second[name] = torch.nn.Parameter(like.new_zeros(*several, rank, columns))
        self.lora_A[adapter_name], self.lora_B[adapter_name] = first, second
        self.r[adapter_name] = r
        self.lora_alpha[adapter_name] = lora_alpha
        self.scaling[adapter_name] = lora_alpha / (r**0.5 if config.use_rslora else r)
        self.set_adapter(self.active_adapters)

    def get_delta_weight(self, adapter: str) -> torch.Tensor:
        """Return an adapter's change of the layer's flat weight ``[weight_numel]``."""
        first, second = self.lora_A[adapter], self.lora_B[adapter]
        parts = [self.flat(first[name] @ second[name]) for name in self.shapes()]
        delta: torch.Tensor = self.scaling[adapter] * torch.cat(parts)
        return delta

    def changes(self, adapter: str) -> dict[str, torch.Tensor]:
        """Return an adapter's change of each of the layer's own weights, in its shape."""
        weights = self.weights()
        sizes = [item.numel() for item in weights.values()]
        parts = torch.split(self.get_delta_weight(adapter), sizes)
        return {
            name: part.view_as(item)
            for (name, item), part in zip(weights.items(), parts, strict=True)
        }

    def evaluate(
        self, inputs: Sequence[torch.Tensor], weights: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        """Apply the layer with other weights than its own."""
        found: torch.Tensor = self.get_base_layer()(*inputs, *weights.values())
        return found

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Apply the layer with the active adapters' updates."""
        if self.disable_adapters or self.merged:
            unchanged: torch.Tensor = self.get_base_layer()(*inputs)
            return unchanged
        weights: dict[str, torch.Tensor] = dict(self.weights())
        for adapter in self.active_adapters:
            if adapter in self.lora_A:
                changes = self.changes(adapter)
                weights = {name: item + changes[name] for name, item in weights.items()}
        return self.evaluate(inputs, weights)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add the updates to the weights; with ``safe_merge``, ValueError for one not finite."""
        for adapter in adapter_names or self.active_adapters:
            if adapter in self.lora_A and adapter not in self.merged_adapters:
                if safe_merge and not bool(self.get_delta_weight(adapter).isfinite().all()):
                    raise ValueError(f"the update of the adapter '{adapter}' is not finite")
                self._add(adapter, 1.0)
                self.merged_adapters.append(adapter)

    def unmerge(self) -> None:
        """Take merged updates out of the layer's weights again."""
        while self.merged_adapters:
            self._add(self.merged_adapters.pop(), -1.0)

    def _add(self, adapter: str, factor: float) -> None:
        changes = self.changes(adapter)
        for name, weight in self.weights().items():
            weight.data += factor * changes[name].data

    def _get_in_out_features(self, module: torch.nn.Module) -> tuple[int, int]:
        irreps_in = getattr(module, "irreps_in", None) or module.irreps_in1
        return int(irreps_in.dim), int(module.irreps_out.dim)  # type: ignore[arg-type]


class EquivariantLinearLora(EquivariantLora):
    """An `e3nn.o3.Linear` with low-rank updates: a matrix ``[mul_in, mul_out]`` for each path."""

    def shapes(self) -> dict[str, tuple[int, int, int]]:
        """See `EquivariantLora.shapes`."""
        return {
            f"path_{index}": (1, *instruction.path_shape)
            for index, instruction in enumerate(self.get_base_layer().instructions)
            if instruction.i_in != -1 and 0 not in instruction.path_shape
        }

    def flat(self, delta: torch.Tensor) -> torch.Tensor:
        """See `EquivariantLora.flat`."""
        return delta.reshape(-1)


class EquivariantProductLora(EquivariantLora):
    """An `e3nn.o3.FullyConnectedTensorProduct` with low-rank updates.

    A path has a matrix ``[mul_in1, mul_out]`` for each channel of the second input.
    """

    def shapes(self) -> dict[str, tuple[int, int, int]]:
        """See `EquivariantLora.shapes`."""
        found = {}
        for index, instruction in enumerate(self.get_base_layer().instructions):
            rows, matrices, columns = instruction.path_shape
            if instruction.has_weight and rows * matrices * columns:
                found[f"path_{index}"] = (matrices, rows, columns)
        return found

    def flat(self, delta: torch.Tensor) -> torch.Tensor:
        """See `EquivariantLora.flat`."""
        matrices = delta.reshape(-1, *delta.shape[-2:])
        return matrices.transpose(0, 1).reshape(-1)


class MatrixStackLora(EquivariantLora):
    """A layer whose weights are stacks of matrices, with a low-rank update of each matrix.

    See `finetune.potentials.family.MatrixStack`.
    """

    def weights(self) -> Mapping[str, torch.nn.Parameter]:
        """See `EquivariantLora.weights`."""
        layer = self.get_base_layer()
        return _stacks[type(layer)].weights(layer)

    def shapes(self) -> dict[str, tuple[int, int, int]]:
        """See `EquivariantLora.shapes`."""
        return {
            name.replace(".", "_"): (item.shape[0], item.shape[1], item.shape[2])
            for name, item in self.weights().items()
        }

    def flat(self, delta: torch.Tensor) -> torch.Tensor:
        """See `EquivariantLora.flat`."""
        return delta.reshape(-1)

    def evaluate(
        self, inputs: Sequence[torch.Tensor], weights: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        """See `EquivariantLora.evaluate`."""
        found: torch.Tensor = functional_call(self.get_base_layer(), dict(weights), tuple(inputs))
        return found

    def _get_in_out_features(self, module: torch.nn.Module) -> tuple[int, int]:
        _, rows, columns = next(iter(_stacks[type(module)].weights(module).values())).shape
        return rows, columns


def _check(config: LoraConfig) -> None:
    """Refuse what would break equivariance, naming it."""
    for option, reason in REFUSED.items():
        value = getattr(config, option, None)
        harmless = (True,) if option == "init_lora_weights" else (None, False, 0, "none")
        if value not in harmless:
            raise RecipeError(
                f"peft's {option}={value} breaks the equivariance of e3nn's layers: {reason}."
                if option != "init_lora_weights"
                else f"peft's {option}={value} is not offered for e3nn's layers: {reason}."
            )
