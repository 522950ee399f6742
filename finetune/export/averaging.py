"""Averages of adapters: of the changes that they make to the weights of one foundation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import torch

from finetune.errors import FoundationError
from finetune.foundation.adapter_folder import AdapterRecord
from finetune.foundation.lineage import level_of_theory
from finetune.foundation.potential import Potential
from finetune.foundation.storage import mace_inside


@dataclass(frozen=True)
class LoadedAdapter:
    """An adapter in memory.

    Attributes:
        record: Kind, options, foundation and reference energies.
        potential: The foundation with the adapter merged into it.
        trained: Names of the parameters that it was free to change.
        sources: What it was read from, or averaged of: path -> weight.
        needed: Adapters that the potential needs beyond a plain MACE.
    """

    record: AdapterRecord
    potential: Potential
    trained: frozenset[str] = field(repr=False)
    sources: dict[str, float]
    needed: list[dict[str, Any]] = field(default_factory=list)


OF_ONE_RUN = ("recipe", "metrics", "trained")
"""What is true of one run alone, not of an average."""


def check_weights(names: Any, weights: Any) -> None:
    """Refuse what is not a list of names with a finite weight for each, or no weights at all.

    Raises:
        FoundationError: Saying what is expected.
    """
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise FoundationError(f"give the adapters as a list of names, not {names!r}.")
    if weights is None and names:
        return
    found = list(weights) if hasattr(weights, "__len__") else weights
    numbers = isinstance(found, list) and all(
        isinstance(item, Real) and math.isfinite(item) for item in found
    )
    if not numbers or not names or len(found) != len(names):
        raise FoundationError(
            f"give one finite weight for each of one or more adapters, not {found} for "
            f"{len(names)}."
        )


def average_record(loaded: Sequence[LoadedAdapter], sources: Mapping[str, float]) -> AdapterRecord:
    """Return the record of an average: what is true of every part, and its parts in the lineage."""
    records = [item.record for item in loaded]
    metadata = {
        key: value
        for key, value in records[0].metadata.items()
        if key not in OF_ONE_RUN and all(item.metadata.get(key) == value for item in records)
    }
    for key in ("level_of_theory", "compositions"):
        found = [item.metadata.get(key) or [] for item in records]
        listed = [[value] if isinstance(value, str) else value for value in found]
        metadata[key] = sorted({str(value) for values in listed for value in values}) or None
    parts = ", ".join(f"{weight:g} × {path}" for path, weight in sources.items())
    metadata["average"] = {
        "name": f"average of {parts}",
        "fingerprint": None,
        "level_of_theory": level_of_theory(metadata),
    }
    return records[0].model_copy(update={"metadata": metadata})


def check_alike(first: LoadedAdapter, other: LoadedAdapter, name: str, called: str) -> None:
    """Refuse to average adapters whose weights do not correspond.

    Raises:
        FoundationError: Saying in what they differ.
    """
    kinds = (first.record.kind, other.record.kind)
    shapes = [
        {key: value.shape for key, value in item.potential.named_parameters()}
        for item in (first, other)
    ]
    inside = [mace_inside(item.potential) for item in (first, other)]
    heads = [(item.settings.heads, item.head) for item in inside]
    if kinds[0] != kinds[1]:
        differing = f"are of the kinds {kinds[0]} and {kinds[1]}"
    elif first.trained != other.trained:
        differing = "train different parameters"
    elif shapes[0] != shapes[1] or heads[0] != heads[1]:
        differing = "have different heads"
    else:
        return
    raise FoundationError(f"'{name}' and '{called}' cannot be averaged: they {differing}.")


def combined(
    start: Potential, potentials: Sequence[Potential], weights: Sequence[float]
) -> Potential:
    """Return W₀ + Σ wₖ (Wₖ − W₀) of weights and reference energies, summed in double precision.

    Args:
        start: The foundation, W₀.
        potentials: The foundation with each of the adapters merged, Wₖ.
        weights: wₖ, one for each.
    """
    found = deepcopy(start)
    others = [dict(item.named_parameters()) for item in potentials]
    for name, parameter in found.named_parameters():
        parameter.data = _average(parameter, [other[name] for other in others], weights)
    energies = _average(
        start.reference_energies, [item.reference_energies for item in potentials], weights
    )
    found.set_references(dict(zip(found.elements, energies.tolist(), strict=True)))
    return found


def _average(
    start: torch.Tensor, tensors: Sequence[torch.Tensor], weights: Sequence[float]
) -> torch.Tensor:
    if all(torch.equal(tensor, start) for tensor in tensors):
        return start.clone()  # without rounding
    total = (1.0 - math.fsum(weights)) * start.double()
    for weight, tensor in zip(weights, tensors, strict=True):
        total = total + weight * tensor.double()
    return total.to(start)
