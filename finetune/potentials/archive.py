"""Read what `torch.save` wrote as inert data: nothing in the file is imported, called or executed.

The opcodes of the pickle are interpreted here, over `pickletools.genops`, instead of by `pickle`.
Where a pickle asks for a class or function, a `Global` keeps the name; where it asks for an object
to be built or a function to be called, a `Record` keeps what was asked for. Tensors and NumPy
arrays and numbers are rebuilt, once their sizes are checked against the bytes that they refer to.
Time and memory grow in proportion to the size of the file.
"""

from __future__ import annotations

import io
import json
import math
import pickletools
import struct
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import torch

from finetune.core.errors import FoundationError

METADATA = "piwsl-finetune.json"
"""Entry of the archive in which this package stores where a model comes from."""
_TYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_NUMPY = frozenset({"f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "b1"})
_END = 22  # bytes of the record that ends a zip archive, without its comment
_LONGEST_NAME = 1000
_MOST_ARGUMENTS = 8
_MOST_DIMENSIONS = 16
_MOST_NUMBERS = 2**62
_LARGEST_KEY = 2**60  # keys below it hash to themselves, so that they cannot be made to collide
_DAMAGE = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError)
_UNREADABLE = (*_DAMAGE, zipfile.BadZipFile, RuntimeError, OSError, EOFError, struct.error)


class Global(str):
    """Dotted name of a class or function."""

    __slots__ = ()

    @property
    def name(self) -> str:
        """Its last part."""
        return self.rpartition(".")[2]


class Record:
    """An object that a pickle asks for: its class or function, and what it was to be given.

    ``path`` is the dotted name, empty if it was itself to be computed; ``items`` were to be
    appended and ``pairs`` of key and value assigned, None for nothing.
    """

    __slots__ = ("path", "args", "state", "items", "pairs")

    def __init__(self, path: object, args: object) -> None:
        self.path = path if isinstance(path, Global) else Global()
        self.args = args
        self.state: object = None
        self.items: list[object] | None = None
        self.pairs: list[tuple[object, object]] | None = None

    @property
    def name(self) -> str:
        """Name of the class or function without its module."""
        return self.path.name


def describe(value: object) -> str:
    """Return what something is, in a few words for an error."""
    match value:
        case Record():
            return f"a {value.name[:60]!r}" if value.name else "a computed object"
        case Global():
            return f"the name {value[:80]!r}"
        case torch.Tensor():
            return f"a tensor {tuple(value.shape)}"
        case str():
            return repr(value[:60])
        case int() if abs(value) >= 10**12:
            return "a large number"
        case None | float() | int():
            return repr(value)
    return f"a {type(value).__name__}"


@dataclass(frozen=True)
class Content:
    """The saved object as `interpret` returns it, and how many ``numbers`` its tensors hold.

    ``metadata`` are JSON values that this package stored with it; empty for other files.
    """

    root: object
    numbers: int
    metadata: dict[str, Any]


def read_archive(file: BinaryIO) -> Content:
    """Read what `torch.save` wrote, from the start of ``file``; every tensor comes to the CPU.

    Raises FoundationError if the file is empty, truncated, damaged or of another kind.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    start = file.read(4)
    if not start:
        raise FoundationError("is empty. Get a fresh copy.")
    if start[:1] == b"\x80":
        raise FoundationError(
            "is a bare pickle, as torch wrote before 1.6. Save it again with a recent torch."
        )
    if start != b"PK\x03\x04":
        raise FoundationError("is not a file that torch.save writes.")
    file.seek(max(0, size - _END - 2**16))
    tail = file.read()
    end = tail[tail.rfind(b"PK\x05\x06") :]  # of the last archive: there may be others inside
    if len(end) < _END or len(end) != _END + int.from_bytes(end[_END - 2 : _END], "little"):
        raise FoundationError("is truncated: its end is missing. Get a fresh copy.")
    try:
        with zipfile.ZipFile(file) as archive:
            return _read(archive, size)
    except _UNREADABLE as error:
        raise FoundationError(f"is damaged: {error}. Get a fresh copy.") from error


def _read(archive: zipfile.ZipFile, size: int) -> Content:
    names = archive.namelist()
    if any(name.endswith("/constants.pkl") or "/code/" in name for name in names):
        raise FoundationError(
            "is a TorchScript archive, which holds compiled code. Give the file it was "
            "compiled from."
        )
    pickles = [name for name in names if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1:
        raise FoundationError("is a zip archive, but not one that torch.save writes.")
    entries = _Entries(archive, pickles[0].removesuffix("data.pkl"), size)
    if entries.read("byteorder", b"little") != b"little":
        raise FoundationError("was saved on a big-endian machine, which is not supported.")
    root = interpret(entries.read("data.pkl"), entries.storage)
    metadata = json.loads(entries.read(METADATA, b"{}"))
    if not isinstance(metadata, dict):
        raise ValueError(f"'{METADATA}' is not a mapping")
    json.dumps(metadata, ensure_ascii=False).encode()  # refuses half characters
    return Content(root, entries.numbers, metadata)


def write_archive(saved: object, metadata: Mapping[str, Any]) -> bytes:
    """Return what `torch.save` writes, with ``metadata`` in an entry that torch ignores."""
    content = io.BytesIO()
    torch.save(saved, content)
    if metadata:
        with zipfile.ZipFile(content, "a") as archive:
            folder = archive.namelist()[0].partition("/")[0]
            archive.writestr(f"{folder}/{METADATA}", json.dumps(metadata, ensure_ascii=False))
    return content.getvalue()


class _Entries:
    """The entries of an archive; never reads more than the file holds."""

    def __init__(self, archive: zipfile.ZipFile, folder: str, size: int) -> None:
        self._archive = archive
        self._folder = folder
        self._left = size
        self._raw: dict[str, bytearray] = {}
        self.numbers = 0

    def read(self, name: str, absent: bytes | None = None) -> bytes:
        if absent is not None and self._folder + name not in self._archive.NameToInfo:
            return absent
        info = self._archive.getinfo(self._folder + name)
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise FoundationError("is a compressed archive, which torch.save does not write.")
        self._left -= info.file_size
        if self._left < 0:
            raise FoundationError("claims to hold more than its size allows.")
        return self._archive.read(info)

    def storage(self, reference: Any) -> torch.Tensor:
        """Return the storage that a persistent id refers to, as a flat tensor; reads it once."""
        tag, kind, key, _, count = reference
        known = isinstance(kind, Global) and kind.name in _TYPES and kind.startswith("torch.")
        if tag != "storage" or not known or not isinstance(key, str):
            raise ValueError("a storage of unknown type")
        dtype = _TYPES[kind.name]
        if key not in self._raw:
            self._raw[key] = bytearray(self.read(f"data/{key}"))
            self.numbers += len(self._raw[key]) // dtype.itemsize
        raw = self._raw[key]
        if not _is_size(count) or len(raw) != count * dtype.itemsize:
            raise ValueError("a storage of another size than stated")
        return torch.frombuffer(raw, dtype=dtype) if raw else torch.empty(0, dtype=dtype)


def interpret(pickle: bytes, storage: Callable[[object], object] | None = None) -> object:
    """Return what a pickle holds, as plain values, tensors, NumPy arrays, `Global` and `Record`.

    ``storage`` is called with each persistent id, which it checks; None where there are none.
    Raises FoundationError if the bytes are damaged, or use what torch and NumPy do not.
    """
    machine = _Machine(storage)
    name, position = "its start", 0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python warns of odd text in a damaged pickle
            for opcode, argument, where in pickletools.genops(pickle):
                name, position = opcode.name, where or 0
                machine.step(name, argument)
        if machine.below or len(machine.stack) != 1:
            raise ValueError("values are left over")
        return machine.stack[0]
    except _DAMAGE as error:
        raise FoundationError(
            f"has a damaged pickle near byte {position} ({name}). Get a fresh copy."
        ) from error


_VALUES = {
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINSTRING", "SHORT_BINSTRING"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_TAKEN = {
    **dict.fromkeys(("TUPLE1", "APPEND", "BUILD", "BINPERSID", "POP"), 1),
    **dict.fromkeys(("TUPLE2", "SETITEM", "STACK_GLOBAL", "REDUCE", "NEWOBJ"), 2),
    "TUPLE3": 3,
    **dict.fromkeys(("TUPLE", "FROZENSET", "APPENDS", "ADDITEMS", "SETITEMS", "POP_MARK"), None),
}
"""How many values an opcode takes from the stack; None for all that are above the mark."""
_PYTHON_2 = {"__builtin__": "builtins", "copy_reg": "copyreg"}


class _Machine:
    """The stack machine of the pickle protocol, without the calls."""

    def __init__(self, storage: Callable[[object], object] | None) -> None:
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self._memo: dict[int, object] = {}
        self._storage = storage
        self._encoded: dict[str, bytes] = {}
        self._rebuild: dict[str, Callable[..., object]] = {
            "torch._utils._rebuild_tensor_v2": _tensor,
            "torch._utils._rebuild_parameter": lambda data, *_: _as(torch.Tensor, data),
            "torch._utils._rebuild_parameter_with_state": lambda data, *_: _as(torch.Tensor, data),
            "collections.OrderedDict": lambda: {},
            "builtins.bytes": lambda: b"",
            "_codecs.encode": self._encode,
        }
        for package in ("numpy.core", "numpy._core"):
            self._rebuild[f"{package}.multiarray.scalar"] = _scalar
            self._rebuild[f"{package}.multiarray._reconstruct"] = _array

    def step(self, name: str, argument: Any) -> None:
        """Take one opcode."""
        stack = self.stack
        taken: list[Any] = []
        if name in _TAKEN:
            count = _TAKEN[name]
            if count is None:
                taken, stack = stack, self.below.pop()
                self.stack = stack
            elif len(stack) < count:
                raise ValueError("the stack is too short")
            else:
                taken = stack[-count:]
                del stack[-count:]
        match name:
            case _ if name in _VALUES:
                stack.append(argument)
            case "BINGET" | "LONG_BINGET":
                stack.append(self._memo[argument])
            case "BINPUT" | "LONG_BINPUT" | "MEMOIZE":
                self._memo[len(self._memo) if argument is None else argument] = stack[-1]
            case "REDUCE" if isinstance(taken[0], Global) and taken[0] in self._rebuild:
                stack.append(self._rebuild[taken[0]](*_as(tuple, taken[1])[:_MOST_ARGUMENTS]))
            case "REDUCE" | "NEWOBJ":
                stack.append(Record(*taken))
            case "APPEND" | "APPENDS" | "ADDITEMS":
                _extend(stack[-1], taken)
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(taken))
            case "MARK":
                self.below.append(stack)
                self.stack = []
            case "SETITEM" | "SETITEMS":
                _assign(stack[-1], list(zip(taken[::2], taken[1::2], strict=True)))
            case "GLOBAL":
                stack.append(_global(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                stack.append(_global(*taken))
            case "BUILD":
                _build(stack[-1], *taken)
            case "BINPERSID" if self._storage is not None:
                stack.append(self._storage(*taken))
            case "EMPTY_SET":
                stack.append(Record(Global("builtins.set"), ()))
            case "FROZENSET":
                stack.append(Record(Global("builtins.frozenset"), (taken,)))
            case "DUP":
                stack.append(stack[-1])
            case "PROTO" | "FRAME" | "STOP" | "POP" | "POP_MARK":
                pass
            case _:
                stack.append(_CONSTANTS[name])

    def _encode(self, text: str, encoding: str) -> bytes:
        """Return bytes that older protocols write as text; the same ones for the same text."""
        if not isinstance(text, str) or encoding != "latin1":
            raise TypeError("bytes in an unknown encoding")
        if text not in self._encoded:
            self._encoded[text] = text.encode("latin1")
        return self._encoded[text]


def _as(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise TypeError(f"something else than a {kind.__name__}")
    return value


def _global(module: object, name: object) -> Global:
    if not (isinstance(name, str) and isinstance(module, str)):
        raise TypeError("a name that is not text")
    if len(module) + len(name) > _LONGEST_NAME:
        raise ValueError("a name that is too long")
    return Global(f"{_PYTHON_2.get(module, module)}.{name}")


def _extend(target: Any, items: list[Any]) -> None:
    if isinstance(target, Record):
        target.items = target.items or []
        target = target.items
    _as(list, target).extend(items)


def _assign(target: Any, pairs: list[tuple[Any, Any]]) -> None:
    if isinstance(target, Record):
        target.pairs = target.pairs or []
        target.pairs.extend(pairs)
        return
    for key, value in pairs:
        if isinstance(key, int):
            if abs(key) > _LARGEST_KEY:
                raise ValueError("a key that is too large")
        elif not isinstance(key, (str, Record)):
            raise TypeError("a key of an unusual type")
        _as(dict, target)[key] = value


def _build(target: object, state: Any) -> None:
    if isinstance(target, Record):
        target.state = state
    elif isinstance(target, np.ndarray):
        _, shape, dtype, fortran, raw = state
        kind = _dtype(dtype)
        if not isinstance(raw, bytes) or not _is_shape(shape):
            raise TypeError("an array without bytes or shape")
        if math.prod(shape) * kind.itemsize != len(raw):
            raise ValueError("an array of another size than its bytes")
        target.__setstate__((1, shape, kind, fortran is True, raw))  # type: ignore[arg-type]
    elif not isinstance(target, dict):  # an ordered dictionary may carry attributes of its own
        raise TypeError("a state for something that has none")


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: object) -> torch.Tensor:
    """Return a view of a storage, once it is certain to lie within it."""
    if not isinstance(storage, torch.Tensor) or storage.dim() != 1:
        raise TypeError("a tensor without a storage")
    if not (_is_shape(size) and _is_shape(stride) and _is_size(offset)):
        raise ValueError("a shape that is not one")
    count = math.prod(size)
    last = sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if count > len(storage) or (count and not 0 <= offset + last < len(storage)):
        raise ValueError("a tensor that reaches beyond its storage")
    return storage.as_strided(size, stride, offset) if count else storage.new_empty(size)


def _array(kind: object, *_: object) -> np.ndarray[Any, Any]:
    """Return an empty array, which its state fills."""
    if not isinstance(kind, Global) or kind != "numpy.ndarray":
        raise TypeError("an array of another class")
    return np.empty(0)


def _scalar(dtype: object, raw: object) -> Any:
    kind = _dtype(dtype)
    if not isinstance(raw, bytes) or len(raw) != kind.itemsize:
        raise ValueError("a NumPy number of another size than its type")
    return np.frombuffer(raw, kind).item()


def _dtype(found: Any) -> np.dtype[Any]:
    """Return a type of NumPy numbers."""
    if not isinstance(found, Record) or found.path != "numpy.dtype":
        raise TypeError("a NumPy value without a type")
    code, order = found.args[0], found.state[1]  # type: ignore[index]
    if not isinstance(code, str):  # hashing or printing anything else may take for ever
        raise TypeError("a type without a name")
    if code not in _NUMPY or order not in ("<", "|"):
        raise FoundationError(f"holds NumPy values of the type {code[:20]!r}, not numbers.")
    return np.dtype(code)


def _is_shape(value: Any) -> bool:
    short = type(value) is tuple and len(value) <= _MOST_DIMENSIONS
    return short and all(map(_is_size, value))


def _is_size(value: object) -> bool:
    return type(value) is int and 0 <= value < _MOST_NUMBERS
