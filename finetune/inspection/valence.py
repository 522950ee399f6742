"""Energies of GFN2-xTB, which counts valence electrons alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from finetune.data.labels import Structure
from finetune.inspection.findings import Finding

HARTREE = 27.2114
"""eV."""
_TABLE = """
    -0.393 -1.743 -0.18 -0.569 -0.952 -1.793 -2.606 -3.768 -4.619 -5.932 -0.167 -0.466 -0.905
    -1.57 -2.374 -3.146 -4.483 -4.279 -0.166 -0.372 -0.854 -1.366 -1.716 -1.66 -2.435 -2.787
    -3.427 -4.522 -3.748 -0.528 -1.081 -1.808 -2.236 -3.119 -4.048 -4.272 -0.16 -0.462 -1.195
    -1.309 -1.657 -1.731 -2.361 -2.849 -3.746 -4.41 -3.822 -0.533 -1.126 -2.011 -2.161 -3.007
    -3.78 -3.884 -0.149 -0.434 -1.205 -0.9 -0.893 -0.887 -0.881 -0.875 -0.869 -0.863 -0.857
    -0.85 -0.844 -0.838 -0.832 -0.826 -0.82 -1.31 -1.902 -2.211 -3.002 -2.988 -3.587 -4.367
    -3.803 -0.848 -1.439 -2.203 -2.263 -2.733 -3.001 -3.858
"""
FREE_ATOMS = np.array(_TABLE.split(), dtype=float)
"""Hartree, from hydrogen to radon, of GFN2-xTB (C. Bannwarth, S. Ehlert, S. Grimme, J. Chem. Theory
Comput. 15, 1652 (2019)) as tblite 0.8.0 gives them, lanthanoids with one unpaired electron."""
BOUND = (0.5, 10.0)
"""eV/atom, what atoms are bound by."""


def gfn2(labelled: Sequence[Structure]) -> list[Finding]:
    """Recognise total energies of GFN2-xTB, in eV and in Hartree; nothing where there are none.

    They lie a few eV/atom below the free atoms. Hydrogen and helium have valence electrons alone,
    so that a heavier element has to be among the atoms.

    Args:
        labelled: Structures with energies.
    """
    if all(item.numbers.max() < 3 for item in labelled):
        return []
    if any(item.numbers.max() > len(FREE_ATOMS) for item in labelled):
        return []
    energies = np.array([item.energy for item in labelled], dtype=float)
    free = np.array([HARTREE * FREE_ATOMS[item.numbers - 1].sum() for item in labelled])
    atoms = np.array([len(item) for item in labelled])
    for unit, size in (("eV", 1.0), ("Hartree", HARTREE)):
        bound = float(np.median((free - size * energies) / atoms))
        if not BOUND[0] < bound < BOUND[1]:
            continue
        look = f"the energies look like total energies of GFN2-xTB in {unit}"
        if unit == "Hartree":
            return [Finding("warning", f"{look}: set data.units.energy=Hartree")]
        return [
            Finding(
                "ok",
                f"{look} ({np.median(energies / atoms):.4g} eV/atom, {bound:.2g} below its free "
                "atoms), which count valence electrons alone: they do not mix with energies of "
                "all electrons",
            )
        ]
    return []
