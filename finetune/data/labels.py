"""Labels in files: the names they have there, and their values as checked numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Sequence
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

import numpy as np
from ase import Atoms
from ase.stress import voigt_6_to_full_3x3_stress
from numpy.typing import NDArray
from pydantic import ValidationError

from finetune.core.errors import DataError
from finetune.core.units import Units
from finetune.recipe.sections import LabelKeys

Array = NDArray[np.float64]
QUANTITIES = ("energy", "forces", "stress")
LARGEST_NUMBER = 1000
"""Largest charge or spin multiplicity."""
_STEMS = {"energy": "energ", "forces": "force|grad", "stress": "stress", "virial": "virial"}
USUAL_NAMES = {
    "virial": ("REF_virials", "REF_virial", "virials", "virial", "dft_virial"),
    "charge": ("charge", "total_charge"),
    "spin": ("spin", "total_spin", "multiplicity", "spin_multiplicity"),
}
"""Names that are looked for where a key is the default one, the first: those of public data sets
and of the tools that train on them."""
_WORDS = dict(singlet=1, doublet=2, triplet=3, quartet=4, quintet=5, sextet=6, septet=7)
"""Multiplicities in words."""
_UNIT = re.compile(r"(energy|force|stress|virial|length|position)s?[-_]units?", re.IGNORECASE)
_OF_TAG = {"force": "forces", "position": "length"}


def label(atoms: Atoms, key: str | None) -> Any:
    """Return what an `ase.Atoms` has under ``key``: in info, arrays or calculator results."""
    for values in (atoms.info, atoms.arrays, getattr(atoms.calc, "results", {})):
        if key in values:
            return values[key]
    return None


def label_names(atoms: Atoms) -> set[str]:
    """Return every name under which an `ase.Atoms` has numbers, which could be a label."""
    arrays = {key: value for key, value in atoms.arrays.items() if key not in _GEOMETRY}
    everything = {**getattr(atoms.calc, "results", {}), **arrays, **atoms.info}
    return {str(key) for key, value in everything.items() if _is_numeric(value)}


_GEOMETRY = {"numbers", "positions"}


def _is_numeric(value: Any) -> bool:
    try:
        return np.asarray(value).dtype.kind in "iuf"
    except ValueError:  # rows of different lengths
        return False


def names_of(quantity: str, keys: LabelKeys) -> tuple[str, ...]:
    """Return the names under which a quantity is looked for, none where its key is null."""
    key, usual = getattr(keys, quantity), USUAL_NAMES.get(quantity, ("",))
    return () if key is None else usual if key == usual[0] else (key,)


def has_stress(atoms: Atoms, keys: LabelKeys) -> bool:
    """Whether a structure has a label of stress or a virial, used or not."""
    names = (*names_of("stress", keys), *names_of("virial", keys))
    return any(_is_numeric(label(atoms, name)) for name in names)


def read_labels(atoms: Atoms, keys: LabelKeys, where: str) -> dict[str, Any]:
    """Return energy (float), forces ``[n, 3]``, stress and virial ``[3, 3]`` as the file has them.

    Absent ones are None; so are stress and virial where not all directions are periodic, and a
    virial beside stress. Refuses wrong shapes.
    """
    found: dict[str, Any] = dict.fromkeys((*QUANTITIES, "virial"))
    if (value := label(atoms, keys.energy)) is not None:
        array = finite(value, str(keys.energy), where)
        if array.size != 1:
            raise DataError(
                f"{where}: '{keys.energy}' must be one number in eV, not shape {array.shape}."
            )
        found["energy"] = array.item()
    if (value := label(atoms, keys.forces)) is not None:
        array = found["forces"] = finite(value, str(keys.forces), where)
        if array.shape != (len(atoms), 3):
            raise DataError(
                f"{where}: '{keys.forces}' has shape {array.shape}; forces need ({len(atoms)}, 3) "
                "in eV/Å."
            )
    for name in ("virial", "stress") if keys.virial == keys.stress else ("stress", "virial"):
        for key in names_of(name, keys) if atoms.pbc.all() else ():
            value = label(atoms, key)
            if value is not None and found["stress"] is found["virial"] is None:
                found[name] = _tensor(finite(value, key, where), key, where)
    return found


def _tensor(array: Array, key: str, where: str) -> Array:
    """Return nine numbers, or six in Voigt's order, as ``[3, 3]``."""
    if array.size == 9:
        return array.reshape(3, 3)
    if array.shape == (6,):
        return np.asarray(voigt_6_to_full_3x3_stress(array), dtype=np.float64)
    raise DataError(
        f"{where}: '{key}' has shape {array.shape}; stress needs 6 (Voigt xx yy zz yz xz xy) or 9 "
        "numbers in eV/Å³, and so does a virial, in eV."
    )


def read_state(atoms: Atoms, keys: LabelKeys, where: str) -> dict[str, int]:
    """Return charge and spin multiplicity as far as the file has them.

    Refuses what is no whole number, and names that contradict each other.
    """
    found: dict[str, int] = {}
    for quantity, least in (("charge", -LARGEST_NUMBER), ("spin", 1)):
        names = [name for name in names_of(quantity, keys) if name in atoms.info]
        values = {name: whole_number(atoms.info[name], name, where, least) for name in names}
        if len(set(values.values())) > 1:
            listed = ", ".join(f"'{name}' is {value}" for name, value in values.items())
            raise DataError(
                f"{where}: {listed}, which contradict each other. Correct the file, or name the "
                f"right one, e.g. data.keys.{quantity}={list(values)[-1]}."
            )
        if values:
            found[quantity] = next(iter(values.values()))
    return found


def unit_tags(units: Units) -> dict[str, str]:
    """Return the tags by which each structure of a file names the units that the file states."""
    return {f"{name}-unit": unit for name, unit in units.model_dump(exclude_none=True).items()}


