"""Read labelled structures from files, folders and patterns, with ``@`` to select some."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from glob import glob, has_magic
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from ase.io.formats import string2index

from finetune.core.errors import DataError, system_errors
from finetune.core.resources import expanded, find, shipped
from finetune.core.units import Units
from finetune.data.archives import SUFFIXES
from finetune.data.folders import in_folder, unpacked
from finetune.data.formats import FORMATS
from finetune.data.formats.deepmd import TYPES
from finetune.data.formats.frames import PACKED, File, Frames, LeftOutError, named, select
from finetune.data.labels import (
    QUANTITIES,
    check_keys,
    has_stress,
    label,
    label_names,
    names_of,
    stated_units,
    unread_labels,
)
from finetune.data.store import Store, usable
from finetune.data.structures import Joined, LazySequence, Structure, from_atoms
from finetune.data.tables import EnergyTable
from finetune.recipe.sections import DataRecipe, LabelKeys


def find_files(source: str, recipe_folder: Path | None = None) -> tuple[list[File], list[str]]:
    """Return the files that a source names, and notes on files of a folder that are not read.

    A source is a file, a folder of files of one kind, a system of DeePMD-kit or a folder of such,
    or a pattern such as ``set-*/part?.xyz``; ``@`` and an index expression may follow. Relative
    paths are looked up in the recipe's folder ``recipe_folder``, too. Refuses a source that names
    no file.
    """
    name, at, index = source.rpartition("@")
    if not at or find(source, recipe_folder) is not None:
        name, index = source, ":"
    path = find(name, recipe_folder)
    if path is not None and path.is_file():
        return [File(path, source, index)], []
    if path is not None and path.is_dir():
        return in_folder(path, index)
    if has_magic(name):
        return [File(found, str(found), index) for found in _matching(name, recipe_folder)], []
    places = dict.fromkeys((Path.cwd(), recipe_folder.resolve() if recipe_folder else Path.cwd()))
    folders = ", ".join(str(place) for place in places)
    raise DataError(f"no structure file '{name}' (looked in {folders}).")


def _matching(pattern: str, recipe_folder: Path | None) -> list[Path]:
    path = expanded(pattern)
    roots = [Path()]
    if not path.is_absolute():
        roots += [recipe_folder] if recipe_folder is not None else []
        roots += [shipped()] if path.parts[0] in {"data", "recipes"} else []
    for root in roots:
        found = sorted(Path(name) for name in glob(str(root / path), recursive=True))
        found = [name / TYPES if (name / TYPES).is_file() else name for name in found]
        files = [name for name in found if name.is_file()]
        if files:
            return files
    raise DataError(f"no structure file matches '{pattern}'.")


@dataclass
class FileRecord:
    """What was read from a file, folder or pattern, by the name that was given.

    ``left_out`` says why structures, and which files of a folder, were left out; ``unlabelled``
    counts structures without labels that were left out, in formats where that is usual;
    ``unused_stress`` those whose stress is not used, as they are not periodic in all directions;
    ``remarks`` are notes on the format.
    """

    source: str
    format: str = ""
    units: dict[str, Any] = field(default_factory=dict)
    structures: int = 0
    files: int = 0
    left_out: list[str] = field(default_factory=list)
    unlabelled: int = 0
    remarks: list[str] = field(default_factory=list)
    unused_stress: int = 0

    def notes(self) -> list[str]:
        """Say what was left out, and what the format has to say."""
        found = [f"{note} ('{self.source}')" for note in self.remarks]
        if self.unlabelled:
            found.append(
                f"note: {self.unlabelled} of {self.unlabelled + self.structures} structures of "
                f"'{self.source}' have none of the labels asked for and are left out."
            )
        if self.unused_stress:
            found.append(
                f"warning: {self.unused_stress} of {self.structures} structures of '{self.source}' "
                "have stress but are not periodic in all three directions: their stress is not "
                'used. Of a slab in a full cell, set pbc="T T T" if its stress is per volume of '
                "that cell."
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
        faulty: Whether a structure that cannot be used is an error, or is left out and recorded.
        recipe_folder: Folder of the recipe, where relative paths are looked up too.
        energies: CSV files of energies by the source whose structures they belong to.

    Attributes:
        records: One for each source read.
        names: Names in the files of everything that could be a label.
        found: Quantities that the files have under the names asked for; all of them in a store.
    """

    def __init__(
        self,
        keys: LabelKeys | None = None,
        units: Units | None = None,
        faulty: Literal["stop", "skip"] = "stop",
        recipe_folder: Path | None = None,
        energies: Mapping[str, str] | None = None,
    ) -> None:
        self.keys = keys or LabelKeys()
        self.units = units or Units()
        self.faulty = faulty
        self.recipe_folder = recipe_folder
        self.energies = energies or {}
        self.records: list[FileRecord] = []
        self.names: set[str] = set()
        self.found: set[str] = set()

    @classmethod
    def of(cls, data: DataRecipe, recipe_folder: Path | None) -> Reader:
        """Return the reader that a recipe asks for."""
        return cls(data.keys, data.units, data.faulty, recipe_folder, data.energy_tables())

    def read(self, sources: Sources, need_labels: bool = True) -> Sequence[Structure]:
        """Read every structure of one or several sources, in order; stores stay on disk.

        Args:
            sources: Files, folders of files of one kind, or patterns, of anything ASE reads, NumPy
                archives, ANI files and stores; ``FILE@:50`` takes ASE's index expressions.
            need_labels: Whether files without a single energy or force are an error.

        Raises:
            DataError: For missing, unreadable or empty files, absent label keys and bad labels.
        """
        parts = [
            part if isinstance(part, Sequence) else list(part)
            for part in self._parts(sources, need_labels)
        ]
        if len(parts) == 1:
            return parts[0]
        if any(isinstance(part, LazySequence) for part in parts):
            return Joined(parts)
        return [item for part in parts for item in part]

    def stream(self, sources: Sources, need_labels: bool = True) -> Iterator[Structure]:
        """Yield what `read` returns, one by one, without keeping it."""
        for part in self._parts(sources, need_labels):
            yield from part

    def check_named(self, quantities: Collection[str] | None = None) -> None:
        """Refuse names of labels (``energy``, ``forces``, ``stress``) that no file read so far has.

        By default those are checked whose names are not the usual ones.
        """
        for quantity, lack in self.unnamed(quantities).items():
            listed = ", ".join(sorted(self.names)) or "none at all"
            raise DataError(
                f"{lack}. Keys present: {listed}. Correct data.keys.{quantity} (command: "
                f"--{quantity}-key), or leave it out."
            )

    def unnamed(self, quantities: Collection[str] | None = None) -> dict[str, str]:
        """Return what `check_named` refuses, in words, by quantity."""
        keys, usual = self.keys.model_dump(), LabelKeys().model_dump()
        named = [name for name in (*QUANTITIES, "virial") if keys[name] is not None]
        if quantities is None:
            quantities = [name for name in named if keys[name] != usual[name]]
        return {
            name: f"no structure has {name} under '{keys[name]}'"
            for name in named
            if name in quantities and name not in self.found
        }

    def check_unread(self) -> None:
        """Refuse files that have labels, but none under the names asked for."""
        names = [name for name in self.names if _LABEL.search(name)]
        if names and not self.found:
            check_keys(names, self.keys, "the set", need_labels=True)

    def notes(self) -> list[str]:
        """Say what was left out, and what may be labels under other names."""
        left_out = [note for record in self.records for note in record.notes()]
        return left_out + unread_labels(self.names, self.keys, self.found)

    def as_dicts(self) -> list[dict[str, Any]]:
        """Return the records as plain data."""
        return [asdict(record) for record in self.records]

    def _parts(self, sources: Sources, need_labels: bool) -> Iterator[Iterable[Structure]]:
        """Yield stores as sequences, and the structures of the other files of a source."""
        named = [sources] if isinstance(sources, (str, Path)) else list(sources)
        if not named:
            raise DataError("no structure file is named.")
        for source in map(str, named):
            files, notes = find_files(source, self.recipe_folder)
            record = FileRecord(source, left_out=notes, files=len(files))
            self.records.append(record)
            stores = [file for file in files if not _packed(file) and file.is_store]
            if stores and source in self.energies:
                raise DataError(f"'{source}' is a store; data.energies cannot add energies to it.")
            for file in stores:
                yield self._open_store(file, record)
            if rest := [file for file in files if file not in stores]:
                yield self._structures(rest, record, need_labels)

    def _open_store(self, file: File, record: FileRecord) -> Sequence[Structure]:
        opened: Sequence[Structure] = Store(file.path)
        try:
            chosen = string2index(file.index)
            found = opened[chosen] if isinstance(chosen, slice) else [opened[chosen]]
        except (ValueError, IndexError, TypeError):
            raise DataError(f"'{file.name}' contains no structure at that index.") from None
        if not found:
            raise DataError(f"'{file.name}' contains no structures at that index.")
        if len(found) < len(opened):
            opened = found
        if self.faulty == "skip":
            opened, faults = usable(opened)
            record.left_out += faults
            if not opened:
                raise DataError(f"'{file.name}' contains no usable structure: {faults[0]}")
        record.format = "HDF5 store"
        record.units = Units().filled().model_dump(exclude_none=True)
        record.structures += len(opened)
        self.found.update((*QUANTITIES, "virial"))
        return opened

    def _structures(
        self, files: Sequence[File], record: FileRecord, need_labels: bool
    ) -> Iterator[Structure]:
        names: set[str] = set()
        before, keys = record.structures, self.keys
        beside = self.energies.get(record.source)
        csv = find(beside, self.recipe_folder) if beside else None
        table = EnergyTable(csv, beside, self.units.energy) if beside else None
        for file in chain.from_iterable(_members(item, record.left_out) for item in files):
            opened = open_frames(file, _spelt(self.keys))
            keys = named(self.keys, opened.natural)
            names |= opened.names
            stated = opened.stated.over(self.units) if opened.stated else self.units
            usual = given = stated.filled(opened.usual)
            record.format = opened.format
            empty = True
            stream = opened.stream if opened.chosen else select(opened.stream, file)
            if table is not None:
                stream = table.joined(stream, file, str(keys.energy))
            for index, frame in stream:
                empty = False
                try:
                    if isinstance(frame, DataError):
                        raise frame
                    names |= label_names(frame)
                    labels = (label(frame, getattr(keys, name)) for name in QUANTITIES)
                    if opened.sparse and need_labels and all(item is None for item in labels):
                        record.unlabelled += 1
                        continue
                    where = f"'{file.name}', structure {index}"
                    own = stated_units(frame, stated, where)
                    given = usual if own is stated else own.filled(opened.usual)
                    structure = from_atoms(frame, keys, where, given)
                    record.unused_stress += not frame.pbc.all() and has_stress(frame, keys)
                except DataError as error:
                    if self.faulty == "stop" and not isinstance(error, LeftOutError):
                        raise
                    record.left_out.append(str(error))
                    continue
                record.structures += 1
                yield structure
            record.remarks += [note for note in opened.notes if note not in record.remarks]
            record.units = given.model_dump(exclude_none=True)
            if empty:
                at_index = file.index != ":"
                why = "at that index." if at_index else f"({opened.format}). Is it complete?"
                raise DataError(f"'{file.name}' contains no structures {why}")
        if table is not None and files[0].index == ":":
            table.check_used(record.source)
        self.names |= names
        for name in (*QUANTITIES, "virial"):
            if names.intersection(names_of(name, keys)):
                self.found.update((name, "stress") if name == "virial" else (name,))
        if record.structures == before and record.left_out:
            raise DataError(f"'{record.source}' contains no usable structure: {record.left_out[0]}")
        try:
            check_keys(names, keys, f"'{record.source}'", need_labels)
        except DataError as error:
            raise DataError(" ".join([str(error), *record.remarks])) from None
        if record.structures == before:
            raise DataError(
                f"'{record.source}' contains no usable structure: none of them has a label that "
                "was asked for."
            )


