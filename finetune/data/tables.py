"""Energies in a CSV file beside the structures: read, and joined by index or name."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from ase import Atoms

from finetune.core.errors import DataError
from finetune.data.formats.frames import COMMENT_LINE, PACKED, File, Frame, elements
from finetune.data.labels import label

_HOW = "It needs the columns 'energy' and 'index' (from 0) or 'name'."


class EnergyTable:
    """The energies of a CSV file with the columns ``energy`` and ``index`` or ``name``.

    An index is the number of a structure in its source, from 0. A name is that of the structure
    (``name`` of its header, or its comment line), or its file's name without suffix. An empty
    energy is an absent label. Rows have as many cells as the header. Energies are in ``unit``, by
    default that of the source.

    Raises:
        DataError: For a file that is missing or no such table, naming the line.
    """

    def __init__(self, path: Path | None, name: str, unit: str | None = None) -> None:
        self.name, self.unit = name, unit
        if path is None or not path.is_file():
            raise DataError(f"no file '{name}', which data.energies names.")
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"'{name}' cannot be read as text ({error}).") from None
        head = lines[0] if lines else ""
        delimiter = next((mark for mark in ";\t" if mark in head), ",")
        rows = csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=True)
        try:
            self._columns = [word.strip().lower() for word in next(rows, [])]
            self.by = self._checked_columns()
            self._energies: dict[str, float | None] = {}
            for row in rows:
                if any(row):
                    self._add_row(row, rows.line_num)
        except csv.Error as error:
            raise DataError(f"'{name}', line {rows.line_num} is no CSV ({error}).") from None
        self._used: set[str] = set()
        self._read = self._faulty = 0

    def _checked_columns(self) -> str:
        """Return the column that says which structure a row belongs to."""
        columns = self._columns
        by = next((word for word in ("index", "name") if word in columns), "")
        if "energy" not in columns or not by:
            likely = [word for word in columns if "energ" in word or word in ("e", "etot")]
            hint = f" Is '{likely[0]}' the energy? Call it 'energy'." if likely else ""
            hint = "" if "energy" in columns else hint
            listed = ", ".join(columns) or "none"
            raise DataError(f"'{self.name}' has the columns {listed}. {_HOW}{hint}")
        for word in (by, "energy"):
            if columns.count(word) > 1:
                raise DataError(f"'{self.name}' has the column '{word}' twice. Keep the right one.")
        return by

    def _add_row(self, row: list[str], line: int) -> None:
        where = f"'{self.name}', line {line}"
        if len(row) != len(self._columns):
            raise DataError(
                f"{where} has {len(row)} cells, the header {len(self._columns)}. Write decimals "
                "with a point, texts that contain the separator in quotes, and every cell."
            )
        cells = dict(zip(self._columns, row, strict=True))
        key, text = " ".join(cells[self.by].split()), cells["energy"].strip()
        if not key or (self.by == "index" and not (key.isdecimal() and len(key) < 19)):
            raise DataError(f"{where}: '{key[:40]}' is no {self.by}. {_HOW}")
        key = str(int(key)) if self.by == "index" else key
        try:
            energy = float(text) if text else None
        except ValueError:
            hint = " Write decimals with a point." if "," in text else ""
            raise DataError(f"{where}: the energy '{text[:40]}' is no number.{hint}") from None
        if key in self._energies:
            raise DataError(f"{where}: the {self.by} '{key}' is there twice.")
        self._energies[key] = energy

    def joined(self, stream: Iterator[Frame], file: File, key: str) -> Iterator[Frame]:
        """Yield the structures of a file with their energies under ``key``, or what is wrong."""
        before = self._read
        if before and self.by == "index" and file.index != ":" and not elements(file):
            raise DataError(
                f"'{self.name}' counts structures through several files, of which "
                f"'@{file.index}' reads a part. Give names instead of indices, or leave "
                f"'@{file.index}' out."
            )
        for index, frame in stream:
            self._read = max(self._read, before + index + 1)
            try:
                if isinstance(frame, Atoms):
                    self._add(frame, before + index, file.path, key)
                else:
                    self._faulty += 1
                    self._used.add(str(before + index))
            except DataError as error:
                frame = DataError(f"'{file.name}', structure {index}: {error}")
            yield index, frame

    def _add(self, atoms: Atoms, number: int, path: Path, key: str) -> None:
        words = " ".join(str(word) for word, value in atoms.info.items() if value is True)
        stem = Path(path.stem).stem if path.suffix.lower() in PACKED else path.stem
        (comment,) = atoms.info.get(COMMENT_LINE, ("",))
        names = [str(atoms.info.get("name", "")), words, comment, stem]
        keys = [str(number)] if self.by == "index" else [name for name in names if name]
        found = next((item for item in keys if item in self._energies), None)
        if found is None:
            listed = " or ".join(f"'{item[:40]}'" for item in dict.fromkeys(keys))
            from_one = self.by == "index" and min(map(int, self._energies), default=0) == 1
            hint = " Its indices start at 1; they must start at 0." if from_one else ""
            raise DataError(f"'{self.name}' has no row with the {self.by} {listed}.{hint}")
        if found in self._used:
            raise DataError(
                f"the {self.by} '{found}' of '{self.name}' is that of another one, too."
            )
        self._used.add(found)
        energy = self._energies[found]
        if energy is not None and label(atoms, key) is not None:
            raise DataError(
                f"there are two energies, '{key}' and that of '{self.name}'. Remove one."
            )
        if energy is not None:
            atoms.info[key] = energy
            if self.unit:
                atoms.info.pop("energy-unit", None)  # the last of several tags holds
                atoms.info["energy-unit"] = self.unit

    def check_used(self, source: str) -> None:
        """Refuse rows that belong to none of the structures read from a source."""
        rest = [key for key in self._energies if key not in self._used]
        if rest and (self.by == "index" or not self._faulty):
            raise DataError(
                f"'{self.name}' has {len(self._energies)} energies and '{source}' {self._read} "
                f"structures: the {self.by} '{rest[0]}' belongs to none. Remove such rows."
            )
