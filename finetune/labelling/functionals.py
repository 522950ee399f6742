"""Functionals by the names of libxc, and the dispersion corrections in them."""

from __future__ import annotations

import warnings
from importlib.util import find_spec

from finetune.errors import RecipeError
from finetune.labelling.levels import NAMES

_NAMED = (
    "Corrections are named after the functional, -d3bj, -d3zero, -d3bjm, -d3zerom, -d3op or -d4: "
    "b3lyp-d3bj, pbe0-d4, wb97x-d3bj. Without one, plain {}."
)


def dispersion_of(name: str) -> str:
    """Check a functional, and return its dispersion correction in words, or nothing.

    Args:
        name: Libxc's name, with PySCF's name of a correction behind it.

    Raises:
        RecipeError: If there is no such functional or correction, no parameters of the one for the
            other, or the package for corrections is not installed.
    """
    from pyscf.dft import libxc
    from pyscf.scf import dispersion

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on wb97x-d4; which parameters are used is recorded
            plain, _, wanted = dispersion.parse_dft(name)
            method, version, three_body = dispersion.parse_disp(name)
        libxc.parse_xc(plain)
    except (KeyError, ValueError, NotImplementedError) as error:
        why = error.args[0] if error.args else error
        functional, corrected, _ = name.lower().replace("_", "-").partition("-d")
        mend = f" {_NAMED.format(functional)}" if corrected else ""
        raise RecipeError(
            f"level.method '{name}' is none of {', '.join(NAMES)}, and no functional that PySCF "
            f"has ({why}).{mend}"
        ) from None
    if not wanted:
        return ""
    if plain == "hf":
        raise RecipeError(f"'{name}': dispersion corrections are for functionals here; take hf.")
    if find_spec("pyscf.dispersion") is None:
        raise RecipeError(
            f"'{name}' has a dispersion correction, which PySCF leaves to another package: "
            "pip install pyscf-dispersion"
        )
    if version not in dispersion.DISP_VERSIONS:
        raise RecipeError(
            f"'{name}': there is no dispersion correction '{version}'. {_NAMED.format(plain)}"
        )
    _check_parameters(name, method, version)
    return f"{version} of {method}, {'three-body' if three_body else 'two-body'}"


def _check_parameters(name: str, method: str, version: str) -> None:
    from pyscf import gto
    from pyscf.dispersion import dftd3, dftd4

    package = dftd4.DFTD4Dispersion if version == "d4" else dftd3.DFTD3Dispersion
    try:
        package(gto.M(atom="He", verbose=0), xc=method, version=version)
    except (RuntimeError, KeyError) as error:
        raise RecipeError(
            f"'{name}': there are no parameters of {version} for '{method}' ({error}). "
            f"{_NAMED.format(method)}"
        ) from None
