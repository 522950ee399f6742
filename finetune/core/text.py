"""Wording that messages share."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: ``1 epoch``, ``2 epochs``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def shortened(text: str) -> str:
    """Return a text of at most forty characters, cut where it is longer."""
    return text if len(text) <= 40 else f"{text[:39]}…"
