"""What a format is: it recognises a file, and opens it as structures read one by one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import h5py
from ase import Atoms
from ase.data import atomic_numbers
from ase.io.formats import filetype, ioformats, open_with_compression, string2index

from finetune.core.errors import DataError
from finetune.core.units import Units
from finetune.data.store import FORMAT as STORE
from finetune.recipe.sections import LabelKeys


class LeftOutError(DataError):
    """Why a structure is no label although its file is sound: its calculation did not converge.

    Such structures are left out, counted and named, whatever ``data.faulty`` says.
    """


Frame = tuple[int, Atoms | DataError]
"""Index in the file, and the structure or why it cannot be read."""
READ = (
    "What is read: extended XYZ, ASE databases and trajectories, NumPy archives (.npz), HDF5 sets "
    "and stores, systems of DeePMD-kit, JSON of pymatgen structures, MLIP configurations (.cfg), "
    "LAMMPS dumps, XSF, ML_AB, and outputs of VASP, Quantum ESPRESSO, FHI-aims, GPAW, CASTEP, "
    "CP2K, SIESTA, ABACUS, PWmat, OpenMX, ORCA, Gaussian, Molpro, Psi4, Q-Chem, NWChem, Turbomole, "
    "DALTON, GAMESS, MOPAC, ADF."
)
"""For messages."""
PACKED = {".gz", ".bz2", ".xz", ".zst"}
"""Suffixes of compressed files."""
COMMENT_LINE = "(comment line)"
"""Name of the comment line of an XYZ structure, the only item of a tuple so that it is no tag."""


class Written(Protocol):
    """What is known of the outputs of a program: ``banner`` is a pattern that only they have."""

    @property
    def banner(self) -> str: ...  # noqa: D102


@dataclass(frozen=True)
class File:
    """A file to read: its path, its name in messages, and an index expression or a query."""

    path: Path
    name: str
    index: str = ":"

    @property
    def is_store(self) -> bool:
        """Whether the file is marked as a store; a damaged one is not."""
        if not h5py.is_hdf5(self.path):
            return False
        try:
            with h5py.File(self.path, "r") as file:
                return bool(file.attrs.get("format") == STORE)
        except OSError:
            return False

    def program(self, programs: Mapping[str, Written], head: int) -> str:
        """Return the name of the program whose banner is in the first bytes of the file, or ""."""
        try:
            with open_with_compression(str(self.path), "rb") as file:
                start = file.read(head).decode("utf-8", "replace")
        except Exception:  # each kind of compression has its own; other formats say what is wrong
            return ""
        return next((n for n, item in programs.items() if re.search(item.banner, start)), "")

    @cached_property
    def ase_kind(self) -> str:
        """ASE's name of the format; raises a `DataError` if ASE does not know it."""
        try:
            kind = str(filetype(str(self.path)))
        except Exception:  # the guesses look into the file
            kind = ""
        if kind in ioformats:
            return kind
        if self.path.suffix in PACKED:
            try:
                with open_with_compression(str(self.path), "rb") as file:
                    while file.read(2**20):
                        pass
            except Exception as error:  # each kind of compression has its own
                raise self.damaged(error) from None
        raise DataError(
            f"'{self.name}' cannot be read by ASE: its format is unknown. Give it the name that "
            f"its program gives such files, or convert it to extended XYZ (.xyz). {READ}"
        )

    def damaged(self, error: Exception) -> DataError:
        """Return the error for a compressed file that cannot be decompressed."""
        return DataError(
            f"'{self.name}' cannot be decompressed ({reason(error)}). Is it complete? Copy or "
            "compress it again."
        )


@dataclass(frozen=True)
class Frames:
    """The structures of a file.

    Attributes:
        format: What kind of file it is, for messages and records.
        stream: The structures, read as they are asked for.
        natural: Names of the labels by quantity, where the format has names of its own; they are
            taken where the recipe keeps its default names.
        stated: Units that the format or the file fixes, whatever the recipe says.
        usual: Units that files of this format are in where nobody says otherwise.
        names: Names of all labels in the file, where they are known beforehand.
        chosen: Whether the reader has already taken the index expression into account.
        sparse: Whether a structure without any label is left out rather than kept.
        notes: What users should know of the file; complete when all structures are read.
    """

    format: str
    stream: Iterator[Frame]
    natural: dict[str, str] = field(default_factory=dict)
    stated: Units | None = None
    usual: Units | None = None
    names: frozenset[str] = frozenset()
    chosen: bool = False
    sparse: bool = False
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Format:
    """A family of structure files: whether it recognises a file, and how it opens one.

    ``open`` may read only those labels that the keys name. It raises a `DataError` for damage.
    Files with one of the ``suffixes`` are recognised without a look into them.
    """

    recognises: Callable[[File], bool]
    open: Callable[[File, LabelKeys], Frames]
    suffixes: frozenset[str] = frozenset()


def elements(file: File) -> list[str] | None:
    """Return the elements that stand after ``@`` for the types of atoms in a file, or None."""
    found = file.index.split(",")
    return found if all(symbol in atomic_numbers for symbol in found) else None


def named(keys: LabelKeys, natural: Mapping[str, str]) -> LabelKeys:
    """Take a format's own names of labels where the recipe keeps the default ones."""
    usual, given = LabelKeys().model_dump(), keys.model_dump()
    own = {
        quantity: name for quantity, name in natural.items() if given[quantity] == usual[quantity]
    }
    return keys.model_copy(update=own)


def select(stream: Iterator[Frame], file: File) -> Iterator[Frame]:
    """Keep the structures that a file's index expression names, reading no further than needed."""
    try:
        chosen = string2index(file.index)
    except (TypeError, ValueError):
        chosen = file.index
    if isinstance(chosen, str):
        raise DataError(
            f"'{file.name}': '{file.index}' is not an index expression; write FILE@5, FILE@:50 or "
            "FILE@-10:."
        )
    if isinstance(chosen, int):
        chosen = slice(chosen, chosen + 1 or None)
    if chosen.step == 0:
        raise DataError(f"'{file.name}': the step of '{file.index}' is zero.")
    parts = (chosen.start, chosen.stop, chosen.step)
    if all(part is None or part >= 0 for part in parts):
        yield from islice(stream, *parts)
    else:
        yield from list(stream)[chosen]


def extra(module: str, what: str) -> Any:
    """Import a module of the extra ``formats``; ``what`` says in the message what needs it."""
    try:
        return import_module(module)
    except ImportError:
        package = module.partition(".")[0]
        raise DataError(
            f"{what}, which needs {package}: pip install 'piwsl-finetune[formats]'."
        ) from None


def unreadable(source: str, count: int, why: str, name: str = "") -> DataError:
    """Return the error for a structure that ASE cannot read; ``name`` is that of the format."""
    said = f" ({name})" if name else ""
    return DataError(
        f"'{source}', structure {count} cannot be read by ASE ({why}). Is the file complete, and "
        f"of the format that its name says{said}?"
    )


def reason(error: BaseException) -> str:
    """Return what a reader's exception means, in one line."""
    if isinstance(error, KeyError) and error.args and " " not in str(error.args[0]):
        return f"unknown element or key {error.args[0]!r}"
    if isinstance(error, MemoryError):
        return "it claims more than fits into memory"
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8 text"
    text = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
