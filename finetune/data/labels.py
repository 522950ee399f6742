"""Labels in files: the names they have there, and their values as checked numbers."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from difflib import get_close_matches
from typing import Any

import numpy as np
from ase import Atoms
from ase.stress import voigt_6_to_full_3x3_stress
from numpy.typing import NDArray

from finetune.core.errors import DataError
from finetune.recipe.sections import LabelKeys

Array = NDArray[np.float64]
QUANTITIES = ("energy", "forces", "stress")
LARGEST_NUMBER = 1000
"""Largest charge or spin multiplicity."""
_STEMS = {"energy": "energ", "forces": "force", "stress": "stress"}


def label(atoms: Atoms, key: str) -> Any:
    """Return what an `ase.Atoms` has under ``key``: in info, arrays or calculator results."""
    for values in (atoms.info, atoms.arrays):
        if key in values:
            return values[key]
    return getattr(atoms.calc, "results", {}).get(key)


def label_names(atoms: Atoms) -> set[str]:
    """Return every name under which an `ase.Atoms` has something that could be a label."""
    return {
        *(str(key) for key in atoms.info),
        *(atoms.arrays.keys() - {"numbers", "positions"}),
        *getattr(atoms.calc, "results", {}),
    }


def read_labels(atoms: Atoms, keys: LabelKeys, where: str) -> dict[str, Any]:
    """Return energy (float), forces ``[n, 3]`` and stress ``[3, 3]`` as the file has them.

    Absent ones are None; so is stress where not all directions are periodic. Refuses wrong shapes.
    """
    given = {name: label(atoms, getattr(keys, name)) for name in QUANTITIES}
    if not atoms.pbc.all():
        given["stress"] = None
    found: dict[str, Any] = dict.fromkeys(QUANTITIES)
    for name, value in given.items():
        if value is None:
            continue
        key = getattr(keys, name)
        array = finite(value, key, where)
        shape = array.shape
        if name == "energy":
            if array.size != 1:
                raise DataError(f"{where}: '{key}' must be one number in eV, not shape {shape}.")
            found[name] = array.item()
        elif name == "forces":
            if shape != (len(atoms), 3):
                raise DataError(
                    f"{where}: '{key}' has shape {shape}; forces need ({len(atoms)}, 3) in eV/Å."
                )
            found[name] = array
        elif array.size == 9:
            found[name] = array.reshape(3, 3)
        elif shape == (6,):
            found[name] = np.asarray(voigt_6_to_full_3x3_stress(array), dtype=np.float64)
        else:
            raise DataError(
                f"{where}: '{key}' has shape {shape}; stress needs 6 (Voigt xx yy zz yz xz xy) or "
                "9 numbers in eV/Å³."
            )
    return found


def whole_number(value: Any, key: str, where: str, least: int = -LARGEST_NUMBER) -> int:
    """Return a charge or spin multiplicity; refuse all but whole numbers of a size that occurs."""
    array = finite(value, key, where)
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
        near = [name for name in get_close_matches(key, present, cutoff=0.8) if name != key]
        other = {keys.energy, keys.forces, keys.stress}
        if key not in present and near and near[0] not in other:
            raise DataError(
                f"{where} has no {quantity} under '{key}', but has '{near[0]}'. "
                f"Set data.keys.{quantity}={near[0]} (command: --{quantity}-key {near[0]}). "
                f"Keys present: {listed}."
            )
    if need_labels and keys.energy not in present and keys.forces not in present:
        likely = {name: _likely(name, keys, present) for name in QUANTITIES}
        hints = {name: hint for name, hint in likely.items() if hint} or {"energy": "NAME"}
        settings = ", ".join(f"data.keys.{name}={hint}" for name, hint in hints.items())
        options = " ".join(f"--{name}-key {hint}" for name, hint in hints.items())
        raise DataError(
            f"{where} has no energies under '{keys.energy}' and no forces under '{keys.forces}'. "
            f"Set {settings} (command: {options}). Keys present: {listed}."
        )


def unread_labels(names: Iterable[str], keys: LabelKeys, found: Collection[str]) -> list[str]:
    """Return notes on names that look like labels of quantities not ``found``, but are not read."""
    present, notes = sorted(names), []
    for quantity in QUANTITIES:
        name = _likely(quantity, keys, present)
        if quantity not in found and _STEMS[quantity] in name.lower():
            notes.append(
                f"note: '{name}' is not read, and no structure has {quantity} under "
                f"'{getattr(keys, quantity)}'. If it is the {quantity}, set "
                f"data.keys.{quantity}={name} (command: --{quantity}-key {name})."
            )
    return notes


def _likely(quantity: str, keys: LabelKeys, present: Sequence[str]) -> str:
    """Return the name, not asked for already, that a quantity may have, or ""."""
    free = [name for name in present if name not in vars(keys).values()]
    called = [name for name in free if _STEMS[quantity] in name.lower()]
    among = called or (free if quantity == "energy" else [])
    near = get_close_matches(getattr(keys, quantity), among, n=1, cutoff=0.5)
    return (near or called or [""])[0]
