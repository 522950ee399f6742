"""Energies in a CSV file beside the structures: read, and joined by index or name."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from ase import Atoms

from finetune.core.errors import DataError
from finetune.data.formats.frames import Frame
from finetune.data.labels import label

_HOW = "It needs the columns 'energy' and 'index' (from 0) or 'name'."


class EnergyTable:
    """The energies of a CSV file with the columns ``energy`` and ``index`` or ``name``.

    An index is the number of a structure in its source, from 0. A name is that of the structure
    (``name`` of its header, or its comment line), or its file's name without suffix. An empty
    energy is an absent label. Energies are in ``unit``, by default that of the source.

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
        rows = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
        columns = [word.strip().lower() for word in next(rows, [])]
        self.by = next((word for word in ("index", "name") if word in columns), "")
        if "energy" not in columns or not self.by:
            raise DataError(f"'{name}' has the columns {', '.join(columns) or 'none'}. {_HOW}")
        self._energies: dict[str, float | None] = {}
        for line, row in enumerate(rows, 2):
            if not any(row):
                continue
            key, energy = self._row(dict(zip(columns, row, strict=False)), line)
            if key in self._energies:
                raise DataError(f"'{name}', line {line}: the {self.by} '{key}' is there twice.")
            self._energies[key] = energy
        self._used: set[str] = set()
        self._read = 0

    def _row(self, cells: dict[str, str], line: int) -> tuple[str, float | None]:
        where = f"'{self.name}', line {line}"
        key, text = cells.get(self.by, "").strip(), cells.get("energy", "").strip()
        if not key or (self.by == "index" and not key.isdecimal()):
            raise DataError(f"{where}: '{key}' is no {self.by}. {_HOW}")
        try:
            return str(int(key)) if self.by == "index" else key, float(text) if text else None
        except ValueError:
            raise DataError(f"{where}: the energy '{text[:40]}' is no number.") from None

    def joined(self, stream: Iterator[Frame], file: Path, key: str) -> Iterator[Frame]:
        """Yield the structures of a file with their energies under ``key``, or what is wrong."""
        before = self._read
        for index, frame in stream:
            self._read = max(self._read, before + index + 1)
            try:
                if isinstance(frame, Atoms):
                    self._add(frame, before + index, file, key)
            except DataError as error:
                frame = DataError(f"'{file.name}', structure {index}: {error}")
            yield index, frame

    def _add(self, atoms: Atoms, number: int, file: Path, key: str) -> None:
        words = " ".join(str(word) for word, value in atoms.info.items() if value is True)
        names = [str(atoms.info.get("name", "")), words, file.name.split(".")[0]]
        keys = [str(number)] if self.by == "index" else [name for name in names if name]
        found = next((item for item in keys if item in self._energies), None)
        if found is None:
            raise DataError(f"'{self.name}' has no row with the {self.by} {' or '.join(keys)}.")
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
        if rest:
            raise DataError(
                f"'{self.name}' has {len(self._energies)} energies and '{source}' {self._read} "
                f"structures: the {self.by} '{rest[0]}' belongs to none. Remove such rows."
            )
