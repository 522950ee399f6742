"""JSON of MPtrj and MatPES: structures as pymatgen writes them, with labels beside each.

MPtrj: ``{id: {frame: entry}}`` (Deng et al., Nature Machine Intelligence 5, 1031 (2023)). MatPES: a
list of entries, or one a line. Parsed outputs of VASP: a list for each name. Energies are in eV,
forces in eV/Å, stress is in kbar with VASP's sign, positive under compression. Lists and mappings
of entries are read one after the other, lists for each name as a whole.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import IO, Any

import numpy as np
from ase import Atoms
from ase.io.formats import open_with_compression

from finetune.core.errors import DataError
from finetune.core.units import Units
from finetune.data.formats.frames import PACKED, File, Format, Frame, Frames, named, reason
from finetune.data.labels import USUAL_NAMES
from finetune.recipe.sections import LabelKeys

_NAMES = {
    "energy": (
        *("uncorrected_total_energy", "energy", "corrected_total_energy"),
        *("energy_per_atom", "energies_per_atom"),
    ),
    "forces": ("force", "forces"),
    "stress": ("stress", "stresses"),
}
"""Names of the labels, the first one present counts."""
_STRUCTURE = ("structure", "structures")
_MARK = re.compile(rb'"structures?"\s*:\s*[\[{]')
_BLOCK = 2**20
_LINES = re.compile(r"\{[^\n]*\}\s*\n\s*\{")
_GAP, _COLON = re.compile(r"[\s,]*"), re.compile(r"\s*:\s*")
_HYDROGEN = {"D": "H", "T": "H"}


def open_entries(file: File, keys: LabelKeys) -> Frames:
    """Open a JSON file of entries; which energy is taken is told."""
    entries = _entries(file)
    try:
        first = next(entries, {})
    except Exception as error:  # the parser raises whatever damage makes it
        raise _damaged(file.name, 0, error) from None
    natural = {
        quantity: name
        for quantity, names in _NAMES.items()
        if (name := next((item for item in names if item in first), None))
    }
    energy = named(keys, natural).energy
    others = [name for name in _NAMES["energy"] if name in first and name != energy]
    notes = []
    if energy in first and (others or "per_atom" in energy):
        times = " times the number of atoms" if "per_atom" in energy else ""
        instead = f"; data.keys.energy takes another ({', '.join(others)})" if others else ""
        notes = [f"note: the energy is '{energy}'{times}{instead}."]
    return Frames(
        "JSON of pymatgen structures",
        _stream(chain([first] if first else [], entries), file.name),
        natural=natural,
        usual=Units(energy="eV", length="Å", stress="-kbar"),
        notes=notes,
    )


def _recognises(file: File) -> bool:
    kinds = [suffix for suffix in file.path.suffixes if suffix not in PACKED]
    if not kinds or kinds[-1].lower() not in {".json", ".jsonl"}:
        return False
    try:
        with open_with_compression(str(file.path), "rb") as content:
            head = content.read(_BLOCK)
    except Exception:  # what reads it says what is wrong
        return False
    return bool(_MARK.search(head)) and b'"sites"' in head


ENTRIES = Format(_recognises, open_entries)


def _entries(file: File) -> Iterator[dict[str, Any]]:
    with open_with_compression(str(file.path), "rt") as text:
        columns: dict[str, Any] = {}
        for key, value in _members(text, ".jsonl" in file.path.suffixes):
            if not isinstance(value, Mapping) or key in _STRUCTURE:
                columns[key] = value
            elif value.keys() & set(_STRUCTURE):
                yield {"id": key, **value}
            else:
                yield from ({"id": name, **entry} for name, entry in value.items())
    structures = next((columns[name] for name in _STRUCTURE if name in columns), None)
    if isinstance(structures, Mapping):
        yield columns
    elif columns:
        count = len(structures or [])
        for name, values in columns.items():
            if not isinstance(values, list) or len(values) != count:
                size = len(values) if isinstance(values, list) else 1
                raise DataError(f"'{name}' has {size} values for {count} structures.")
        for index in range(count):
            yield {name: values[index] for name, values in columns.items()}


def _members(text: IO[str], named_lines: bool) -> Iterator[tuple[str, Any]]:
    """Yield key and value of a JSON mapping, or number and value of a list or of lines."""
    decoder, buffer = json.JSONDecoder(), text.read(_BLOCK).lstrip("\ufeff \t\r\n")
    lines = named_lines or _LINES.match(buffer) is not None
    mapping = buffer.startswith("{") and not lines
    place, count = 0 if lines else 1, 0
    while True:
        try:
            start = _skipped(_GAP, buffer, place)
            if buffer[start] in "]}" and not lines:
                if buffer[start + 1 :].strip() or text.read(_BLOCK).strip():
                    raise ValueError("more follows its end: name entries one a line .jsonl")
                return
            key = str(count)
            if mapping:
                key, end = decoder.raw_decode(buffer, start)
                start = _skipped(_COLON, buffer, end)
            value, place = decoder.raw_decode(buffer, start)
        except (json.JSONDecodeError, IndexError):  # the buffer ends within the member
            block = text.read(max(_BLOCK, len(buffer) - place))
            if not block and lines and not buffer[place:].strip():
                return
            if not block:
                raise
            buffer, place = buffer[place:] + block, 0
            continue
        count += 1
        yield key, value


def _skipped(pattern: re.Pattern[str], buffer: str, place: int) -> int:
    """Return where what the pattern matches ends; raises an IndexError at the end of the buffer."""
    found = pattern.match(buffer, place)
    if found is None or found.end() == len(buffer):
        raise IndexError("it ends within a member")
    return found.end()


def _stream(entries: Iterator[dict[str, Any]], source: str) -> Iterator[Frame]:
    index = 0
    while True:
        try:
            entry = next(entries, None)
        except Exception as error:
            yield index, _damaged(source, index, error)
            return
        if entry is None:
            return
        try:
            yield index, _atoms(entry)
        except DataError as error:
            yield index, DataError(f"'{source}', structure {index} {error}")
        except Exception as error:
            yield index, _damaged(source, index, error)
        index += 1


def _damaged(source: str, index: int, error: Exception) -> DataError:
    return DataError(
        f"'{source}', structure {index} cannot be read as JSON of a pymatgen structure "
        f"({reason(error)}). Is the file complete?"
    )


def _atoms(entry: Mapping[str, Any]) -> Atoms:
    """Return the structure of an entry, with what is beside it."""
    structure = next(entry[name] for name in _STRUCTURE if name in entry)
    symbols = []
    for number, site in enumerate(structure["sites"]):
        species = site["species"]
        if len(species) != 1 or species[0].get("occu", 1) != 1:
            raise DataError(
                f"has a disordered site ({number}). Only ordered structures can be labelled."
            )
        symbols.append(_HYDROGEN.get(species[0]["element"], species[0]["element"]))
    lattice = structure.get("lattice")
    if lattice is None:
        atoms = Atoms(symbols, [site["xyz"] for site in structure["sites"]])
    else:
        atoms = Atoms(
            symbols,
            scaled_positions=[site["abc"] for site in structure["sites"]],
            cell=lattice["matrix"],
            pbc=lattice.get("pbc", True),
        )
    for quantity, name in (("charge", "charge"), ("spin", "spin_multiplicity")):
        beside = [entry[name] for name in USUAL_NAMES[quantity] if entry.get(name) is not None]
        value = structure.get(name)
        if value is not None and not (beside and value == 0):  # pymatgen writes 0 by default
            atoms.info[quantity] = value
            if any(value != other for other in beside):
                raise DataError(
                    f"has the {name} {value} in its structure, and {beside[0]} beside it. Correct "
                    "the file."
                )
    if entry.get("functional"):
        atoms.info["level_of_theory"] = entry["functional"]
    for name, value in entry.items():
        if isinstance(value, (str, int, float)):
            per_atom = name in _NAMES["energy"] and "per_atom" in name
            atoms.info[name] = value * len(atoms) if per_atom else value
        elif value is not None and name in _NAMES["forces"] + _NAMES["stress"]:
            atoms.info[name] = np.asarray(value, dtype=float)
    return atoms