def is_unit_tag(name: str) -> bool:
    """Whether a name says the unit of a label, as ``stress-unit`` and ``energy_unit`` do."""
    return _UNIT.fullmatch(name) is not None


def stated_units(atoms: Atoms, units: Units, where: str) -> Units:
    """Return units with those that a structure itself names, as in ``stress-unit=kbar``.

    The sign that ``units`` give to the same unit stays: a tag has none. Refuses unknown units.
    """
    tags = {str(key): str(value) for key, value in atoms.info.items() if is_unit_tag(str(key))}
    try:
        return _tagged(units, tuple(tags.items())) if tags else units
    except ValidationError as error:
        why = str(error.errors()[0]["msg"]).removeprefix("Value error, ")
        listed = ", ".join(f"{key}={value}" for key, value in tags.items())
        raise DataError(f"{where} has {listed}: {why}. Correct the tag.") from None


@lru_cache
def _tagged(units: Units, tags: tuple[tuple[str, str], ...]) -> Units:
    found = {}
    for name, unit in tags:
        quantity = name.lower().replace("_", "-").partition("-")[0].removesuffix("s")
        quantity = "stress" if quantity == "stres" else _OF_TAG.get(quantity, quantity)
        found[quantity] = unit
    stated = Units.model_validate(found).model_dump(exclude_none=True)
    given = units.model_dump()
    return units.model_copy(update={q: u for q, u in stated.items() if given[q] != f"-{u}"})


def whole_number(value: Any, key: str, where: str, least: int = -LARGEST_NUMBER) -> int:
    """Return a charge or multiplicity; refuse all but whole numbers of a size that occurs."""
    array = finite(_WORDS.get(str(value).lower(), value), key, where)
    number = array.item() if array.size == 1 else math.nan
    if not least <= number <= LARGEST_NUMBER or number != round(number):
        raise DataError(
            f"{where}: '{key}' must be one whole number from {least} to {LARGEST_NUMBER}, "
            f"not {str(value)[:40]!r}."
        )
    return round(number)


def finite(value: Any, key: str, where: str) -> Array:
    """Return numbers; refuse what is not numeric, NaN or infinite."""
    try:
        if np.asarray(value).dtype == bool:
            raise TypeError
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise DataError(f"{where}: '{key}' is not numeric ({str(value)[:40]!r}).") from None
    if not np.isfinite(array).all():
        raise DataError(
            f"{where}: '{key}' contains NaN or infinite values. Remove the label where it is "
            "absent."
        )
    return array


def check_keys(names: Iterable[str], keys: LabelKeys, where: str, need_labels: bool) -> None:
    """Refuse label keys that no structure has, where a slip is more likely than a choice.

    An energy key without any energy is a slip where labels are needed, unless there are forces. A
    forces or stress key is one where ``names`` has a similar one.
    """
    present = sorted(names)
    listed = ", ".join(present) if present else "none at all"
    for quantity in ("forces", "stress"):
        key = getattr(keys, quantity)
        if key is None:
            continue
        near = [name for name in get_close_matches(key, present, cutoff=0.8) if name != key]
        other = {keys.energy, keys.forces, keys.stress}
        if key not in present and near and near[0] not in other:
            raise DataError(
                f"{where} has no {quantity} under '{key}', but has '{near[0]}'. "
                f"Set data.keys.{quantity}={near[0]} (command: --{quantity}-key {near[0]}). "
                f"Keys present: {listed}."
            )
    asked = [key for key in (keys.energy, keys.forces) if key is not None]
    if need_labels and asked and not set(asked) & set(present):
        likely = {name: _likely(name, keys, present) for name in QUANTITIES}
        hints = {name: hint for name, hint in likely.items() if hint} or {"energy": "NAME"}
        settings = ", ".join(f"data.keys.{name}={hint}" for name, hint in hints.items())
        options = " ".join(f"--{name}-key {hint}" for name, hint in hints.items())
        lacks = " and ".join(
            f"no {plural} under '{key}'"
            for plural, key in (("energies", keys.energy), ("forces", keys.forces))
            if key is not None
        )
        raise DataError(
            f"{where} has {lacks}. Set {settings} (command: {options}). Keys present: {listed}."
        )


def unread_labels(names: Iterable[str], keys: LabelKeys, found: Collection[str]) -> list[str]:
    """Return notes on names that look like labels of quantities not ``found``, but are not read."""
    present = sorted(names)
    notes: dict[str, str] = {}
    for quantity in (*QUANTITIES, "virial"):
        key, name = getattr(keys, quantity), _likely(quantity, keys, present)
        lacks = quantity not in found and not (quantity == "virial" and "stress" in found)
        if key is not None and lacks and re.search(_STEMS[quantity], name.lower()):
            note = (
                f"note: '{name}' is not read, and no structure has {quantity} under '{key}'. If it "
                f"is the {quantity}, set data.keys.{quantity}={name} (command: "
                f"--{quantity}-key {name})."
            )
            if "grad" in name.lower():
                note += " Gradients have a minus sign in their unit: data.units.forces=-eV/Å."
            notes.setdefault(name, note)
    return list(notes.values())


def _likely(quantity: str, keys: LabelKeys, present: Sequence[str]) -> str:
    """Return the name, not asked for already, that a quantity may have, or ""."""
    taken = {name for every in keys.model_dump() for name in names_of(every, keys)}
    free = [name for name in present if name not in taken]
    called = [name for name in free if re.search(_STEMS[quantity], name.lower())]
    among = called or (free if quantity == "energy" else [])
    near = get_close_matches(getattr(keys, quantity) or "", among, n=1, cutoff=0.5)
    return (near or called or [""])[0]
