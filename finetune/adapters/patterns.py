"""Shell-style patterns on names of parameters and layers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

from finetune.errors import RecipeError

LISTED = 3
"""Near names that an error message lists."""


def matches(name: str, pattern: str) -> bool:
    """Tell whether a pattern names a parameter or layer, or a block that holds it.

    ``readouts.*``, ``readouts`` and ``*.linear_1.weight`` all match ``readouts.1.linear_1.weight``.
    """
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")


def matching(
    names: Sequence[str], patterns: Sequence[str], what: str, known: Sequence[str] | None = None
) -> list[str]:
    """Return the names that match any pattern, in their order.

    Args:
        names: What can be matched.
        patterns: Such as ``readouts.*``; see `matches`.
        what: What the names are, in the words of an error message.
        known: What an error message lists and suggests from; the names by default.

    Raises:
        RecipeError: If a pattern matches nothing, with the nearest names.
    """
    for pattern in patterns:
        check_match(names, pattern, what, known)
    return [name for name in names if any(matches(name, pattern) for pattern in patterns)]


def check_match(
    names: Sequence[str], pattern: str, what: str, known: Sequence[str] | None = None
) -> None:
    """Refuse a pattern that matches no name; for the arguments see `matching`.

    Raises:
        RecipeError: With the nearest names.
    """
    if any(matches(name, pattern) for name in names):
        return
    listed = names if known is None else known
    near = _nearest(pattern, [*blocks(names), *listed, *names])
    hint = f" Did you mean {' or '.join(repr(name) for name in near)}?" if near else ""
    raise RecipeError(
        f"the pattern '{pattern}' matches no {what}.{hint} Known: {', '.join(listed)}."
    )


def blocks(names: Iterable[str]) -> list[str]:
    """Return the blocks of a model that hold the names, in their order; see `block`."""
    return list(dict.fromkeys(block(name) for name in names))


def block(name: str) -> str:
    """Return the block of a parameter or layer: ``products.1`` for ``products.1.linear.weight``."""
    first, _, rest = name.partition(".")
    second, _, inner = rest.partition(".")
    return f"{first}.{second}" if second.isdigit() and inner else first


def _nearest(pattern: str, known: Sequence[str]) -> list[str]:
    return get_close_matches(pattern, dict.fromkeys(known), n=LISTED, cutoff=0.6)
