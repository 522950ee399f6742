"""Nested mappings: merge and flatten."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def merged_deeply(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Merge mappings, the second one's values first; only mappings go deeper."""
    merged = dict(base)
    for key, value in changes.items():
        below = merged.get(key)
        both = isinstance(below, Mapping) and isinstance(value, Mapping)
        merged[key] = merged_deeply(below, value) if both else value  # type: ignore[arg-type]
    return merged


def flattened(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return dotted keys and their values."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            flat.update(flattened(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
