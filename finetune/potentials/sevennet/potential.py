"""SevenNet as a potential: one of its channels predicts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch

from finetune.core.errors import RecipeError
from finetune.data.graphs import GraphBatch
from finetune.potentials.equivariant import path_weights
from finetune.potentials.potential import HeadedPotential, as_trained, choose_head, edges_within
from finetune.potentials.sevennet.network import Network, construct, unfilled
from finetune.potentials.sevennet.settings import SevenNetSettings, dimension, written

_HEAD_LAYERS = {
    "embedding": re.compile(r"onehot_to_feature_x\.linear"),
    "before": re.compile(r"\d+_self_interaction_1\.linear"),
    "after": re.compile(r"\d+_self_interaction_2\.linear"),
    "readout": re.compile(r"reduce_input_to_hidden\.linear"),
}


class SevenNetPotential(HeadedPotential):
    """A SevenNet with one of its heads chosen.

    Heads are the channels (modalities) of a multi-fidelity model. The reference energies are the
    head's shifts, in double precision. Models with ``parity: false`` are invariant under rotations
    but not quite under reflections, and neither are their features.
    """

    family = "sevennet"
    per_head = ("shift", "scale")
    model: Network
    _scalar: torch.Tensor

    def __init__(self, settings: SevenNetSettings, model: Network, head: str | None = None) -> None:
        chosen = choose_head(settings.heads, head)
        pairs = zip(settings.atomic_numbers, settings.shift[chosen], strict=True)
        super().__init__(settings.cutoff, {number: shift for number, shift in pairs if number})
        self.heads, self.head = settings.heads, chosen
        self._settings = settings
        self.model = model
        types = [index for index, number in enumerate(settings.atomic_numbers) if number]
        self.register_buffer("_types", torch.tensor(types), persistent=False)
        scalar = [
            irrep == (0, 1)
            for count, irrep in model.node_irreps
            for _ in range(dimension([(count, irrep)]))
        ]
        self.register_buffer("_scalar", torch.tensor(scalar).nonzero()[:, 0], persistent=False)

    @property
    def settings(self) -> SevenNetSettings:
        """See `FamilyPotential.settings`."""
        known, rows = self.references(), list(self._settings.shift)
        pairs = zip(self._settings.atomic_numbers, rows[self.head], strict=True)
        rows[self.head] = tuple(known.get(number, shift) for number, shift in pairs)
        return self._settings.model_copy(update={"shift": tuple(rows)})

    def interaction_and_node_features(
        self, batch: GraphBatch, element: torch.Tensor, strain: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor]:
        """See `FamilyPotential.interaction_and_node_features`."""
        edges = edges_within(self.cutoff, batch, strain)
        types: Any = self._types
        energy, features = self.model(types[element], edges, self.head)
        return energy, edges.positions, edges.strain, features

    @property
    def node_irreps(self) -> str:
        """See `FamilyPotential.node_irreps`."""
        return written(self.model.node_irreps)

    def interaction_and_features(
        self, batch: GraphBatch, element: torch.Tensor, strain: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor]:
        """See `Potential.interaction_and_features`: the even scalars of every layer's features."""
        *found, features = self.interaction_and_node_features(batch, element, strain)
        return (*found, features[:, self._scalar])  # type: ignore[return-value]

    @property
    def feature_size(self) -> int:
        """See `Potential.feature_size`."""
        return int(self._scalar.numel())

    def add_head(self, name: str) -> tuple[HeadedPotential, dict[str, torch.Tensor]]:
        """See `HeadedPotential.add_head`; refuses a model of one fidelity."""
        if not self._settings.head_layers:
            raise RecipeError(
                "a SevenNet of one fidelity cannot have more heads: none of its layers is told "
                "which head predicts. Choose another adapter."
            )
        return super().add_head(name)

    def with_settings(self, settings: SevenNetSettings, head: str) -> SevenNetPotential:
        """See `HeadedPotential.with_settings`."""
        return SevenNetPotential(settings, construct(settings, self.dtype).to(self.device), head)

    def widen(self, model: torch.nn.Module) -> dict[str, torch.Tensor]:
        """See `HeadedPotential.widen`."""
        known = [_HEAD_LAYERS[layer] for layer in self._settings.head_layers]
        masks: dict[str, torch.Tensor] = {}
        for path, layer in model.named_modules():
            if any(pattern.fullmatch(path) for pattern in known):
                old = self.model.get_submodule(path)
                masks[f"{path}.weight"] = _extend(old, layer, self.head)
        return masks


def _extend(old: Any, new: Any, source: int) -> torch.Tensor:
    """Fill a linear layer, which sees one head more; return which entries are the new head's."""
    entries = []
    for (narrow, before), (wide, after) in zip(path_weights(old), path_weights(new), strict=True):
        ratio = narrow / wide  # e3nn divides by the root of the fan-in
        own = torch.zeros(after.shape, dtype=torch.bool, device=after.device)
        after[: len(before)].copy_(before * ratio)
        if len(after) > len(before):
            after[-1].copy_(before[source] * ratio)
            own[-1] = True
        entries.append(own.flatten())
    if new.bias.numel():
        new.bias.copy_(old.bias)
    return torch.cat(entries)


def assemble(
    settings: SevenNetSettings,
    weights: Mapping[str, torch.Tensor],
    dtype: torch.dtype,
    head: str | None,
) -> tuple[SevenNetPotential, dict[str, torch.Tensor]]:
    """Return a stored SevenNet as it was when ``head`` was trained, and the weights to fill in."""
    settings, own, kept = as_trained(settings, weights, head, SevenNetPotential.per_head)
    potential = SevenNetPotential(settings, unfilled(settings, dtype), head)
    potential.stored_heads = kept
    return potential, own
