"""Extended XYZ, one structure at a time, so that a damaged one does not spoil the others.

ASE parses each structure; where one begins and ends, and whether the file is as long as its count
lines claim, is checked here.
"""

from __future__ import annotations

import lzma
import re
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from io import StringIO
from itertools import islice

from ase import Atoms
from ase.io.extxyz import read_xyz
from ase.io.formats import open_with_compression

from finetune.core.errors import DataError
from finetune.core.text import counted
from finetune.data.formats.frames import File, Format, Frame, Frames, reason
from finetune.recipe.sections import LabelKeys

_COUNT = re.compile(r"\s*[+-]?[0-9]{1,18}\s*", re.ASCII)
_QUOTED = re.compile(r"\"(?:\\.|[^\"])*\"|'(?:\\.|[^'])*'|\{[^}]*\}|\[[^\]]*\]")
_KEY = re.compile(r"(?:^|\s)([^\s=]+)\s*=")
_SIX = re.compile(r"(\b(?:stress|virial)=)([\"'])((?:[^\s\"']+\s+){5}[^\s\"']+)\2")
_PBC = re.compile(r"(?:^|\s)pbc=[\"']([^\"']*)[\"']")


def open_xyz(file: File, keys: LabelKeys) -> Frames:
    """Open an (extended) XYZ file, compressed or not."""
    return Frames("extended XYZ", _structures(_Lines(_text(file)), file.name))


XYZ = Format(
    lambda file: file.ase_kind in {"xyz", "extxyz"}, open_xyz, frozenset({".xyz", ".extxyz"})
)


class _Lines:
    """The lines of a file with their numbers; lines can be put back."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._rest = iter(lines)
        self._back: deque[str] = deque()
        self.number = 0

    def take(self, count: int) -> list[str]:
        found = [self._back.popleft() for _ in range(min(count, len(self._back)))]
        found += islice(self._rest, count - len(found))
        self.number += len(found)
        return found

    def put_back(self, lines: list[str]) -> None:
        self._back.extendleft(reversed(lines))
        self.number -= len(lines)


def _text(source: File) -> Iterator[str]:
    """Yield the lines of a file, decompressed; bytes that are not UTF-8 stay as they are."""
    with source.path.open("rb") as file:
        start = file.read(4)
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"'{source.name}' is UTF-16 text. Save it as UTF-8.")
    with open_with_compression(str(source.path), "rb") as file:
        try:
            yield from (line.decode("utf-8", "surrogateescape") for line in file)
        except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
            raise source.damaged(error) from None


def _structures(lines: _Lines, source: str) -> Iterator[Frame]:
    index = 0
    while header := lines.take(1):
        if not header[0].strip("\ufeff \t\r\n"):
            continue
        yield index, _structure(header[0].lstrip("\ufeff"), lines, f"'{source}', structure {index}")
        index += 1


def _structure(header: str, lines: _Lines, where: str) -> Atoms | DataError:
    """Read what follows a count line; after a fault, skip to the next line that could be one."""
    at = lines.number
    if not _COUNT.fullmatch(header):
        skipped = _skip(lines)
        return DataError(
            f"{where}: line {at} should be a number of atoms, not {_shown(header)}. "
            f"Is the number of atoms before it right?{skipped}"
        )
    count = int(header)
    if count < 1:
        lines.take(1)
        return DataError(f"{where} (line {at}) has {count} atoms. Remove it.")
    body = lines.take(count + 1)
    if len(body) < count + 1:
        lines.put_back(body[1:])
        skipped = _skip(lines)
        return DataError(
            f"{where} (line {at}) should have {count} atoms, but the file ends after "
            f"{counted(max(len(body) - 1, 0), 'line')} of them. Is it cut off, or is the number "
            f"wrong?{skipped}"
        )
    while (more := lines.take(1)) and more[0].lstrip().startswith("VEC"):
        body += more
    lines.put_back(more)
    fault = _fault(header, body)
    if not fault:
        try:
            text = "".join([header, _SIX.sub(_nine, body[0]), *body[1:]])
            (atoms,) = read_xyz(StringIO(text), slice(0, 1))
            return atoms
        except Exception as error:  # the parser raises whatever a line makes it
            fault = f"cannot be read ({reason(error)}). Check its lines against its header."
    lines.put_back(body[1:])
    return DataError(f"{where} (line {at}) {fault}{_skip(lines)}")


def _nine(six: re.Match[str]) -> str:
    """Write the stress or virial of a header, six numbers in Voigt's order, as ASE reads it."""
    xx, yy, zz, yz, xz, xy = six[3].split()
    return f'{six[1]}"{xx} {xy} {xz} {xy} {yy} {yz} {xz} {yz} {zz}"'


def _fault(header: str, body: list[str]) -> str:
    """Return what is wrong with the text of a structure, or ""."""
    try:
        "".join([header, *body]).encode("utf-8")
    except UnicodeEncodeError:
        return "is not UTF-8 text. Convert the file, e.g. iconv -f latin1 -t utf-8."
    keys = _KEY.findall(_QUOTED.sub('""', body[0]))
    repeated = sorted({key for key in keys if keys.count(key) > 1 and key != '""'})
    if repeated:
        return f"names '{repeated[0]}' twice in its header. Keep the right one."
    periodic = _PBC.search(body[0])
    if periodic and not set(periodic[1].split()) <= {"T", "F", "True", "False", "1", "0"}:
        return f'has pbc {_shown(periodic[1])}; write it as pbc="T T F".'
    for offset, line in enumerate(body[1:]):
        if not line.strip() or _COUNT.fullmatch(line):
            return (
                f"should have {int(header)} atoms, but line {offset + 3} of it is "
                f"{_shown(line)}. Is the number of atoms right?"
            )
    return ""


def _skip(lines: _Lines) -> str:
    """Skip to the next line that could be a number of atoms; return a note on what is skipped."""
    start = lines.number
    while line := lines.take(1):
        if _COUNT.fullmatch(line[0]):
            lines.put_back(line)
            break
    skipped = lines.number - start
    return f" {counted(skipped, 'line')} from line {start + 1} on skipped." if skipped else ""


def _shown(line: str) -> str:
    text = line.strip().encode("utf-8", "backslashreplace").decode("utf-8")
    return repr(text[:40]) if text else "empty"
