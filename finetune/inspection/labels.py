"""Labels by themselves: level of theory, origin and unit of energies, outliers, zeros."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finetune.core.units import Units
from finetune.data.labels import QUANTITIES, names_of
from finetune.data.reading import Reader
from finetune.data.structures import Structure
from finetune.inspection.geometry import Finding
from finetune.recipe.sections import LabelKeys

Array = NDArray[np.float64]
FAR = 20.0
"""Times the usual deviation, from which on an energy or a force stands out."""
RELATIVE, ATOMISATION = 0.5, 10.0
"""eV/atom: relative energies stay below the first, the binding of atoms between both."""
EV = {unit: Units(energy=unit).factors()["energy"] for unit in ("Hartree", "kcal/mol", "kJ/mol")}
"""eV in one of the units that are mistaken for eV."""
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


STORED = "HDF5 store"
"""The format that readers record of stores."""


@dataclass(frozen=True)
class Read:
    """How labels were read: in which units, under which names; ``virials`` is that of stress.

    ``differing`` are quantities that sources were read in different units of, so that none can be
    named; ``stored`` says that all are stores, whose units no setting changes.
    """

    units: Units = Units()
    keys: LabelKeys = LabelKeys()
    virials: str = ""
    differing: frozenset[str] = frozenset()
    stored: bool = False

    @classmethod
    def by(cls, reader: Reader) -> Read:
        """Return how a reader read what it has read."""
        units = [Units(**record.units) for record in reader.records]
        factors = [item.factors() for item in units]
        differing = frozenset(
            name for name in Units().factors() if len({item[name] for item in factors}) > 1
        )
        stored = bool(units) and all(item.format == STORED for item in reader.records)
        now = units[0] if units else Units()
        names = sorted(reader.names.intersection(names_of("virial", reader.keys)))
        virials = names[0] if names and reader.keys.stress not in reader.names else ""
        return cls(now, reader.keys, virials, differing, stored)


def correction(settings: Mapping[str, str]) -> str:
    """Return in words how to set names and units of labels: in a recipe, and in a command."""
    listed, units, keys = [], [], []
    for setting, value in settings.items():
        section, _, quantity = setting.removeprefix("data.").partition(".")
        listed.append(f"{setting}={value}")
        if section == "units":
            units.append(f"--units {quantity}={value}")
        elif value != "null":
            keys.append(f"--{quantity}-key {value}")
    return f"set {' '.join(listed)} (command: {' '.join([*keys, *units])})"


def mixed_levels(sets: Mapping[str, Sequence[Structure]]) -> list[Finding]:
    """Warn where labels are of several levels of theory; ``unlabelled`` structures do not count."""
    levels = {
        name: sorted({item.level_of_theory for item in items if item.level_of_theory is not None})
        for name, items in sets.items()
        if name != "unlabelled"
    }
    if len({level.casefold() for found in levels.values() for level in found}) < 2:
        return []
    listed = "; ".join(f"{name}: {', '.join(found)}" for name, found in levels.items() if found)
    return [Finding("warning", f"the labels are of different levels of theory ({listed})")]


def statistical_energy(numbers: NDArray[np.int64]) -> float:
    """Return the sum of all-electron energies of free atoms, eV.

    Right to 2 % from boron to argon, 8 % too low for hydrogen. The Thomas-Fermi energy with Scott's
    and Schwinger's corrections: J. Schwinger, Phys. Rev. A 24, 2353 (1981).
    """
    z = numbers.astype(float)
    energies = -0.768745 * z ** (7 / 3) + 0.5 * z**2 - 0.269900 * z ** (5 / 3)
    return float(energies.sum() * EV["Hartree"])


def origin(structures: Sequence[Structure]) -> list[Finding]:
    """Distinguish total energies from relative ones; find the unit of all-electron ones."""
    labelled = [item for item in structures if item.energy is not None]
    if not labelled:
        return []
    energies = np.array([item.energy for item in labelled], dtype=float)
    expected = np.array([statistical_energy(item.numbers) for item in labelled])
    per_atom = energies / np.array([len(item) for item in labelled])
    ratio, largest = float(np.median(energies / expected)), float(np.abs(per_atom).max())
    near = f"{np.median(per_atom):.4g} eV/atom"
    if abs(ratio - 1) < 0.04:
        return [Finding("ok", f"the energies are all-electron total energies in eV ({near})")]
    for unit, factor in EV.items():
        if abs(ratio * factor - 1) < 0.04:
            text = f"the energies look like all-electron total energies in {unit}: "
            return [Finding("warning", text + correction({"data.units.energy": unit}))]
    if abs(ratio / EV["Hartree"] - 1) < 0.04:
        text = (
            f"the energies ({near}) are 27.2 times all-electron total energies: were energies in "
            "eV read as Hartree? Leave data.units.energy=Hartree out"
        )
    elif ratio > 1.04:
        text = (
            f"the energies ({near}) lie {ratio:.3g} times as low as those of all electrons, which "
            "nothing does: are they in another unit than data.units.energy says?"
        )
    elif known := gfn2(labelled):
        return known
    elif largest < RELATIVE:
        text = (
            f"the energies look like relative ones (within {largest:.2g} eV/atom of zero): give "
            "total energies, or train on one composition only"
        )
    elif float(np.median(per_atom)) > 0:
        text = f"the energies are positive ({near}): are they atomisation energies? Turn their sign"
    elif largest < 1.2 * ATOMISATION:
        text = (
            f"the energies ({near}) are relative to free or pseudo-atoms (atomisation or VASP "
            "energies): the reference energies must be theirs"
        )
        return [Finding("note", text)]
    else:
        text = (
            f"the energies ({near}) are of valence electrons alone, as usual with VASP and other "
            "programs with pseudopotentials, or of another unit. There is nothing to do with "
            "reference_energies=estimate"
        )
        return [Finding("note", text)]
    return [Finding("warning", text)]


def gfn2(labelled: Sequence[Structure]) -> list[Finding]:
    """Recognise total energies of GFN2-xTB, in eV and in Hartree, a few eV/atom below free atoms.

    Hydrogen and helium have only valence electrons, so that there must be a heavier element. In
    Hartree these energies are of the size of VASP's in eV: only three independent compositions that
    all fit tell them apart.
    """
    heaviest = max(int(item.numbers.max()) for item in labelled)
    if not 3 <= heaviest <= len(FREE_ATOMS):
        return []
    energies = np.array([item.energy for item in labelled], dtype=float)
    free = np.array([FREE_ATOMS[item.numbers - 1].sum() for item in labelled]) * EV["Hartree"]
    atoms = np.array([len(item) for item in labelled])
    independent = np.linalg.matrix_rank(compositions([item.numbers for item in labelled]))
    for unit, size in (("eV", 1.0), ("Hartree", EV["Hartree"])):
        by_structure = (free - size * energies) / atoms
        bound = float(np.median(by_structure))
        all_fit = independent > 2 and 0 < by_structure.min() <= by_structure.max() < ATOMISATION
        if not RELATIVE < bound < ATOMISATION or (unit == "Hartree" and not all_fit):
            continue
        text = f"the energies look like total energies of GFN2-xTB in {unit}"
        if unit == "Hartree":
            advice = correction({"data.units.energy": "Hartree"})
            return [Finding("warning", f"{text}: {advice}")]
        text += (
            f" ({np.median(energies / atoms):.4g} eV/atom, {bound:.2g} below its free atoms), "
            "which count valence electrons alone: they do not mix with energies of all electrons"
        )
        return [Finding("ok", text)]
    return []


def outliers(structures: Sequence[Structure], most: int = 5) -> Iterator[Finding]:
    """Name energies far from what composition explains, and forces far beyond the usual."""
    labelled = [item for item in structures if item.energy is not None]
    if len(labelled) >= 10:
        energies = np.array([item.energy for item in labelled], dtype=float)
        atoms = np.array([len(item) for item in labelled])
        shares = compositions([item.numbers for item in labelled]) / atoms[:, None]
        left = unexplained(shares, energies / atoms)
        left -= np.median(left)
        usual = 1.4826 * float(np.median(np.abs(left)))
        for index in np.argsort(-np.abs(left))[:most]:
            if abs(left[index]) > max(FAR * usual, 1e-3):
                text = (
                    f"{labelled[index].where}: its energy is {left[index]:+.3g} eV/atom off the "
                    f"rest (usual: {usual:.2g}). Check it, or drop it"
                )
                yield Finding("warning", text)
    forced = [(i, float(np.abs(i.forces).max())) for i in structures if i.forces is not None]
    if len(forced) >= 10:
        usual = float(np.median([largest for _, largest in forced]))
        for item, largest in sorted(forced, key=lambda pair: -pair[1])[:most]:
            if largest > max(FAR * usual, 1.0):
                text = (
                    f"{item.where}: a force of {largest:.3g} eV/Å, where the largest ones usually "
                    f"are {usual:.2g}. Check it, or drop it"
                )
                yield Finding("warning", text)


def compositions(numbers: Sequence[NDArray[np.int64]]) -> Array:
    """Return how many atoms of each element structures have ``[S, elements]``."""
    elements = np.unique(np.concatenate(numbers))
    return np.array([(item[:, None] == elements).sum(axis=0) for item in numbers], dtype=float)


def unexplained(counts: Array, energies: Array) -> Array:
    """Return what a linear fit of energies ``[S]`` or ``[S, n]`` to compositions leaves."""
    return np.asarray(energies - counts @ np.linalg.lstsq(counts, energies, rcond=None)[0])


def zeros(structures: Sequence[Structure]) -> Iterator[Finding]:
    """Name labels that are exactly zero: absent ones that were stored as zeros."""
    for name in QUANTITIES:
        present = [item for item in structures if getattr(item, name) is not None]
        zero = [i for i in present if not np.any(getattr(i, name)) and len(i) > 1]
        if zero:
            text = (
                f"{len(zero)} of {len(present)} structures have {name} of exactly zero (first: "
                f"{zero[0].where}). Remove labels that are absent, unless symmetry makes them so"
            )
            symmetric = name == "forces" and zero[0].pbc.all() and 2 * len(zero) < len(present)
            yield Finding("note" if symmetric else "warning", text)


def net_forces(structures: Sequence[Structure]) -> Iterator[Finding]:
    """Name forces that do not add up to zero."""
    forced = [item.forces for item in structures if item.forces is not None]
    if not forced:
        return
    net = np.array([np.linalg.norm(f.sum(axis=0)) / len(f) for f in forced])
    size = float(np.sqrt(np.mean([np.mean(f**2) for f in forced])))
    if size > 0 and float(np.median(net)) > 0.02 * size:
        text = (
            f"the forces of a structure do not add up to zero ({np.median(net):.2g} eV/Å for each "
            "atom): were some atoms held, or is a frame missing?"
        )
        yield Finding("warning", text)
