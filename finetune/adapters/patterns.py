"""Shell-style patterns on names of parameters and layers."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from finetune.errors import RecipeError, suggestion


def matching(
    names: Sequence[str], patterns: Sequence[str], what: str, known: Sequence[str] | None = None
) -> list[str]:
    """Return the names that match any pattern, in their order.

    Args:
        names: What can be matched.
        patterns: Such as ``readouts.*``.
        what: What the names are, in the words of an error message.
        known: What an error message lists and suggests from; the names by default.

    Raises:
        RecipeError: If a pattern matches nothing, with the nearest name.
    """
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            listed = names if known is None else known
            raise RecipeError(
                f"the pattern '{pattern}' matches no {what}."
                f"{suggestion(pattern, [*names, *listed])} Known: {', '.join(listed)}."
            )
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]
