"""Read labelled structures from files."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from ase import Atoms
from ase.io.formats import string2index

from finetune.core.errors import DataError, system_errors
from finetune.core.units import Units
from finetune.data.formats import open_frames
from finetune.data.formats.frames import Frames
from finetune.data.keys import QUANTITIES, check_keys, label, label_names, overlooked
from finetune.data.sequences import Joined, LazySequence
from finetune.data.sources import File, find_files, select
from finetune.data.store import Store, is_store, usable
from finetune.data.structures import Structure, from_atoms
from finetune.recipe.sections import DataRecipe, LabelKeys


@dataclass
class FileRecord:
    """What was read from a file, folder or pattern.

    Attributes:
        source: As it was named.
        format: Of its files.
        units: What its labels were in, by quantity.
        structures: How many were read.
        files: How many files they are from.
        left_out: Why structures, and which files of a folder, were not taken.
        unlabelled: Structures without any label that were left out, of a set where that is usual.
    """

    source: str
    format: str = ""
    units: dict[str, Any] = field(default_factory=dict)
    structures: int = 0
    files: int = 0
    left_out: list[str] = field(default_factory=list)
    unlabelled: int = 0

    def notes(self) -> list[str]:
        """Say what was left out."""
        found = []
        if self.unlabelled:
            found.append(
                f"note: {self.unlabelled} of {self.unlabelled + self.structures} structures of "
                f"'{self.source}' have none of the labels asked for and are left out."
            )
        if self.left_out:
            listed = " ".join(f"[{item}]" for item in self.left_out[:10])
            more = f" and {len(self.left_out) - 10} more" if len(self.left_out) > 10 else ""
            found.append(
                f"warning: left out of '{self.source}', {len(self.left_out)} in all: {listed}{more}"
            )
        return found


_LABEL = re.compile("energ|force|stress|virial", re.IGNORECASE)
Sources = str | Path | Sequence[str | Path]


class Reader:
    """Reads structures and keeps a record of what it read.

    Args:
        keys: Names of the labels in the files.
        units: What the labels are in, for files that do not say.
        faulty: Whether a structure that cannot be used is an error or left out and recorded.
        beside: Folder of the recipe, where relative paths are looked up too.

    Attributes:
        records: One for each source read.
        names: Under which the files hold something that could be a label.
        found: Quantities that the files have under the names asked for; all of them in a store.
    """

    def __init__(
        self,
        keys: LabelKeys | None = None,
        units: Units | None = None,
        faulty: Literal["stop", "skip"] = "stop",
        beside: Path | None = None,
    ) -> None:
        self.keys = keys or LabelKeys()
        self.units = units or Units()
        self.faulty = faulty
        self.beside = beside
        self.records: list[FileRecord] = []
        self.names: set[str] = set()
        self.found: set[str] = set()

    @classmethod
    def of(cls, data: DataRecipe, beside: Path | None) -> Reader:
        """Return the reader that a recipe asks for."""
        return cls(data.keys, data.units, data.faulty, beside)

    def read(self, sources: Sources, need_labels: bool = True) -> Sequence[Structure]:
        """Read every structure of one or several sources, in order; stores stay on disk.

        Args:
            sources: Files, folders of files of one kind, or patterns; ``FILE@:50`` takes ASE's
                index expressions.
            need_labels: Whether files without a single energy or force are an error.

        Raises:
            DataError: For missing, unreadable or empty files, absent label keys and bad labels.
        """
        parts: list[Sequence[Structure]] = []
        for source in _listed(sources):
            files, record = self._begin(source)
            stores = [file for file in files if is_store(file.path)]
            parts += [self._open_store(file, record) for file in stores]
            rest = [file for file in files if file not in stores]
            if rest:
                parts.append(list(self._structures(rest, record, need_labels)))
        if len(parts) == 1:
            return parts[0]
        if any(isinstance(part, LazySequence) for part in parts):
            return Joined(parts)
        return [item for part in parts for item in part]

    def stream(self, sources: Sources, need_labels: bool = True) -> Iterator[Structure]:
        """Yield what `read` returns, one by one, without keeping it."""
        for source in _listed(sources):
            files, record = self._begin(source)
            for file in files:
                if is_store(file.path):
                    yield from self._open_store(file, record)
                else:
                    yield from self._structures([file], record, need_labels)

    def check_named(self, quantities: Collection[str] | None = None) -> None:
        """Refuse names of labels that no file read so far has.

        Args:
            quantities: Whose names were given: ``energy``, ``forces``, ``stress``; by default those
                that are not named as usual.

        Raises:
            DataError: Listing the names that there are.
        """
        for quantity, lack in self.unnamed(quantities).items():
            listed = ", ".join(sorted(self.names)) or "none at all"
            raise DataError(
                f"{lack}. Keys present: {listed}. Correct data.keys.{quantity} (command: "
                f"--{quantity}-key), or leave it out."
            )

    def unnamed(self, quantities: Collection[str] | None = None) -> dict[str, str]:
        """Return what `check_named` refuses, in words, by quantity."""
        usual = LabelKeys()
        keys = {quantity: getattr(self.keys, quantity) for quantity in QUANTITIES}
        if quantities is None:
            quantities = [name for name, key in keys.items() if key != getattr(usual, name)]
        return {
            name: f"no structure has {name} under '{key}'"
            for name, key in keys.items()
            if name in quantities and name not in self.found
        }

    def unread(self) -> list[str]:
        """Return names that look like labels, where nothing has the names asked for."""
        return [] if self.found else sorted(name for name in self.names if _LABEL.search(name))

    def notes(self) -> list[str]:
        """Say what was left out, and what may be labels under other names."""
        left_out = [note for record in self.records for note in record.notes()]
        return left_out + overlooked(self.names, self.keys, self.found)

    def as_dicts(self) -> list[dict[str, Any]]:
        """Return the records as plain data."""
        return [asdict(record) for record in self.records]

    def _begin(self, source: str) -> tuple[list[File], FileRecord]:
        files, notes = find_files(source, self.beside)
        record = FileRecord(source, left_out=notes, files=len(files))
        self.records.append(record)
        return files, record

    def _open_store(self, file: File, record: FileRecord) -> Sequence[Structure]:
        opened = _part(Store(file.path), file)
        if self.faulty == "skip":
            opened, faults = usable(opened)
            record.left_out += faults
            if not opened:
                raise DataError(f"'{file.name}' holds no structure that can be used: {faults[0]}")
        record.format = "HDF5 store"
        record.units = Units().filled().model_dump()
        record.structures += len(opened)
        self.found.update(QUANTITIES)
        return opened

    def _structures(
        self, files: Sequence[File], record: FileRecord, need_labels: bool
    ) -> Iterator[Structure]:
        names: set[str] = set()
        found = 0
        keys = self.keys
        for file in files:
            opened = open_frames(file, self.keys)
            keys = _natural(self.keys, opened)
            names |= opened.names
            units = (opened.stated or self.units).filled(opened.usual)
            record.format, record.units = opened.format, units.model_dump()
            seen = 0
            chosen = opened.stream if opened.chosen else select(opened.stream, file)
            for index, frame in chosen:
                seen += 1
                where = f"'{file.name}', structure {index}"
                if isinstance(frame, Atoms):
                    names |= label_names(frame)
                    if opened.sparse and need_labels and not _labelled(frame, keys):
                        record.unlabelled += 1
                        continue
                structure = self._structure(frame, keys, where, units, record)
                if structure is not None:
                    found += 1
                    record.structures += 1
                    yield structure
            if seen == 0:
                at = "" if file.index == ":" else " at that index"
                raise DataError(f"'{file.name}' holds no structures{at}.")
        self.names |= names
        self.found.update(name for name in QUANTITIES if getattr(keys, name) in names)
        check_keys(names, keys, f"'{record.source}'", need_labels)
        if found == 0:
            why = record.left_out[:1] or ["none of them has a label that was asked for."]
            raise DataError(f"'{record.source}' holds no structure that can be used: {why[0]}")

    def _structure(
        self,
        frame: Atoms | DataError,
        keys: LabelKeys,
        where: str,
        units: Units,
        record: FileRecord,
    ) -> Structure | None:
        try:
            if isinstance(frame, DataError):
                raise frame
            return from_atoms(frame, keys, where, units)
        except DataError as error:
            if self.faulty == "stop":
                raise
            record.left_out.append(str(error))
            return None


@system_errors()
def read_structures(
    sources: Sources,
    keys: LabelKeys | None = None,
    beside: Path | None = None,
    need_labels: bool = True,
    units: Units | None = None,
    named: Collection[str] = (),
) -> Sequence[Structure]:
    """Read every structure of one or several sources: see `Reader.read`.

    Args:
        sources: Files, folders or patterns, of anything ASE reads, NumPy archives, ANI files and
            stores, which are left on disk; ``file.xyz@:50`` takes ASE's index expressions.
        keys: Names of the labels in the files.
        beside: Folder of the recipe, where relative paths are looked up too.
        need_labels: Whether files without a single energy or force are an error.
        units: What the labels are in, for files that do not say.
        named: Labels (``energy``, ``forces``, ``stress``) that must be there under their names.

    Returns:
        The structures in file order, at least one.

    Raises:
        DataError: For missing, unreadable or empty files, absent label keys and bad labels.
    """
    reader = Reader(keys, units, beside=beside)
    structures = reader.read(sources, need_labels)
    reader.check_named(named)
    return structures


def _listed(sources: Sources) -> list[str]:
    found = [sources] if isinstance(sources, (str, Path)) else list(sources)
    if not found:
        raise DataError("no structure file is named.")
    return [str(source) for source in found]


def _natural(keys: LabelKeys, opened: Frames) -> LabelKeys:
    """Take the format's own names of labels where the recipe keeps the default ones."""
    default = LabelKeys()
    own = {
        quantity: name
        for quantity, name in opened.natural.items()
        if getattr(keys, quantity) == getattr(default, quantity)
    }
    return keys.model_copy(update=own)


def _labelled(atoms: Atoms, keys: LabelKeys) -> bool:
    return any(label(atoms, key) is not None for key in (keys.energy, keys.forces, keys.stress))


def _part(opened: Store, file: File) -> Sequence[Structure]:
    try:
        chosen = string2index(file.index)
        found = opened[chosen] if isinstance(chosen, slice) else [opened[chosen]]
    except (ValueError, IndexError, TypeError):
        raise DataError(f"'{file.name}' holds no structure at that index.") from None
    if not len(found):
        raise DataError(f"'{file.name}' holds no structures.")
    return opened if len(found) == len(opened) else found
