"""Modules of a pickled model as inert data, with errors that name the place."""

from __future__ import annotations

import struct
from typing import Any

import torch

from finetune.errors import FoundationError
from finetune.foundation.inert import Global, Record

_PARITIES = {1: "e", -1: "o"}
_NUMPY = {"f8": "<d", "f4": "<f", "i8": "<q", "i4": "<i"}


class Part:
    """A `torch.nn.Module` in an inert tree.

    Args:
        record: What the pickle holds in its place.
        path: Where it is, in dots from the model.

    Raises:
        FoundationError: If the record is not a module.
    """

    def __init__(self, record: object, path: str = "") -> None:
        state = record.state if isinstance(record, Record) else None
        if not isinstance(record, Record) or not isinstance(state, dict):
            raise FoundationError(f"holds {describe(record)} where {path or 'a model'} should be.")
        self.name = record.name
        self.path = path
        self.package = record.path.split(".")[0]
        self.state: dict[Any, Any] = state

    def table(self, which: str) -> dict[Any, Any]:
        """Return `_modules`, `_parameters` or `_buffers`."""
        found = self.state.get(which)
        if not isinstance(found, dict):
            raise FoundationError(f"has no {which} at '{self.path or 'the model'}'.")
        return found

    def place(self, name: object) -> str:
        """Return the dotted path of something inside."""
        text = ascii(str(name)[:60])[1:-1]
        return f"{self.path}.{text}" if self.path else text

    def has(self, name: str) -> bool:
        """Whether there is a submodule of this name."""
        return isinstance(self.table("_modules").get(name), Record)

    def child(self, *names: str) -> Part:
        """Return a submodule.

        Raises:
            FoundationError: If there is none, naming it.
        """
        part = self
        for name in names:
            if name not in part.table("_modules"):
                raise FoundationError(f"has no module '{part.place(name)}'.")
            part = Part(part.table("_modules")[name], part.place(name))
        return part

    def children(self) -> list[Part]:
        """Return the submodules in order."""
        return [Part(record, self.place(name)) for name, record in self.table("_modules").items()]

    def tensor(self, name: str, table: str = "_buffers") -> torch.Tensor:
        """Return a buffer or parameter.

        Raises:
            FoundationError: If there is none, or it is not finite, naming it.
        """
        found = self.table(table).get(name)
        if not isinstance(found, torch.Tensor):
            raise FoundationError(f"has no tensor '{self.place(name)}'.")
        if not bool(torch.isfinite(found).all()):
            raise FoundationError(f"holds NaN or infinite numbers in '{self.place(name)}'.")
        return found

    def value(self, name: str, default: object = None) -> Any:
        """Return an attribute as a plain value, or the default if the file has none."""
        return plain(self.state[name]) if name in self.state else default


def plain(value: object) -> Any:
    """Return irreps as text and NumPy numbers as numbers; anything else as it is."""
    if not isinstance(value, Record):
        return value
    if value.name == "Irreps":
        return _irreps(value)
    if value.name == "scalar" and value.path.split(".")[0] == "numpy":
        return _numpy_number(value)
    return value


def describe(value: object) -> str:
    """Return what something is, in a few words for an error."""
    if isinstance(value, Record):
        return f"a {value.name[:60]!r}" if value.name else "a computed object"
    if isinstance(value, Global):
        return f"the name {value.path[:80]!r}"
    if isinstance(value, torch.Tensor):
        return f"a tensor {tuple(value.shape)}"
    if isinstance(value, str):
        return repr(value[:60])
    if value is None or isinstance(value, float) or _is_short(value):
        return repr(value)
    return f"a {type(value).__name__}"


def _is_short(value: object) -> bool:
    return isinstance(value, int) and abs(value) < 10**12


def _irreps(record: Record) -> str:
    """Return irreps as e3nn writes them."""
    terms = []
    try:
        args: Any = record.args
        for entry in args[0]:
            multiplicity, irrep = entry.args[0]
            degree, parity = irrep.args[0]
            if not all(type(number) is int for number in (multiplicity, degree, parity)):
                raise TypeError("irreps that are not numbers")
            terms.append(f"{multiplicity}x{degree}{_PARITIES[parity]}")
    except (TypeError, ValueError, AttributeError, LookupError) as error:
        raise FoundationError("holds irreps that cannot be understood.") from error
    return "+".join(terms)


def _numpy_number(record: Record) -> int | float:
    try:
        args: Any = record.args
        dtype, raw = args
        if isinstance(raw, Record):  # bytes, as pickle writes them for Python 2
            inner: Any = raw.args
            raw = inner[0].encode("latin1")
        number: int | float = struct.unpack(_NUMPY[dtype.args[0]], raw)[0]
    except (TypeError, ValueError, AttributeError, KeyError, IndexError, struct.error) as error:
        raise FoundationError("holds a NumPy number that cannot be understood.") from error
    return number
