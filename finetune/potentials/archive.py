"""The zip archives that `torch.save` writes, opened without executing anything they contain."""

from __future__ import annotations

import io
import json
import math
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import torch

from finetune.core.errors import FoundationError
from finetune.potentials.storage import checked
from finetune.potentials.unpickling import Global, interpret

METADATA = "piwsl-finetune.json"
"""Entry beside the pickle in which this package keeps where a model comes from."""
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
_MOST_DIMENSIONS = 16
_MOST_NUMBERS = 2**62
_END = 22  # bytes of the record that ends a zip archive, without its comment
_LONGEST_END = _END + 2**16
_UNREADABLE = (
    zipfile.BadZipFile,
    NotImplementedError,  # zipfile: a compression or encryption that it does not know
    RuntimeError,
    OSError,
    EOFError,
    ValueError,
    KeyError,
    OverflowError,
    RecursionError,
    struct.error,
)


@dataclass(frozen=True)
class Content:
    """What an archive holds.

    Attributes:
        root: The object that was saved, as `finetune.potentials.unpickling` reads it.
        numbers: How many numbers its tensors hold in all.
        metadata: What this package wrote beside it; nothing in other files.
    """

    root: object
    numbers: int
    metadata: dict[str, Any] = field(default_factory=dict)


def read_archive(file: BinaryIO) -> Content:
    """Read what `torch.save` wrote; every tensor comes to the CPU.

    Args:
        file: Opened for reading in binary; may be anywhere in the file.

    Raises:
        FoundationError: If the file is empty, truncated, damaged or of another kind.
    """
    size = _check_kind(file)
    with _explained("is damaged"), zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        if any(name.endswith("/constants.pkl") or "/code/" in name for name in names):
            raise FoundationError(
                "is a TorchScript archive, which holds compiled code. Give the .model file it was "
                "compiled from."
            )
        pickles = [name for name in names if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(pickles) != 1:
            raise FoundationError("is a zip archive, but not one that torch.save writes.")
        storages = _Storages(archive, pickles[0].removesuffix("data.pkl"), size)
        rebuild: dict[str, Callable[..., object]] = {
            "torch._utils._rebuild_tensor_v2": _tensor,
            "torch._utils._rebuild_parameter": _parameter,
            "torch._utils._rebuild_parameter_with_state": _parameter,
            "collections.OrderedDict": _ordered,
        }
        root = interpret(storages.entry("data.pkl"), rebuild, storages.open)
        return Content(root, storages.numbers, storages.metadata())


class _Storages:
    """The entries of an archive, each read at most once and never more than the file holds."""

    def __init__(self, archive: zipfile.ZipFile, folder: str, size: int) -> None:
        self._archive = archive
        self._folder = folder
        self._raw: dict[str, bytearray] = {}
        self._left = size
        self.numbers = 0
        if f"{folder}byteorder" in archive.namelist() and self.entry("byteorder") != b"little":
            raise FoundationError("was saved on a big-endian machine, which is not supported.")

    def entry(self, name: str) -> bytes:
        info = self._archive.getinfo(self._folder + name)
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise FoundationError("is a compressed archive, which torch.save does not write.")
        self._left -= info.file_size
        if self._left < 0:
            raise FoundationError("claims to hold more than its size allows.")
        return self._archive.read(info)

    def metadata(self) -> dict[str, Any]:
        """Return what `finetune.export.formats` put beside the model."""
        if f"{self._folder}{METADATA}" not in self._archive.namelist():
            return {}
        found = json.loads(self.entry(METADATA))
        if not isinstance(found, dict):
            raise ValueError(f"'{METADATA}' is not a mapping")
        json.dumps(found, ensure_ascii=False).encode()  # refuses half characters
        return checked(found)

    def open(self, reference: object) -> torch.Tensor:
        """Return the storage that a persistent id refers to, as a flat tensor."""
        if not (isinstance(reference, tuple) and len(reference) == 5):
            raise ValueError("a reference that is not to a storage")
        tag, kind, key, _, count = reference
        known = isinstance(kind, Global) and kind.module in {"torch", "torch.cuda"}
        if tag != "storage" or not known or kind.name not in _TYPES or not isinstance(key, str):
            raise ValueError("a storage of unknown type")
        dtype = _TYPES[kind.name]
        if key not in self._raw:
            self._raw[key] = bytearray(self.entry(f"data/{key}"))
            self.numbers += len(self._raw[key]) // dtype.itemsize
        raw = self._raw[key]
        if not _is_size(count) or len(raw) != count * dtype.itemsize:
            raise ValueError("a storage of another size than stated")
        return torch.frombuffer(raw, dtype=dtype) if raw else torch.empty(0, dtype=dtype)


def _tensor(
    storage: object, offset: object, size: object, stride: object, *_: object
) -> torch.Tensor:
    """Return a view of a storage, once it is certain to lie within it."""
    if not isinstance(storage, torch.Tensor) or storage.dim() != 1:
        raise TypeError("a tensor without a storage")
    if not (isinstance(size, tuple) and isinstance(stride, tuple)) or len(size) != len(stride):
        raise TypeError("a tensor without a shape")
    if len(size) > _MOST_DIMENSIONS or not all(map(_is_size, (offset, *size, *stride))):
        raise ValueError("a shape that is not one")
    count = math.prod(size)
    if count > len(storage):
        raise ValueError("a tensor larger than its storage")
    last = sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if count and not 0 <= offset + last < len(storage):
        raise ValueError("a tensor that reaches beyond its storage")
    if not count:
        return storage.new_empty(size)
    return storage.as_strided(size, stride, offset)  # type: ignore[arg-type]


def _parameter(data: object, *_: object) -> torch.Tensor:
    if not isinstance(data, torch.Tensor):
        raise TypeError("a parameter without a tensor")
    return data


def _ordered() -> dict[Any, Any]:
    return {}


def _is_size(value: object) -> bool:
    return type(value) is int and 0 <= value < _MOST_NUMBERS


def _check_kind(file: BinaryIO) -> int:
    """Return the size of a file that begins as a zip archive does."""
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
    if not _has_end(file, size):
        raise FoundationError("is truncated: its end is missing. Get a fresh copy.")
    return size


def _has_end(file: BinaryIO, size: int) -> bool:
    """Whether the record that ends a zip archive ends the file; it may occur inside, too."""
    file.seek(max(0, size - _LONGEST_END))
    tail = file.read()
    place = tail.rfind(b"PK\x05\x06")
    end = tail[place:] if place >= 0 else b""
    return len(end) >= _END and len(end) == _END + int.from_bytes(end[_END - 2 : _END], "little")


@contextmanager
def _explained(what: str) -> Iterator[None]:
    try:
        yield
    except _UNREADABLE as error:
        raise FoundationError(f"{what}: {error}. Get a fresh copy.") from error
