"""Labels as numbers of the right shape, or an error that names what is there."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from ase.stress import voigt_6_to_full_3x3_stress
from numpy.typing import NDArray

from finetune.core.errors import DataError

Array = NDArray[np.float64]
LARGEST_NUMBER = 1000
"""Of a charge or spin multiplicity."""


def energy(value: Any, key: str, where: str) -> float | None:
    """Return an energy, or None where there is none.

    Raises:
        DataError: For anything else, naming ``where`` and ``key``.
    """
    if value is None:
        return None
    array = finite(value, key, where)
    if array.size != 1:
        raise DataError(f"{where}: '{key}' must be one number in eV, not shape {array.shape}.")
    return float(array.reshape(()))


def forces(value: Any, key: str, atoms: int, where: str) -> Array | None:
    """Return forces ``[atoms, 3]``, or None where there are none.

    Raises:
        DataError: For anything else, naming ``where`` and ``key``.
    """
    if value is None:
        return None
    array = finite(value, key, where)
    if array.shape != (atoms, 3):
        raise DataError(
            f"{where}: '{key}' has shape {array.shape}; forces need ({atoms}, 3) in eV/Å."
        )
    return array


def stress(value: Any, key: str, where: str) -> Array | None:
    """Return a stress ``[3, 3]`` from six or nine numbers, or None where there is none.

    Raises:
        DataError: For anything else, naming ``where`` and ``key``.
    """
    if value is None:
        return None
    array = finite(value, key, where)
    if array.size == 9:
        return array.reshape(3, 3)
    if array.shape == (6,):
        return np.asarray(voigt_6_to_full_3x3_stress(array), dtype=np.float64)
    raise DataError(
        f"{where}: '{key}' has shape {array.shape}; stress needs 6 (Voigt xx yy zz yz xz xy) or "
        "9 numbers in eV/Å³."
    )


def whole_number(value: Any, key: str, where: str, least: int = -LARGEST_NUMBER) -> int:
    """Return a charge or a spin multiplicity.

    Raises:
        DataError: For anything but a whole number of a size that occurs.
    """
    array = finite(value, key, where)
    number = float(array.reshape(())) if array.size == 1 else math.nan
    if not least <= number <= LARGEST_NUMBER or number != round(number):
        raise DataError(
            f"{where}: '{key}' must be one whole number from {least} to {LARGEST_NUMBER}, "
            f"not {str(value)[:40]!r}."
        )
    return round(number)


def finite(value: Any, key: str, where: str) -> Array:
    """Return numbers, none of them NaN or infinite.

    Raises:
        DataError: For anything else, naming ``where`` and ``key``.
    """
    try:
        if np.asarray(value).dtype == bool:
            raise TypeError
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise DataError(f"{where}: '{key}' is not numeric ({str(value)[:40]!r}).") from None
    if not np.isfinite(array).all():
        raise DataError(
            f"{where}: '{key}' holds NaN or infinite values. Remove the label where it is absent."
        )
    return array
