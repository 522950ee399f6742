"""Archives and compressed files: what is in them, unpacked with limits.

Read are ``.zip``, ``.tar`` (also ``.tar.gz``, ``.tgz``, ``.tar.bz2``, ``.tar.xz``, ``.tar.zst``),
single files compressed with zstd, and single binary files (HDF5, SQLite, NumPy) compressed with
gzip, bzip2 or xz; compressed text is read as a stream where its format is.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from io import BufferedReader, RawIOBase
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any

from ase.io.formats import open_with_compression

from finetune.core.errors import DataError
from finetune.data.formats.frames import PACKED, reason

SUFFIXES = {".zip", ".tar", ".tgz"}
"""Suffixes of archives, before one of compression."""
LARGEST_RATIO, SMALL = 200, 2**30
"""An archive may unpack to so many times its own size, or to so many bytes."""
MOST_MEMBERS = 1_000_000
_BINARY = (b"\x89HDF\r\n\x1a\n", b"SQLite f", b"PK\x03\x04")
"""How files begin that are read at any place, not as a stream."""
_OPEN: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
Entry = tuple[str, int, Callable[[], IO[bytes]]]
"""Name of a member, its size in bytes, and what opens it."""


def is_archive(path: Path) -> bool:
    """Whether the name is that of an archive of several files."""
    suffixes = [suffix for item in path.suffixes if (suffix := item.lower()) not in PACKED]
    return bool(suffixes) and suffixes[-1] in SUFFIXES


def is_packed(path: Path) -> bool:
    """Whether a file must be unpacked before it is read."""
    suffix = path.suffix.lower()
    if is_archive(path) or suffix == ".zst":
        return True
    if suffix not in PACKED:
        return False
    if suffix != path.suffix:  # the formats open lower case
        return True
    try:
        with open_with_compression(str(path), "rb") as file:
            return bool(file.read(8).startswith(_BINARY))
    except Exception:  # the format says what is wrong
        return False


def entries(path: Path, name: str) -> Iterator[Entry]:
    """Yield the files of an archive in order; ``name`` is that in messages.

    Raises:
        DataError: For damage, encryption, links and devices, names outside of the archive or that
            are there twice, more than `MOST_MEMBERS` members, and more than `LARGEST_RATIO` times
            its size beyond `SMALL` bytes.
    """
    total = 0
    names: set[PurePosixPath] = set()
    try:
        with ExitStack() as stack:
            found = (_zip if path.suffix.lower() == ".zip" else _tar)(path, stack)
            for count, (member, size, opened) in enumerate(found, 1):
                place = PureWindowsPath(member)  # knows both kinds of separators
                if place.anchor or ".." in place.parts:
                    raise DataError(f"has the member '{member}', whose name leads out of it.")
                if PurePosixPath(member) in names:
                    raise DataError(f"has the member '{member}' twice.")
                names.add(PurePosixPath(member))
                total += size
                if count > MOST_MEMBERS or _excessive(total, path):
                    raise DataError(
                        f"unpacks to more than {MOST_MEMBERS} files or {LARGEST_RATIO} times its "
                        "size."
                    )
                yield member, size, opened
    except DataError as error:
        raise DataError(f"the archive '{name}' {error} It is not read.") from None
    except Exception as error:  # each kind of archive has its own
        raise _damaged(name, error) from None


def contents(
    path: Path, name: str, chosen: set[str]
) -> Iterator[tuple[str, Callable[[], IO[bytes]]]]:
    """Yield the chosen members of an archive, or the one compressed file, with what opens each."""
    if not is_archive(path):
        yield path.stem, partial(_decompressed, path)
        return
    for member, _, opened in entries(path, name):
        if member in chosen:
            yield member, opened


def copy(opened: Callable[[], IO[bytes]], to: Path, path: Path, name: str) -> None:
    """Write what a member of the file ``path`` has to ``to``, within the limits."""
    size = 0
    try:
        with opened() as content, to.open("wb") as target:
            while block := content.read(2**20):
                size += len(block)
                if _excessive(size, path):
                    raise DataError(
                        f"'{name}' unpacks to more than {LARGEST_RATIO} times its size."
                    )
                target.write(block)
    except DataError:
        raise
    except Exception as error:  # each kind of compression has its own
        if isinstance(error, OSError) and error.errno is not None:  # such as a full disk
            raise
        raise _damaged(name, error) from None


def _excessive(size: int, path: Path) -> bool:
    return size > max(SMALL, LARGEST_RATIO * path.stat().st_size)


def _damaged(name: str, error: Exception) -> DataError:
    return DataError(
        f"'{name}' cannot be unpacked ({reason(error)}). Is it complete? Copy or pack it again."
    )


def _decompressed(path: Path) -> IO[bytes]:
    suffix = path.suffix.lower()
    if suffix in _OPEN:
        return _OPEN[suffix](path, "rb")
    try:
        import zstandard
    except ModuleNotFoundError:
        raise DataError(
            f"'{path.name}' is compressed with zstd, which needs zstandard: "
            "pip install 'piwsl-finetune[formats]'."
        ) from None
    return BufferedReader(_Zstd(path, zstandard.ZstdDecompressor().decompressobj))


class _Zstd(RawIOBase):
    """The content of zstd frames; a cut one is an error, as zstandard's own reader ends there."""

    def __init__(self, path: Path, start: Callable[[], Any]) -> None:
        self._file = path.open("rb")
        self._start, self._frame, self._ready = start, start(), b""

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        while not self._ready:
            block = self._frame.unused_data or self._file.read(1024)  # a block may become 32 MiB
            if not block:
                if self._frame.eof:
                    return 0
                raise EOFError("the last frame is cut off")
            if self._frame.eof:
                self._frame = self._start()
            self._ready = self._frame.decompress(block)
        count = min(len(target), len(self._ready))
        target[:count], self._ready = self._ready[:count], self._ready[count:]
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


def _zip(path: Path, stack: ExitStack) -> Iterator[Entry]:
    archive = stack.enter_context(zipfile.ZipFile(path))
    for info in archive.infolist():
        if info.flag_bits & 1:
            raise DataError("is encrypted.")
        if stat.S_ISLNK(info.external_attr >> 16):
            raise DataError(f"has the link '{info.filename}'.")
        if not info.is_dir():
            yield info.filename, info.file_size, partial(archive.open, info)


def _tar(path: Path, stack: ExitStack) -> Iterator[Entry]:
    if path.suffix.lower() == ".zst":
        file = stack.enter_context(_decompressed(path))
        archive = stack.enter_context(tarfile.open(fileobj=file, mode="r|"))  # noqa: SIM115
    else:
        archive = stack.enter_context(tarfile.open(path, mode="r|*"))  # noqa: SIM115
    for info in archive:
        if not info.isfile() and not info.isdir():
            raise DataError(f"has the link or device '{info.name}'.")
        if info.isfile():
            yield info.name, info.size, partial(_extract, archive, info)


def _extract(archive: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    file = archive.extractfile(info)
    assert file is not None, "only folders and devices have no content"
    return file
