"""SevenNet as a potential: one of its channels predicts."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch

from finetune.core.errors import RecipeError
from finetune.data.graphs import GraphBatch
from finetune.potentials.potential import (
    FamilyPotential,
    Interaction,
    choose_head,
    edges_within,
)
from finetune.potentials.sevennet.network import Network, construct, unfilled
from finetune.potentials.sevennet.settings import SevenNetSettings

_HEAD_LAYERS = {
    "embedding": re.compile(r"onehot_to_feature_x\.linear"),
    "before": re.compile(r"\d+_self_interaction_1\.linear"),
    "after": re.compile(r"\d+_self_interaction_2\.linear"),
    "readout": re.compile(r"reduce_input_to_hidden\.linear"),
}

KeptHeads = dict[int, dict[str, torch.Tensor]]
"""Number of heads -> the layers that see them, by name, while there were that many."""
_KEPT = re.compile(r"heads-(\d+)/(.+)")
"""Names of kept layers among stored weights."""
_PER_HEAD = ("shift", "scale")


class SevenNetPotential(FamilyPotential):
    """A SevenNet with one of its heads chosen.

    Heads are the channels (modalities) of a multi-fidelity model. The reference energies are the
    head's shifts, in double precision. Models with ``parity: false`` are invariant under rotations
    but not quite under reflections, and neither are their features.

    ``kept_heads`` are the layers that see the head as they were before one was added, to be stored
    with the weights; ``stored_heads`` are those that were stored with the weights that were opened.
    """

    family = "sevennet"
    model: Network

    def __init__(self, settings: SevenNetSettings, model: Network, head: str | None = None) -> None:
        chosen = choose_head(settings.heads, head)
        pairs = zip(settings.atomic_numbers, settings.shift[chosen], strict=True)
        super().__init__(settings.cutoff, {number: shift for number, shift in pairs if number})
        self.heads, self.head = settings.heads, chosen
        self.kept_heads: KeptHeads = {}
        self.stored_heads: KeptHeads = {}
        self._settings = settings
        self.model = model
        types = [index for index, number in enumerate(settings.atomic_numbers) if number]
        self.register_buffer("_types", torch.tensor(types), persistent=False)

    @property
    def settings(self) -> SevenNetSettings:
        """See `FamilyPotential.settings`."""
        known, rows = self.references(), list(self._settings.shift)
        pairs = zip(self._settings.atomic_numbers, rows[self.head], strict=True)
        rows[self.head] = tuple(known.get(number, shift) for number, shift in pairs)
        return self._settings.model_copy(update={"shift": tuple(rows)})

    def interaction(self, batch: GraphBatch, element: torch.Tensor, strain: bool) -> Interaction:
        """See `Potential.interaction`."""
        return self.interaction_and_features(batch, element, strain)[:3]

    def interaction_and_features(
        self, batch: GraphBatch, element: torch.Tensor, strain: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor]:
        """See `Potential.interaction_and_features`: the even scalars of every layer's features."""
        edges = edges_within(self.cutoff, batch, strain)
        types: Any = self._types
        energy, features = self.model(types[element], edges, self.head)
        return energy, edges.positions, edges.strain, features

    @property
    def feature_size(self) -> int:
        """See `Potential.feature_size`."""
        return self.model.feature_size

    def further_weights(self) -> dict[str, torch.Tensor]:
        """See `FamilyPotential.further_weights`: the kept layers."""
        return {
            f"heads-{count}/{name}": tensor
            for count, tensors in self.kept_heads.items()
            for name, tensor in tensors.items()
        }

    def add_head(self, name: str) -> tuple[SevenNetPotential, dict[str, torch.Tensor]]:
        """See `Potential.add_head`: the new head is chosen, and predicts what this one does.

        It has the potential's reference energies; the old head keeps those that it was opened with.
        """
        before = self._settings
        if not before.head_layers:
            raise RecipeError(
                "a SevenNet of one fidelity cannot have more heads: none of its layers is told "
                "which head predicts. Choose another adapter."
            )
        if name in before.heads:
            raise RecipeError(
                f"the foundation has a head '{name}' already. Choose another adapter.name, or "
                f"adapt that head with head={name}."
            )
        rows = {key: getattr(before, key) for key in _PER_HEAD}
        longer = {key: (*row, row[self.head]) for key, row in rows.items()}
        settings = before.model_copy(update={"heads": (*before.heads, name), **longer})
        model = construct(settings, self.dtype).to(self.device)
        known = [_HEAD_LAYERS[layer] for layer in before.head_layers]
        masks: dict[str, torch.Tensor] = {}
        parameters = dict(self.model.named_parameters())
        with torch.no_grad():
            for path, layer in model.named_modules():
                if any(pattern.fullmatch(path) for pattern in known):
                    old = self.model.get_submodule(path)
                    masks[f"{path}.weight"] = _extend(old, layer, self.head)
            for key, parameter in model.named_parameters():
                if key not in masks:
                    parameter.copy_(parameters[key])
        extended = SevenNetPotential(settings, model, name)
        kept = {key: parameters[key].detach().clone() for key in masks}
        extended.kept_heads = {**self.stored_heads, len(before.heads): kept}
        extended.set_references(self.references())
        return extended.eval(), {f"model.{key}": mask for key, mask in masks.items()}


def _extend(old: Any, new: Any, source: int) -> torch.Tensor:
    """Fill a linear layer, which sees one head more; return which entries are the new head's."""
    entries = []
    for (narrow, before), (wide, after) in zip(_weights(old), _weights(new), strict=True):
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


def _weights(linear: Any) -> list[tuple[float, torch.Tensor]]:
    """Return factor and weights ``[in, out]`` of each path of an `e3nn.o3.Linear`."""
    paths = [path for path in linear.instructions if path.i_in >= 0]  # the others are biases
    sizes = [math.prod(path.path_shape) for path in paths]
    return [
        (path.path_weight, weight.view(path.path_shape))
        for path, weight in zip(paths, linear.weight.split(sizes), strict=True)
    ]


def assemble(
    settings: SevenNetSettings,
    weights: Mapping[str, torch.Tensor],
    dtype: torch.dtype,
    head: str | None,
) -> tuple[SevenNetPotential, dict[str, torch.Tensor]]:
    """Return a stored SevenNet as it was when ``head`` was trained, and the weights to fill in."""
    own: dict[str, torch.Tensor] = {}
    kept: KeptHeads = {}
    for name, tensor in weights.items():
        match = _KEPT.fullmatch(name)
        if match:
            kept.setdefault(int(match[1]), {})[match[2]] = tensor
        else:
            own[name] = tensor
    place = settings.heads.index(head) if head in settings.heads else len(settings.heads)
    later = [count for count in sorted(kept) if place < count]
    if later:
        fewer = later[0]
        rows = {key: getattr(settings, key)[:fewer] for key in ("heads", *_PER_HEAD)}
        settings = settings.model_copy(update=rows)
        own |= kept[fewer]
        kept = {count: tensors for count, tensors in kept.items() if count < fewer}
    potential = SevenNetPotential(settings, unfilled(settings, dtype), head)
    potential.stored_heads = kept
    return potential, own
