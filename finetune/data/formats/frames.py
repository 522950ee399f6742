"""What every format gives: structures one by one, and what is known of their labels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from ase import Atoms

from finetune.core.errors import DataError
from finetune.core.units import Units

Frame = tuple[int, Atoms | DataError]
"""Index in the file, and the structure or why it cannot be read."""


@dataclass(frozen=True)
class Frames:
    """The structures of a file.

    Attributes:
        format: What kind of file it is, for messages and records.
        stream: The structures, read as they are asked for.
        natural: Names of the labels by quantity, where the format has names of its own; they are
            taken where the recipe keeps its default names.
        stated: Units that the file itself names.
        usual: Units that files of this format are in.
        names: Names of all labels that the file holds, where they are known beforehand.
        chosen: Whether the reader has already taken the index expression into account.
        sparse: Whether a structure without any label is left out rather than kept.
    """

    format: str
    stream: Iterator[Frame]
    natural: dict[str, str] = field(default_factory=dict)
    stated: Units | None = None
    usual: Units | None = None
    names: frozenset[str] = frozenset()
    chosen: bool = False
    sparse: bool = False


def reason(error: BaseException) -> str:
    """Return what a reader's exception means, in one line."""
    if isinstance(error, KeyError) and error.args:
        return f"unknown element or key {error.args[0]!r}"
    if isinstance(error, MemoryError):
        return "it claims more than fits into memory"
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8 text"
    text = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
