"""Under which names structures hold their labels."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from difflib import get_close_matches
from typing import Any

from ase import Atoms

from finetune.core.errors import DataError
from finetune.recipe.sections import LabelKeys

QUANTITIES = ("energy", "forces", "stress")
_STEMS = {"energy": "energ", "forces": "force", "stress": "stress"}


def label(atoms: Atoms, key: str) -> Any:
    """Return what an `ase.Atoms` holds under ``key``: in info, arrays or calculator results."""
    if key in atoms.info:
        return atoms.info[key]
    if key in atoms.arrays:
        return atoms.arrays[key]
    results = getattr(atoms.calc, "results", {})
    return results.get(key)


def label_names(atoms: Atoms) -> set[str]:
    """Return every name under which an `ase.Atoms` holds something that could be a label."""
    return {
        *(str(key) for key in atoms.info),
        *(key for key in atoms.arrays if key not in {"numbers", "positions"}),
        *getattr(atoms.calc, "results", {}),
    }


def check_keys(names: Iterable[str], keys: LabelKeys, where: str, need_labels: bool) -> None:
    """Refuse label keys that no structure has, where that is more likely a slip than a choice.

    An energy key without any energy is one (unless forces are there); a forces or stress key is one
    when there is a near namesake.

    Args:
        names: Under which the structures hold something.
        keys: Names asked for.
        where: The file, for messages.
        need_labels: Whether there must be energies or forces.

    Raises:
        DataError: Listing the names that there are.
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


def overlooked(names: Iterable[str], keys: LabelKeys, found: Collection[str]) -> list[str]:
    """Say which names look like labels that are not read.

    Args:
        names: Under which the structures hold something.
        keys: Names asked for.
        found: Quantities that there are under them.
    """
    present, notes = sorted(names), []
    for quantity in QUANTITIES:
        name = _likely(quantity, keys, present)
        if quantity not in found and _STEMS[quantity] in name.lower():
            notes.append(
                f"note: '{name}' is not read, and no structure has {quantity} under "
                f"'{getattr(keys, quantity)}'. If it holds that, set "
                f"data.keys.{quantity}={name} (command: --{quantity}-key {name})."
            )
    return notes


def _likely(quantity: str, keys: LabelKeys, present: Sequence[str]) -> str:
    """Return the name that a quantity may have, none that is asked for already, or nothing."""
    free = [name for name in present if name not in vars(keys).values()]
    called = [name for name in free if _STEMS[quantity] in name.lower()]
    among = called or (free if quantity == "energy" else [])
    near = get_close_matches(getattr(keys, quantity), among, n=1, cutoff=0.5)
    return (near or called or [""])[0]
