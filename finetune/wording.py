"""Words for numbers of things."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: ``1 epoch``, ``2 epochs``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
