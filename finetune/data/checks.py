"""What a structure and its labels must be for any potential to take them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from ase.data import chemical_symbols

from finetune.data import values
from finetune.data.distances import nearest
from finetune.errors import DataError
from finetune.sections import LabelKeys

if TYPE_CHECKING:
    from finetune.data.labels import Structure

CLOSEST = 0.2
"""Å; atoms nearer than this are a damaged file, not chemistry."""
LARGEST_EXTENT = 1e4
"""Å, of a structure or a cell."""
LARGEST_LABEL = {"energy": 1e7, "forces": 1e5, "stress": 1e3}
"""eV/atom, eV/Å and eV/Å³ that no structure has: a uranium atom has −8·10⁵ eV, and atoms 0.2 Å
apart push each other with less than 10⁴ eV/Å."""


def check(structure: Structure, keys: LabelKeys) -> None:
    """Refuse a structure that no potential could evaluate, or with absurd labels.

    Args:
        structure: Whose arrays have the right shapes.
        keys: Names of the labels, for messages.

    Raises:
        DataError: Naming the structure and what is wrong.
    """
    check_geometry(structure)
    check_sizes(structure, keys)
    for name, least in (("charge", -values.LARGEST_NUMBER), ("spin", 1)):
        value = getattr(structure, name)
        if not least <= value <= values.LARGEST_NUMBER:
            raise DataError(
                f"{structure.where}: '{name}' is {value}; it must lie from {least} to "
                f"{values.LARGEST_NUMBER}."
            )


def check_geometry(structure: Structure) -> None:
    """Refuse geometries that no potential could evaluate.

    Raises:
        DataError: Naming the structure and the atoms.
    """
    where = structure.where
    if len(structure) == 0:
        raise DataError(f"{where} has no atoms.")
    if not np.isfinite(structure.positions).all() or not np.isfinite(structure.cell).all():
        raise DataError(f"{where} has positions or a cell that are NaN or infinite.")
    strange = (structure.numbers < 1) | (structure.numbers >= len(chemical_symbols))
    if strange.any():
        raise DataError(
            f"{where} has an atom of unknown element (atomic number "
            f"{structure.numbers[strange][0]}{' or X' if structure.numbers.min() == 0 else ''})."
        )
    if structure.pbc.any() and np.linalg.norm(structure.cell[structure.pbc], axis=1).min() < 1e-6:
        raise DataError(f"{where} is periodic along a direction whose cell vector is zero.")
    periodic = structure.cell[structure.pbc]
    if np.linalg.matrix_rank(periodic, tol=1e-6) < len(periodic):
        raise DataError(f"{where} is periodic but its cell vectors are parallel.")
    lengths = np.linalg.norm(periodic, axis=1)
    if len(lengths) and lengths.min() < CLOSEST:
        raise DataError(
            f"{where} has a cell vector of {lengths.min():.3g} Å: an atom would be that close to "
            "its own image. Check the unit of the cell (Å)."
        )
    geometry = (structure.positions, structure.cell, structure.pbc)
    extent = float(np.ptp(structure.positions, axis=0).max())
    if max(extent, *lengths, 0.0) > LARGEST_EXTENT:
        raise DataError(
            f"{where} spreads over {max(extent, *lengths, 0.0):.3g} Å. Check the file's units (Å) "
            "and its numbers, or drop it."
        )
    distance, partner = nearest(*geometry, CLOSEST)
    first = int(distance.argmin())
    if distance[first] < CLOSEST:
        raise DataError(
            f"{where}: atoms {first} and {partner[first]} are {distance[first]:.3f} Å "
            f"apart (closer than {CLOSEST} Å). Check the file's units (Å) and its cell, or drop it."
        )


def check_sizes(structure: Structure, keys: LabelKeys) -> None:
    """Refuse labels so large that they are damaged or of another unit.

    Raises:
        DataError: Naming the structure and the label.
    """
    units = {"energy": "eV/atom", "forces": "eV/Å", "stress": "eV/Å³"}
    for name, largest in LARGEST_LABEL.items():
        value = getattr(structure, name)
        if value is None:
            continue
        found = float(np.abs(value).max()) / (len(structure) if name == "energy" else 1)
        if found > largest:
            raise DataError(
                f"{structure.where}: '{getattr(keys, name)}' reaches {found:.3g} {units[name]}; "
                f"nothing has more than {largest:.0e}. Is the file damaged, or are the numbers in "
                "another unit? Mend or drop the structure."
            )
