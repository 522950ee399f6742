"""Extended XYZ, one structure at a time, so that a damaged one does not spoil the others.

ASE parses each structure; where one begins and ends, and whether the file is as long as its count
lines claim, is checked here. So is what plain XYZ files have beyond positions: energies in comment
lines, as CREST, GOAT, ORCA and xtb write them, and columns without names.
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
from finetune.core.units import Units
from finetune.data.formats.frames import (
    COMMENT_LINE,
    File,
    Format,
    Frame,
    Frames,
    named,
    reason,
)
from finetune.data.labels import label
from finetune.recipe.sections import LabelKeys

_COUNT = re.compile(r"\s*[+-]?[0-9]{1,18}\s*", re.ASCII)
_QUOTED = re.compile(r"\"(?:\\.|[^\"])*\"|'(?:\\.|[^'])*'|\{[^}]*\}|\[[^\]]*\]")
_KEY = re.compile(r"(?:^|\s)([^\s=]+)\s*=")
_SIX = re.compile(r"(\b(?:stress|virial)=)([\"'])((?:[^\s\"']+\s+){5}[^\s\"']+)\2")
_PBC = re.compile(r"(?:^|\s)pbc=[\"']([^\"']*)[\"']")
COMMENT = "comment"
"""Name of the energy in the comment lines of plain XYZ."""
_REAL = r"([-+]?\d+\.\d+(?:[eE][-+]?\d+)?)(?=\s|$)"
_SAID = re.compile(rf"^\s*Coordinates from ORCA-job .*\sE\s+{_REAL}|energy:\s+{_REAL}.*\sxtb:")
"""Comments of ORCA and xtb, which say that a number is the total energy, in Hartree."""
_NUMBER = re.compile(rf"^\s*{_REAL}|\b(?:E|energy):?\s+{_REAL}", re.IGNORECASE)
"""A number that may be the energy: the first word, as CREST and GOAT write it, or after E."""
_EXTENDED = re.compile(r"(?:^|\s)(?:Properties|Lattice)=", re.IGNORECASE)
_OTHER_FIRST = re.compile(r"(?:^|\s)Properties=[\"']?(?!species:S:1)", re.IGNORECASE)
_ISOTOPE = re.compile(r"^(\s*)[DT](?=\s)")
"""Deuterium or tritium: the same electrons, so the same energy and forces as hydrogen."""
_NUMBERS = r"[\"'{\[]\s*[-+.\d][-+.\deE]*[\s,]"
_SPELT = re.compile(
    r"(?<!\S)(?:(?P<Properties>properties)(?=\s*=\s*[\"']?[^\s:]+:[SRIL]:\d)"
    rf"|(?P<Lattice>lattice)(?=\s*=\s*{_NUMBERS})"
    rf"|(?P<pbc>pbc)(?=\s*=\s*(?:{_NUMBERS}|[\"'{{\[]?\s*(?:T|F|True|False)\b)))",
    re.IGNORECASE,
)
"""Names of the geometry in a header, in any case, where their values are such."""
MOST_NOTED = 100
"""Structures that are looked at for notes."""


def open_xyz(file: File, keys: LabelKeys) -> Frames:
    """Open an (extended) XYZ file, compressed or not.

    The energy in a comment line, in Hartree, is read where ``keys`` name `COMMENT`. Where they have
    the default, and the first comment is one of ORCA or xtb, that of all such comments is.
    """
    lines = _Lines(_text(file))
    head = lines.take(2)
    lines.put_back(head)
    first = head[-1] if len(head) > 1 else ""
    natural = {"energy": COMMENT} if _SAID.search(first) else {}
    asked = named(keys, natural).energy == COMMENT and not _EXTENDED.search(first)
    notes: list[str] = []
    number = None if not asked else _NUMBER if keys.energy == COMMENT else _SAID
    stream = _structures(lines, file.name, str(keys.energy), number, notes)
    if not asked:
        return Frames("extended XYZ", stream, notes=notes)
    usual = Units(energy="Hartree", length="Å")
    return Frames(
        "XYZ with energies in comments", stream, natural=natural, usual=usual, notes=notes
    )


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


def _structures(
    lines: _Lines, source: str, energy: str, asked: re.Pattern[str] | None, notes: list[str]
) -> Iterator[Frame]:
    """Yield structures; the number that ``asked`` finds in a comment line is the energy.

    Refuses an energy by name in a file whose comments say energies: their units may differ.
    """
    index = 0
    while header := lines.take(1):
        if not header[0].strip("\ufeff \t\r\n"):
            continue
        body: list[str] = []
        where = f"'{source}', structure {index}"
        found = _structure(header[0].lstrip("\ufeff"), lines, where, body)
        if isinstance(found, Atoms):
            found.info[COMMENT_LINE] = (" ".join(body[0].split()),)
            plain = "" if _EXTENDED.search(body[0]) else body[0]
            said = asked.search(plain) if asked else None
            if said:
                found.info[COMMENT] = float(said[1] or said[2])
            if index < MOST_NOTED:
                unread = not said and energy not in found.info and _NUMBER.search(plain)
                told = _unread(found, body, bool(unread))
                notes += [note for note in told if note not in notes]
            names = [name for name in (energy, "energy") if label(found, name) is not None]
            if asked is _SAID and names:
                found = DataError(
                    f"{where} has '{names[0]}', but the file begins with energies in comments, in "
                    "Hartree. Put the two kinds into files of their own."
                )
        yield index, found
        index += 1


def _unread(atoms: Atoms, body: list[str], number: bool) -> Iterator[str]:
    """Yield notes on what the text of a structure has and what is not read."""
    if "config_weight" in atoms.info:
        yield (
            "note: 'config_weight' is not used: every structure counts once. To weigh structures, "
            "put them into files of their own, and name a file several times in data.train."
        )
    columns = len(body[1].split())
    if columns > 4 and not _EXTENDED.search(body[0]):
        yield (
            f"note: columns 5 to {columns} have no names and are not read. If columns 5 to 7 are "
            "forces, add Properties=species:S:1:pos:R:3:REF_forces:R:3 to each comment line."
        )
    if number:
        yield (
            "note: the numbers in the comment lines are not read. If they are total energies in "
            f"Hartree, set data.keys.energy={COMMENT} (command: --energy-key {COMMENT}); "
            "data.units.energy names another unit."
        )


def _structure(header: str, lines: _Lines, where: str, text: list[str]) -> Atoms | DataError:
    """Read what follows a count line, and add its lines to ``text``.

    After a fault, skip to the next line that could be a count.
    """
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
    body[:1] = [_SPELT.sub(lambda found: str(found.lastgroup), line) for line in body[:1]]
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
            text += [_SIX.sub(_nine, body[0]), *body[1:]]
            if not _OTHER_FIRST.search(body[0]):
                text[1:] = [_ISOTOPE.sub(r"\1H", line) for line in body[1:]]
            (atoms,) = read_xyz(StringIO("".join([header, *text])), slice(0, 1))
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
