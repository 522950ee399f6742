"""Refuse settings that the file they came from is too small for, before a model is built."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise

from finetune.errors import FoundationError
from finetune.foundation.parts import Part
from finetune.foundation.settings import MaceSettings

_TERM = re.compile(r"(\d{1,6})x(\d)([eo])")
_MOST_TERMS = 32
_MOST_INTERACTIONS = 16
_MOST_LAYERS = 16
_HIGHEST_DEGREE = 6
_HIGHEST_CORRELATION = 6


def check_plausible(settings: MaceSettings, model: Part, numbers: int) -> None:
    """Check that building the model takes no more than the file gives reason for.

    Args:
        settings: What was read from the file.
        model: The model in the file.
        numbers: How many numbers the tensors of the file hold in all.

    Raises:
        FoundationError: If it does.
    """
    hidden = _terms(settings.hidden_irreps)
    edges = _terms(settings.edge_irreps) if settings.edge_irreps else hidden
    scalars = sum(count for count, degree, parity in hidden if (degree, parity) == (0, "e"))
    layers = (settings.num_bessel, *settings.radial_MLP)
    limits = {
        "max_ell": (settings.max_ell, _HIGHEST_DEGREE),
        "num_interactions": (settings.num_interactions, _MOST_INTERACTIONS),
        "radial_MLP": (len(layers), _MOST_LAYERS),
        "correlation": (max(_correlations(settings)), _HIGHEST_CORRELATION),
    }
    for name, (value, limit) in limits.items():
        if value > limit:
            raise FoundationError(f"has '{name}' of {value}, beyond the {limit} that is supported.")
    if min(*layers, *_correlations(settings)) < 1:
        raise FoundationError("has a 'radial_MLP' or 'correlation' that is not positive.")
    if not scalars:
        raise FoundationError("has no scalars among its hidden irreps.")
    weights = (
        scalars * len(settings.atomic_numbers)
        + sum(before * after for before, after in pairwise(layers))
        + layers[-1] * max(count for count, _, _ in edges)
    )
    if settings.num_interactions > 1:
        weights += sum(count**2 for count, _, _ in hidden)
        weights += sum(count for count, _, _ in _terms(settings.MLP_irreps)) * scalars
    for spec in (settings.embedding_specs or {}).values():
        inputs = _positive(spec, "num_classes", 1) * _positive(spec, "in_dim", 1)
        weights += _positive(spec, "emb_dim") * (scalars + inputs)
    if weights > numbers:
        raise FoundationError(
            f"describes a model of at least {weights} weights but holds {numbers} numbers."
        )
    _check_contractions(settings, model)


def _positive(spec: Mapping[str, object], name: str, absent: int = 0) -> int:
    value = spec.get(name, absent)
    if type(value) is not int or value < 1:
        raise FoundationError(f"has an embedding of which '{name}' is not a positive number.")
    return value


def _check_contractions(settings: MaceSettings, model: Part) -> None:
    products = model.child("products").children()
    correlations = _correlations(settings)
    if not len(correlations) == len(products) == settings.num_interactions:
        raise FoundationError("has not as many products as interactions.")
    for product, correlation in zip(products, correlations, strict=True):
        contraction = product.child("symmetric_contractions", "contractions", "0")
        table = contraction.tensor(f"U_matrix_{correlation}")
        if table.numel() < (settings.max_ell + 1) ** (2 * correlation):
            raise FoundationError(
                f"has a table of coupling coefficients at '{contraction.path}' that is too small."
            )


def _correlations(settings: MaceSettings) -> tuple[int, ...]:
    if isinstance(settings.correlation, tuple):
        return settings.correlation or (0,)
    return (settings.correlation,) * settings.num_interactions


def _terms(irreps: str) -> list[tuple[int, int, str]]:
    found = [_TERM.fullmatch(term) for term in irreps.split("+")]
    terms = [(int(m[1]), int(m[2]), m[3]) for m in found if m is not None]
    if len(terms) != len(found) or len(terms) > _MOST_TERMS:
        raise FoundationError(f"has unusual irreps {irreps[:60]!r}.")
    if max(degree for _, degree, _ in terms) > _HIGHEST_DEGREE:
        raise FoundationError(f"has irreps of a degree beyond {_HIGHEST_DEGREE}: {irreps[:60]!r}.")
    return terms
