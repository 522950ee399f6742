"""Where a potential comes from: the first foundation, and every fine-tuning since."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finetune.foundation.loading import Foundation


def lineage(foundation: Foundation) -> list[dict[str, Any]]:
    """Return the potentials that one descends from, the oldest first, itself last.

    Returns:
        Of each: ``name`` (or path), ``fingerprint`` and ``level_of_theory`` (None where unknown).
    """
    metadata = foundation.metadata
    own = {
        "name": foundation.location,
        "fingerprint": foundation.fingerprint,
        "level_of_theory": _level_of_head(foundation),
    }
    return [*ancestors(metadata), own]


def _level_of_head(foundation: Foundation) -> str | None:
    """Return the level of theory of the head that predicts, None where it is not known.

    A run with the adapter `head` trains its new head alone; the others are its foundation's.
    """
    metadata, head = foundation.metadata, foundation.head
    adapter = metadata.get("recipe", {}).get("adapter", {})
    if adapter.get("kind") != "head" or head in (None, adapter.get("name")):
        return level_of_theory(metadata)
    before = ancestors(metadata)
    chosen = (metadata.get("foundation") or {}).get("head")
    return before[-1]["level_of_theory"] if before and chosen in (None, head) else None


def level_of_theory(metadata: Mapping[str, Any]) -> str | None:
    """Return the level of theory, or levels, that a stored potential was fitted to."""
    level = metadata.get("level_of_theory")
    if isinstance(level, Sequence) and not isinstance(level, str):
        level = ", ".join(map(str, level))
    return str(level) if level else None


def told(ancestors: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Return a line for each potential: its name and its level of theory."""
    return tuple(
        str(item["name"]) + (f" ({item['level_of_theory']})" if item["level_of_theory"] else "")
        for item in ancestors
    )


def ancestors(metadata: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what a stored potential says of those before it; a file may say anything."""
    stored, keys = metadata.get("lineage"), ("name", "fingerprint", "level_of_theory")
    if isinstance(stored, list) and all(isinstance(item, Mapping) for item in stored):
        return [{key: item.get(key) for key in keys} for item in stored]
    origin = metadata.get("foundation")  # all that the first release stored
    if isinstance(origin, Mapping):
        return [{key: origin.get(key) for key in keys}]
    return []
