"""Sequences whose items are made when they are asked for."""

from __future__ import annotations

from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, compress
from typing import Any, Generic, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")
S = TypeVar("S")


class LazySequence(Sequence[T]):
    """A sequence of items made one by one; a slice is a view."""

    @abstractmethod
    def item(self, index: int) -> T:
        """Make the item at an index from 0 on."""

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...
    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        if isinstance(index, slice):
            return View(self, range(*index.indices(len(self))))
        if not -len(self) <= index < len(self):
            raise IndexError(f"no item {index} among {len(self)}")
        return self.item(index % len(self))

    def __iter__(self) -> Iterator[T]:
        return (self.item(index) for index in range(len(self)))


class View(LazySequence[T]):
    """Some items of a sequence, in an order of its own."""

    def __init__(self, whole: Sequence[T], indices: Sequence[int] | NDArray[np.int64]) -> None:
        self.whole = whole
        self.indices = np.asarray(indices, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.indices)

    def item(self, index: int) -> T:
        """See `LazySequence.item`."""
        return self.whole[int(self.indices[index])]

    def __iter__(self) -> Iterator[T]:
        """Read through the sequence where the view takes much of it in order."""
        ordered = bool((np.diff(self.indices) > 0).all())
        if not ordered or 20 * len(self) < len(self.whole):
            return super().__iter__()
        wanted = np.zeros(len(self.whole), dtype=bool)
        wanted[self.indices] = True
        return compress(self.whole, wanted)


def taken(whole: Sequence[T], indices: Sequence[int] | NDArray[np.int64]) -> Sequence[T]:
    """Return some items of a sequence: a view if it is lazy, otherwise a list."""
    if isinstance(whole, LazySequence):
        return View(whole, indices)
    return [whole[index] for index in indices]


class Joined(LazySequence[T]):
    """Several sequences, one after the other."""

    def __init__(self, parts: Sequence[Sequence[T]]) -> None:
        self.parts = parts
        self._ends = list(accumulate(len(part) for part in parts))

    def __len__(self) -> int:
        return self._ends[-1]

    def item(self, index: int) -> T:
        """See `LazySequence.item`."""
        part = bisect_right(self._ends, index)
        return self.parts[part][index - (self._ends[part - 1] if part else 0)]

    def __iter__(self) -> Iterator[T]:
        return (item for part in self.parts for item in part)


class Mapped(LazySequence[T], Generic[S, T]):
    """The results of a function for the items of a sequence, computed at each access."""

    def __init__(self, function: Callable[..., T], whole: Sequence[S], *arguments: Any) -> None:
        self.function = function
        self.whole = whole
        self.arguments = arguments

    def __len__(self) -> int:
        return len(self.whole)

    def item(self, index: int) -> T:
        """See `LazySequence.item`."""
        return self.function(self.whole[index], *self.arguments)

    def __iter__(self) -> Iterator[T]:
        return (self.function(item, *self.arguments) for item in self.whole)


def mapped(function: Callable[..., T], whole: Sequence[S], *arguments: Any) -> Sequence[T]:
    """Apply a function to every item: at once, or one by one if the sequence is lazy."""
    if isinstance(whole, LazySequence):
        return Mapped(function, whole, *arguments)
    return [function(item, *arguments) for item in whole]
