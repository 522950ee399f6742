"""Leave out of a store what no potential could evaluate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from finetune.data.labels import Structure
from finetune.data.sequences import LazySequence, View
from finetune.errors import DataError


class Usable(View[Structure]):
    """Some structures of a store, each read by itself: the others cannot be read past."""

    def __iter__(self) -> Iterator[Structure]:
        return LazySequence.__iter__(self)


def usable(structures: Sequence[Structure]) -> tuple[Sequence[Structure], list[str]]:
    """Read all structures once.

    Returns:
        The sequence as it is, or those of its structures that can be used; and what is wrong with
        each of the others.
    """
    try:
        for _ in structures:
            pass
        return structures, []
    except DataError:
        kept, faults = [], []
    for index in range(len(structures)):
        try:
            structures[index]
            kept.append(index)
        except DataError as error:
            faults.append(str(error))
    return Usable(structures, kept), faults
