"""Add a head to a MACE model: what the other heads predict stays as it is.

One more head makes the matrices of the readouts larger, which rounds otherwise. The readouts as
they were are therefore kept beside the new ones, and an old head is opened with its own model.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch

from finetune.errors import RecipeError
from finetune.foundation.mace import KeptHeads, MacePotential, construct
from finetune.foundation.settings import MaceSettings

_PER_HEAD = ("atomic_energies", "atomic_inter_scale", "atomic_inter_shift")
_KEPT = re.compile(r"heads-(\d+)/(.+)")
"""Names of kept readouts among stored weights."""


def add_head(potential: MacePotential, name: str) -> tuple[MacePotential, dict[str, torch.Tensor]]:
    """Return a copy of the potential with one more head, which predicts what its own head does.

    The reference energies of the new head are the potential's; the old head keeps those that it was
    opened with.

    Args:
        potential: The foundation.
        name: Of the new head.

    Returns:
        The potential with the new head chosen, and masks that are True where entries of its
        parameters, by name, belong to the new head alone.

    Raises:
        RecipeError: If there is a head of that name.
    """
    before = potential.opened_with
    if name in before.heads:
        raise RecipeError(
            f"the foundation has a head '{name}' already. Choose another adapter.name, or adapt "
            f"that head with head={name}."
        )
    settings = _extended(before, name, potential.head)
    model = construct(settings, potential.dtype).to(potential.device)
    parameters = dict(potential.model.named_parameters())
    masks: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        for path, block in model.named_modules():
            if type(block).__name__ == "Linear" and "readout" in path:
                old = potential.model.get_submodule(path)
                masks.update(_extend(path, old, block, len(before.heads), potential.head))
        for parameter_name, parameter in model.named_parameters():
            if parameter_name not in masks:
                parameter.copy_(parameters[parameter_name])
    extended = MacePotential(settings, model, name)
    kept = {key: parameters[key].detach().clone() for key in masks}
    extended.kept_heads = {**potential.stored_heads, len(before.heads): kept}
    extended.set_references(potential.references())
    return extended.eval(), {f"model.{key}": mask for key, mask in masks.items()}


def named(kept: KeptHeads) -> dict[str, torch.Tensor]:
    """Return kept readouts under the names that they have among stored weights."""
    return {
        f"heads-{count}/{name}": tensor
        for count, tensors in kept.items()
        for name, tensor in tensors.items()
    }


def apart(
    weights: Mapping[str, torch.Tensor],
) -> tuple[dict[str, torch.Tensor], KeptHeads]:
    """Tell a model's weights from the kept readouts that are stored beside them."""
    own: dict[str, torch.Tensor] = {}
    kept: KeptHeads = {}
    for name, tensor in weights.items():
        match = _KEPT.fullmatch(name)
        if match:
            kept.setdefault(int(match[1]), {})[match[2]] = tensor
        else:
            own[name] = tensor
    return own, kept


def as_it_was(
    settings: MaceSettings, weights: Mapping[str, torch.Tensor], kept: KeptHeads, head: str | None
) -> tuple[MaceSettings, dict[str, torch.Tensor], KeptHeads]:
    """Return settings, weights and kept readouts of the model in which a head was trained."""
    place = settings.heads.index(head) if head in settings.heads else len(settings.heads)
    counts = [count for count in sorted(kept) if place < count]
    if not counts:
        return settings, dict(weights), kept
    rows = {key: getattr(settings, key)[: counts[0]] for key in _PER_HEAD}
    fewer = settings.model_copy(update={"heads": settings.heads[: counts[0]], **rows})
    below = {count: tensors for count, tensors in kept.items() if count < counts[0]}
    return fewer, {**weights, **kept[counts[0]]}, below


def _extended(settings: MaceSettings, name: str, source: int) -> MaceSettings:
    rows = {key: getattr(settings, key) for key in _PER_HEAD}
    longer = {key: (*row, row[source]) for key, row in rows.items() if len(row) > source}
    return settings.model_copy(update={"heads": (*settings.heads, name), **longer})


def _extend(path: str, old: Any, new: Any, heads: int, source: int) -> dict[str, torch.Tensor]:
    """Fill a longer linear layer of a readout from the shorter one; return masks of what is new.

    An axis that grows holds one block for each head, in order.
    """
    new_entries = []
    for (narrow, weight), (wide, target) in zip(_weights(old), _weights(new), strict=True):
        rows, columns = (
            _blocks(before, after, heads, source, weight.device)
            for before, after in zip(weight.shape, target.shape, strict=True)
        )
        ratio = narrow / wide  # e3nn divides by the root of the fan-in
        target.copy_(weight[rows[0]][:, columns[0]] * ratio)
        new_entries.append((rows[1][:, None] & columns[1][None, :]).flatten())
    masks = {f"{path}.weight": torch.cat(new_entries)}
    if new.bias.numel():
        origin, is_new = _blocks(len(old.bias), len(new.bias), heads, source, new.bias.device)
        new.bias.copy_(old.bias[origin])
        masks[f"{path}.bias"] = is_new
    return masks


def _weights(linear: Any) -> list[tuple[float, torch.Tensor]]:
    """Return factor and weights ``[in, out]`` of each path of an `e3nn.o3.Linear`."""
    paths = [path for path in linear.instructions if path.i_in >= 0]  # the others are biases
    sizes = [math.prod(path.path_shape) for path in paths]
    return [
        (path.path_weight, weight.view(path.path_shape))
        for path, weight in zip(paths, linear.weight.split(sizes), strict=True)
    ]


def _blocks(
    before: int, after: int, heads: int, source: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return where entries of the longer axis come from, and which belong to the new head.

    All do where the axis is shared by the heads.
    """
    index = torch.arange(before, device=device)
    if before == after:
        return index, torch.ones_like(index, dtype=torch.bool)
    width = before // heads
    index = torch.cat([index, index[source * width : (source + 1) * width]])
    return index, torch.arange(after, device=device) >= before
