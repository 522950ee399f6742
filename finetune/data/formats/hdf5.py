"""Data sets in HDF5: groups of conformers of one molecule or of one number of atoms.

What the arrays of a group are called, and their units as published, stands in `LAYOUTS`. Systems of
DeePMD-kit, which are groups too, are read by `finetune.data.formats.deepmd`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from ase import Atoms
from ase.data import atomic_numbers

from finetune.core.errors import DataError
from finetune.core.units import Units
from finetune.data.formats import deepmd
from finetune.data.formats.frames import File, Format, Frame, Frames, named, reason
from finetune.data.labels import unit_tags
from finetune.data.store import SUFFIXES
from finetune.recipe.sections import LabelKeys

BLOCK = 1024
"""Conformers read at once."""
MOST_NAMED = 1000
"""Groups in which names of labels are looked up beforehand."""
_BRACKET = re.compile(r"\[[^\]]*?([+-]+)(\d*)(?::\d+)?\]")
"""A charged atom of a SMILES string: its signs, the number after them, and a class."""


@dataclass(frozen=True)
class Layout:
    """Names of the arrays in a group of S conformers with n atoms, and their units.

    Attributes:
        name: Of the data set, for records.
        positions: ``[S, n, 3]``, or ``[n, 3]`` for one.
        numbers: Atomic numbers or symbols, ``[n]`` or ``[S, n]``.
        units: As published with the set.
        energy: ``[S]``; "" where there are several levels of theory to choose from.
        forces: ``[S, n, 3]``; "" where there are none by default.
        mark: A further array that a group must have, where the other names are common ones.
        flat: Whether no groups are looked for within one, as there are too many.
        smiles: Whether the charge is the sum of the formal charges in ``smiles``.
        tags: Arrays of one word that are kept with each structure.
        sparse: Whether NaN is an absent label, and structures without any are left out.
        chosen: Whether these conformers are read only where ``data.keys.energy`` names ``energy``.
    """

    name: str
    positions: str
    numbers: str
    units: Units
    energy: str = ""
    forces: str = ""
    mark: str = ""
    flat: bool = False
    smiles: bool = False
    tags: tuple[str, ...] = ()
    sparse: bool = False
    chosen: bool = False

    def natural(self) -> dict[str, str]:
        """Return the names of the labels by quantity."""
        given = {"energy": self.energy, "forces": self.forces}
        return {quantity: name for quantity, name in given.items() if name}


_HARTREE, _EV = Units(energy="Hartree", length="Å"), Units(energy="eV", length="Å")
_ATOMIC = Units(energy="Hartree", length="Bohr", forces="-Hartree/Bohr")
_LEVEL = "wB97x_6-31G(d)"
LAYOUTS = (
    # Smith et al., Scientific Data 7, 134 (2020): names such as wb97x_dz.energy
    Layout("ANI-1x", "coordinates", "atomic_numbers", _HARTREE, sparse=True),
    # Smith et al., Scientific Data 4, 170193 (2017); Devereux et al., JCTC 16, 4192 (2020)
    Layout("ANI", "coordinates", "species", _HARTREE, "energies", "forces", sparse=True),
    Layout("ANI-1", "coordinatesHE", "species", _HARTREE, "energiesHE", chosen=True),
    # Eastman et al., Scientific Data 10, 11 (2023); gradients
    Layout(
        "SPICE",
        "conformations",
        "atomic_numbers",
        _ATOMIC,
        "dft_total_energy",
        "dft_total_gradient",
        smiles=True,
        tags=("subset",),
    ),
    # Schreiner et al., Scientific Data 9, 779 (2022)
    Layout(
        "Transition1x",
        "positions",
        "atomic_numbers",
        _EV,
        f"{_LEVEL}.energy",
        f"{_LEVEL}.forces",
        mark=f"{_LEVEL}.energy",
    ),
    # Hoja et al., Scientific Data 8, 43 (2021)
    Layout("QM7-X", "atXYZ", "atNUM", _EV, "ePBE0+MBD", "totFOR", flat=True),
    # Anstine, Zubatyuk and Isayev, Chemical Science 16, 10228 (2025)
    Layout("AIMNet2", "coord", "numbers", _EV, "energy", "forces", mark="energy"),
)
"""The layouts that are known; a further one is an entry here."""


def open_hdf5(file: File, keys: LabelKeys) -> Frames:
    """Open a data set; of its labels, those that ``keys`` names are read."""
    path, source = file.path, file.name
    if not h5py.is_hdf5(path):
        raise DataError(f"'{source}' is not HDF5, although its name says so. Is it complete?")
    groups: dict[Layout | None, list[str]] = {}
    notes: set[str] = set()
    try:
        with h5py.File(path, "r") as content:
            for group, layout in _groups(content, keys, notes, set()):
                groups.setdefault(layout, []).append(group.name)
            layout, found = next(iter(groups.items()), (None, []))
            if not groups:
                content.visititems(lambda *_: None)  # finds damage
            if layout is not None:
                first = [content[name] for name in found[:MOST_NAMED]]
                names = {k for group in first for k in group if _kind(group[k]) == "f"}
    except DataError as error:
        raise DataError(f"'{source}': {error}") from None
    except Exception as error:  # h5py raises whatever damage makes it
        raise DataError(
            f"'{source}' cannot be read as HDF5 ({reason(error)}). Is it complete?"
        ) from None
    if not groups:
        known = ", ".join(dict.fromkeys(item.name for item in LAYOUTS))
        raise DataError(
            f"'{source}' is HDF5, but neither a store of this package nor in a layout that is "
            f"known ({known}, DeePMD-kit). Convert it to extended XYZ."
        )
    if len(groups) > 1:
        listed = " and ".join(item.name if item else "DeePMD-kit" for item in groups)
        raise DataError(f"'{source}' has groups in the layouts of {listed}. Divide it.")
    if layout is None:
        return deepmd.frames(_systems(path, found), file)
    return Frames(
        f"{layout.name} HDF5",
        _stream(path, source, found, layout, named(keys, layout.natural())),
        natural=layout.natural(),
        usual=layout.units,
        names=frozenset(names - {layout.positions}),
        sparse=layout.sparse,
        notes=sorted(notes),
    )


HDF5 = Format(lambda file: file.path.suffix in SUFFIXES or h5py.is_hdf5(file.path), open_hdf5)


def _groups(
    group: h5py.Group, keys: LabelKeys, notes: set[str], seen: set[int]
) -> Iterator[tuple[h5py.Group, Layout | None]]:
    """Yield each group of conformers once, with its layout; None is a system of DeePMD-kit."""
    place = h5py.h5o.get_info(group.id).addr
    if place in seen:
        return
    seen.add(place)
    names = sorted(group)
    layout = _layout(group.name, names, keys)
    if deepmd.TYPES in names:
        yield group, None
        return
    if layout:
        yield group, layout
        for item in LAYOUTS:
            if item.chosen and item != layout and item.positions in names:
                notes.add(
                    f"note: the conformers in '{item.positions}' are not read. "
                    f"data.keys.energy={item.energy} reads them instead of the others."
                )
    for name in () if layout and layout.flat else names:
        if h5py.h5g.get_objinfo(group.id, name.encode()).type == h5py.h5g.GROUP:
            yield from _groups(group[name], keys, notes, seen)


def _layout(name: str, names: Collection[str], keys: LabelKeys) -> Layout | None:
    """Return the layout of a group with arrays of these names; refuse one that has two."""
    asked = [item for item in LAYOUTS if item.chosen and item.energy == keys.energy]
    near = [
        item
        for item in asked or LAYOUTS
        if item.positions in names
        and (not item.mark or item.mark in names)
        and (asked or not item.chosen)
    ]
    fits = [item for item in near if item.numbers in names] or near
    if len({item.positions for item in fits}) > 1:
        raise DataError(
            f"the group '{name}' has positions of {' and of '.join(item.name for item in fits)}. "
            "Remove those that are not meant."
        )
    return fits[0] if fits else None


def _kind(item: Any) -> str:
    return str(item.dtype.kind) if isinstance(item, h5py.Dataset) else ""


def _stated(group: h5py.Group, layout: Layout, keys: LabelKeys) -> dict[str, str]:
    """Return the units that the arrays of a group have as an attribute, as tags.

    Where a layout has gradients, its own array of them keeps its sign.
    """
    arrays = {"length": layout.positions, "energy": keys.energy, "forces": keys.forces}
    given = {
        quantity: _text(group[name].attrs["units"]).strip()
        for quantity, name in arrays.items()
        if name in group and "units" in group[name].attrs
    }
    gradients = keys.forces == layout.forces and (layout.units.forces or "").startswith("-")
    if "forces" in given and gradients:
        given["forces"] = f"-{given['forces'].removeprefix('-')}"
    try:
        return unit_tags(Units.model_validate(given))
    except ValueError:
        raise DataError(
            f"states units that are unknown ({', '.join(given.values())}). Correct the attributes "
            "'units'."
        ) from None


def _systems(path: Path, groups: list[str]) -> Iterator[deepmd.System]:
    with h5py.File(path, "r") as file:
        for name in groups:
            yield _system(file[name])


def _system(group: h5py.Group) -> deepmd.System:
    def get(name: str) -> Any:
        return group[name][()] if name in group else None

    return deepmd.System(group.name, sorted(n for n in group if n.startswith("set.")), get)


def _stream(
    path: Path, source: str, groups: list[str], layout: Layout, keys: LabelKeys
) -> Iterator[Frame]:
    index = 0
    with h5py.File(path, "r") as file:
        for name in groups:
            try:
                for atoms in _conformers(file[name], layout, keys):
                    yield index, atoms
                    index += 1
                continue
            except DataError as error:
                why = f"the group '{name.strip('/')}' {error}"
            except Exception as error:  # h5py raises whatever damage makes it
                why = f"the group '{name.strip('/')}' cannot be read ({reason(error)})."
            yield index, DataError(f"'{source}', structure {index}: {why}")
            index += 1


def _conformers(group: h5py.Group, layout: Layout, keys: LabelKeys) -> Iterator[Atoms]:
    if layout.numbers not in group:
        raise DataError(f"has no {layout.numbers}.")
    numbers = _atomic_numbers(np.asarray(group[layout.numbers][()]))
    positions = group[layout.positions]
    single = positions.ndim == 2
    shape = (1, *positions.shape) if single else positions.shape
    count, atoms = shape[0], numbers.shape[-1]
    if shape[1:] != (atoms, 3) or numbers.shape not in {(atoms,), (count, atoms)}:
        raise DataError(
            f"has {layout.numbers} of shape {numbers.shape} and {layout.positions} of shape "
            f"{positions.shape}: they do not fit."
        )
    sizes = {"energy": (count,), "forces": shape}
    wanted = {getattr(keys, quantity): size for quantity, size in sizes.items()}
    for key, size in wanted.items():
        if key in group and group[key].size != np.prod(size):
            raise DataError(f"has '{key}' of shape {group[key].shape}; it needs {size}.")
    info: dict[str, Any] = {name: _text(group[name][()]) for name in layout.tags if name in group}
    info |= _stated(group, layout, keys)
    state = {key: (count,) for key in (keys.charge, keys.spin)}
    if layout.smiles and "smiles" in group and keys.charge not in group:
        info[str(keys.charge)] = _charge(_text(group["smiles"][()]))
    read = {key: size for key, size in (wanted | state).items() if key in group}
    for start in range(0, count, BLOCK):
        block = ... if single else slice(start, start + BLOCK)
        places = positions[block].astype(float).reshape(-1, atoms, 3)
        labels = {
            key: group[key][block].astype(float).reshape(len(places), *size[1:])
            for key, size in read.items()
        }
        for place, geometry in enumerate(places):
            number = numbers if numbers.ndim == 1 else numbers[start + place]
            item = Atoms(number, geometry, info=dict(info))
            for key, values in labels.items():
                value = values[place]
                if key in state or not np.isnan(value).all() or not layout.sparse:
                    item.info[key] = value if value.ndim else float(value)
            levels = {key.rpartition(".")[0] for key in wanted if key in item.info} - {""}
            if levels:
                item.info["level_of_theory"] = ", ".join(sorted(levels))
            yield item


def _text(value: Any) -> str:
    """Return the text of an array with one word, or of an attribute."""
    word = np.asarray(value).reshape(-1)[0]
    return word.decode("utf-8", "replace") if isinstance(word, bytes) else str(word)


def _charge(smiles: str) -> int:
    """Return the sum of the formal charges of a SMILES string."""
    found = _BRACKET.findall(smiles)
    return sum((1 if signs[0] == "+" else -1) * int(size or len(signs)) for signs, size in found)


def _atomic_numbers(found: Any) -> Any:
    """Return whole numbers, also of symbols; refuse what would have to be rounded."""
    if found.dtype.kind in "SO":
        symbols = [s.decode() if isinstance(s, bytes) else s for s in found.ravel()]
        found = np.array([atomic_numbers[symbol] for symbol in symbols]).reshape(found.shape)
    if found.dtype.kind not in "iuf" or found.ndim not in {1, 2}:
        raise DataError(
            f"has atomic numbers that are {found.dtype} of shape {found.shape}; they must be whole "
            "numbers, one an atom."
        )
    wrong = ~np.isfinite(found) | (found != np.round(found))
    if wrong.any():
        raise DataError(
            f"has the atomic number {found[wrong][0]:g}, which is no whole number. Is the file "
            "damaged?"
        )
    return found.astype(int)