@system_errors()
def read_structures(
    sources: Sources,
    keys: LabelKeys | None = None,
    recipe_folder: Path | None = None,
    need_labels: bool = True,
    units: Units | None = None,
    named: Collection[str] = (),
) -> Sequence[Structure]:
    """Read every structure of one or several sources, at least one, in file order.

    For the arguments and errors see `Reader` and `Reader.read`. Labels ``named`` (``energy``,
    ``forces``, ``stress``) must exist under their names.
    """
    reader = Reader(keys, units, recipe_folder=recipe_folder)
    structures = reader.read(sources, need_labels)
    reader.check_named(named)
    return structures


def _packed(file: File) -> bool:
    return file.path.suffix.lower() in PACKED | SUFFIXES


def _members(file: File, notes: list[str]) -> Iterable[File]:
    return unpacked(file, notes) if _packed(file) else [file]


def _spelt(keys: LabelKeys) -> LabelKeys:
    """Return keys with a name that no file has for what is not to be read."""
    absent = {name: f"(no {name})" for name, key in keys.model_dump().items() if key is None}
    return keys.model_copy(update=absent)


def open_frames(file: File, keys: LabelKeys) -> Frames:
    """Open a file that is no store with the first format that recognises it."""
    if file.path.stat().st_size == 0:
        raise DataError(f"'{file.name}' is empty. Was it written to the end?")
    suffix, formats = file.path.suffix, FORMATS.values()
    known = (item for item in formats if suffix in item.suffixes)
    found = next(known, None) or next(item for item in formats if item.recognises(file))
    return found.open(file, keys)
