"""One structure with its labels, what both must satisfy, and sequences of structures."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, compress
from typing import Any, Generic, TypeVar, overload

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from ase.stress import full_3x3_to_voigt_6_stress
from ase.symbols import Symbols
from numpy.typing import NDArray

from finetune.core.errors import DataError
from finetune.core.units import Units
from finetune.data.distances import nearest
from finetune.data.labels import (
    LARGEST_NUMBER,
    QUANTITIES,
    is_unit_tag,
    names_of,
    read_labels,
    read_state,
)
from finetune.recipe.sections import LabelKeys

Array = NDArray[np.float64]
CLOSEST = 0.2
"""Å; atoms nearer than this are a damaged file, not chemistry."""
LARGEST_EXTENT = 1e4
"""Å, of a structure or a cell."""
LARGEST_LABEL = {"energy": (1e7, "eV/atom"), "forces": (1e5, "eV/Å"), "stress": (1e3, "eV/Å³")}
"""Values that no structure reaches: a uranium atom has −8·10⁵ eV, and atoms 0.2 Å apart push each
other with less than 10⁴ eV/Å."""


@dataclass(frozen=True)
class Structure:
    """A structure and its labels; a label that is absent is None, never zero.

    Attributes:
        numbers: Atomic numbers ``[n]``.
        positions: ``[n, 3]``, Å.
        cell: Lattice vectors as rows ``[3, 3]``, Å.
        pbc: Periodic directions ``[3]``.
        energy: Total energy, eV.
        forces: ``[n, 3]``, eV/Å.
        stress: ``[3, 3]``, eV/Å³, ASE's sign; None unless all three directions are periodic.
        charge: Total charge, e.
        spin: Spin multiplicity 2S + 1.
        where: File and index, for messages.
        level_of_theory: What the labels were computed with, as far as the file says.
        tags: Other words and numbers that the file has for the structure, such as
            ``config_type``, ``temperature`` and ``scan_value``; ``charge`` and ``spin`` where the
            file says them.
    """

    numbers: NDArray[np.int64]
    positions: Array
    cell: Array
    pbc: NDArray[np.bool_]
    energy: float | None = None
    forces: Array | None = None
    stress: Array | None = None
    charge: int = 0
    spin: int = 1
    where: str = "structure"
    level_of_theory: str | None = None
    tags: Mapping[str, str | float] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def formula(self) -> str:
        """The composition, such as ``C2H6O``."""
        return str(Symbols(self.numbers).get_chemical_formula())


def from_atoms(atoms: Atoms, keys: LabelKeys, where: str, units: Units | None = None) -> Structure:
    """Take geometry and labels from info, arrays or results of an `ase.Atoms`, checking both.

    They are in ``units``, by default eV and Å; ``where`` names the structure in messages.

    Raises:
        DataError: For no atoms, non-finite or colliding positions, a flat periodic cell, and labels
            of the wrong shape or with NaN or infinite values.
    """
    given = read_labels(atoms, keys, where)
    scale = (units or Units()).factors()
    labels = {name: value * scale[name] for name, value in given.items() if value is not None}
    level = atoms.info.get("level_of_theory")
    read = {keys.energy, keys.forces, keys.stress, *names_of("charge", keys)}
    read |= {*names_of("spin", keys)}
    tags = {
        str(key): value if isinstance(value, str) else float(value)
        for key, value in atoms.info.items()
        if isinstance(value, (str, int, float, np.integer, np.floating))
        and not isinstance(value, bool)
        and key not in read
        and not is_unit_tag(str(key))
    }
    bare = without_labels(atoms, where, keys, scale["length"])
    check_geometry(bare)  # a virial is divided by the volume
    if (virial := labels.pop("virial", None)) is not None:
        labels["stress"] = -virial / abs(np.linalg.det(bare.cell))
    structure = replace(
        bare,
        **labels,
        level_of_theory=None if level is None else str(level),
        tags={**tags, **bare.tags},
    )
    check_sizes(structure, keys)
    return structure


def without_labels(
    atoms: Atoms, where: str, keys: LabelKeys | None = None, length: float = 1.0
) -> Structure:
    """Take geometry, charge and spin from an `ase.Atoms`; the geometry is not checked.

    ``where`` names it in messages; ``length`` is the unit of the geometry, Å. Raises a `DataError`
    if charge or spin is no whole number.
    """
    state = read_state(atoms, keys or LabelKeys(), where)
    return Structure(
        numbers=np.asarray(atoms.numbers, dtype=np.int64),
        positions=np.array(atoms.positions, dtype=np.float64) * length,
        cell=np.array(atoms.cell.array, dtype=np.float64) * length,
        pbc=np.array(atoms.pbc, dtype=bool),
        charge=state.get("charge", 0),
        spin=state.get("spin", 1),
        where=where,
        tags={name: float(value) for name, value in state.items()},
    )


def to_atoms(structure: Structure, labels: bool = False) -> Atoms:
    """Return a structure as an `ase.Atoms` with its tags.

    With ``labels`` these and the level of theory are added, under the default names in eV and Å;
    charge and spin are then added only where the file said them, or they are not 0 and 1.
    """
    state = {"charge": structure.charge, "spin": structure.spin}
    if not labels:
        info: dict[str, Any] = {**structure.tags, **state}
    else:
        names: dict[str, str] = LabelKeys().model_dump()
        own = {*names.values(), "level_of_theory"}
        info = {key: value for key, value in structure.tags.items() if key not in own}
        if structure.energy is not None:
            info[names["energy"]] = structure.energy
        if structure.stress is not None:
            symmetric = np.array_equal(structure.stress, structure.stress.T)
            voigt = full_3x3_to_voigt_6_stress(structure.stress)
            info[names["stress"]] = voigt if symmetric else structure.stress.reshape(9)
        usual = {"charge": 0, "spin": 1}
        info |= {k: n for k, n in state.items() if n != usual[k] or k in structure.tags}
        if structure.level_of_theory is not None:
            info["level_of_theory"] = structure.level_of_theory
    atoms = Atoms(
        structure.numbers, structure.positions, cell=structure.cell, pbc=structure.pbc, info=info
    )
    if labels and structure.forces is not None:
        atoms.arrays[names["forces"]] = structure.forces
    return atoms


def check(structure: Structure, keys: LabelKeys) -> None:
    """Refuse a structure that no potential could evaluate, or with absurd labels."""
    check_geometry(structure)
    check_sizes(structure, keys)
    for name, least in (("charge", -LARGEST_NUMBER), ("spin", 1)):
        value = getattr(structure, name)
        if not least <= value <= LARGEST_NUMBER:
            raise DataError(
                f"{structure.where}: '{name}' is {value}; it must lie from {least} to "
                f"{LARGEST_NUMBER}."
            )


def check_geometry(structure: Structure) -> None:
    """Refuse geometries that no potential could evaluate, naming the atoms."""
    where, numbers, positions = structure.where, structure.numbers, structure.positions
    if len(structure) == 0:
        raise DataError(f"{where} has no atoms.")
    if not np.isfinite(positions).all() or not np.isfinite(structure.cell).all():
        raise DataError(f"{where} has positions or a cell that are NaN or infinite.")
    unknown = (numbers < 1) | (numbers >= len(chemical_symbols))
    if unknown.any():
        raise DataError(
            f"{where} has an atom of unknown element (atomic number {numbers[unknown][0]}"
            f"{' or X' if numbers.min() == 0 else ''})."
        )
    periodic = structure.cell[structure.pbc]
    lengths = np.linalg.norm(periodic, axis=1)
    if len(lengths) and lengths.min() < 1e-6:
        raise DataError(f"{where} is periodic along a direction whose cell vector is zero.")
    if np.linalg.matrix_rank(periodic, tol=1e-6) < len(periodic):
        raise DataError(f"{where} is periodic but its cell vectors are parallel.")
    if len(lengths) and lengths.min() < CLOSEST:
        raise DataError(
            f"{where} has a cell vector of {lengths.min():.3g} Å: an atom would be that close to "
            "its own image. Check the unit of the cell (Å)."
        )
    extent = max(float(np.ptp(positions, axis=0).max()), *lengths, 0.0)
    if extent > LARGEST_EXTENT:
        raise DataError(
            f"{where} spreads over {extent:.3g} Å. Check the file's units (Å) and its numbers, or "
            "drop it."
        )
    distance, partner = nearest(positions, structure.cell, structure.pbc, CLOSEST)
    first = int(distance.argmin())
    if distance[first] < CLOSEST:
        raise DataError(
            f"{where}: atoms {first} and {partner[first]} are {distance[first]:.3f} Å "
            f"apart (closer than {CLOSEST} Å). Check the file's units (Å) and its cell, or drop it."
        )


def check_sizes(structure: Structure, keys: LabelKeys) -> None:
    """Refuse labels so large that they are damaged or of another unit."""
    for name, (largest, unit) in LARGEST_LABEL.items():
        value = getattr(structure, name)
        if value is None:
            continue
        found = float(np.abs(value).max()) / (len(structure) if name == "energy" else 1)
        if found > largest:
            raise DataError(
                f"{structure.where}: '{getattr(keys, name)}' reaches {found:.3g} {unit}; no "
                f"structure has more than {largest:.0e}. Is the file damaged, or are the numbers "
                "in another unit? Correct the structure or drop it."
            )


def geometry_hash(structure: Structure, decimals: int | None = None) -> int:
    """Return a 64-bit hash, never 0, of elements, positions, cell, periodicity, charge and spin.

    The exact one seeds random streams: another formula would change runs that are resumed. With
    ``decimals``, positions and cell (Å) are rounded.
    """
    positions, cell = structure.positions, structure.cell
    if decimals is not None:
        positions, cell = (array.round(decimals) + 0.0 for array in (positions, cell))  # no -0
    digest = hashlib.blake2b(digest_size=8)
    state = np.array([structure.charge, structure.spin])
    for array in (structure.numbers, positions, cell, structure.pbc, state):
        digest.update(np.ascontiguousarray(array).tobytes())
    return int.from_bytes(digest.digest(), "big", signed=True) or 1


def fingerprint(splits: Mapping[str, Iterable[Structure]]) -> str:
    """Return the sha256 (hex) over geometries and labels of structures by split.

    Run folders record it, so its formula is fixed.
    """
    digest = hashlib.sha256()
    for split, structures in splits.items():
        digest.update(split.encode())
        for item in structures:
            digest.update(f"{len(item)} {item.energy!r} {item.charge} {item.spin}".encode())
            for array in (item.numbers, item.positions, item.cell, item.pbc):
                digest.update(np.ascontiguousarray(array).tobytes())
            for label in (item.forces, item.stress):
                digest.update(b"-" if label is None else np.ascontiguousarray(label).tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class Coverage:
    """Numbers of structures, atoms in all, structures with each label and compositions.

    The elements are symbols, by atomic number.
    """

    structures: int
    atoms: int
    energy: int
    forces: int
    stress: int
    elements: tuple[str, ...]
    compositions: int


def coverage(structures: Iterable[Structure]) -> Coverage:
    """Count structures and labels."""
    count, atoms = 0, 0
    labels = dict.fromkeys(QUANTITIES, 0)
    compositions: set[tuple[int, ...]] = set()
    for item in structures:
        count += 1
        atoms += len(item)
        for name in labels:
            labels[name] += getattr(item, name) is not None
        compositions.add(tuple(sorted(item.numbers.tolist())))
    elements = sorted(set().union(*compositions))
    symbols = tuple(chemical_symbols[number] for number in elements)
    return Coverage(count, atoms, **labels, elements=symbols, compositions=len(compositions))


T = TypeVar("T")
S = TypeVar("S")


class LazySequence(Sequence[T]):
    """A sequence of items made one by one; a slice is a view."""

    @abstractmethod
    def item(self, index: int) -> T:
        """Make the item at an index from 0 on."""

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...
    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        if isinstance(index, slice):
            return View(self, range(*index.indices(len(self))))
        if not -len(self) <= index < len(self):
            raise IndexError(f"no item {index} among {len(self)}")
        return self.item(index % len(self))

    def __iter__(self) -> Iterator[T]:
        return (self.item(index) for index in range(len(self)))


class View(LazySequence[T]):
    """Some items of a sequence, in an order of its own."""

    def __init__(self, whole: Sequence[T], indices: Sequence[int] | NDArray[np.int64]) -> None:
        self.whole = whole
        self.indices = np.asarray(indices, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.indices)

    def item(self, index: int) -> T:
        """See `LazySequence.item`."""
        return self.whole[int(self.indices[index])]

    def __iter__(self) -> Iterator[T]:
        """Read through the sequence where the view takes much of it in order."""
        ordered = bool((np.diff(self.indices) > 0).all())
        if not ordered or 20 * len(self) < len(self.whole):
            return super().__iter__()
        wanted = np.zeros(len(self.whole), dtype=bool)
        wanted[self.indices] = True
        return compress(self.whole, wanted)


def taken(whole: Sequence[T], indices: Sequence[int] | NDArray[np.int64]) -> Sequence[T]:
    """Return some items of a sequence: a view if it is lazy, otherwise a list."""
    if isinstance(whole, LazySequence):
        return View(whole, indices)
    return [whole[index] for index in indices]


def some(whole: Sequence[T], most: int) -> list[T]:
    """Return at most ``most`` items, evenly spread."""
    places = np.linspace(0, len(whole) - 1, min(len(whole), most), dtype=int)
    return [whole[int(place)] for place in places]


class Joined(LazySequence[T]):
    """Several sequences, one after the other."""

    def __init__(self, parts: Sequence[Sequence[T]]) -> None:
        self.parts = parts
        self._ends = list(accumulate(len(part) for part in parts))

    def __len__(self) -> int:
        return self._ends[-1]

    def item(self, index: int) -> T:
        """See `LazySequence.item`."""
        part = bisect_right(self._ends, index)
        return self.parts[part][index - (self._ends[part - 1] if part else 0)]

    def __iter__(self) -> Iterator[T]:
        return (item for part in self.parts for item in part)


class Mapped(LazySequence[T], Generic[S, T]):
    """The results of a function for the items of a sequence, computed at each access."""

    def __init__(self, function: Callable[..., T], whole: Sequence[S], *arguments: Any) -> None:
        self.function = function
        self.whole = whole
        self.arguments = arguments

    def __len__(self) -> int:
        return len(self.whole)

    def item(self, index: int) -> T:
        """See `LazySequence.item`."""
        return self.function(self.whole[index], *self.arguments)

    def __iter__(self) -> Iterator[T]:
        return (self.function(item, *self.arguments) for item in self.whole)


def mapped(function: Callable[..., T], whole: Sequence[S], *arguments: Any) -> Sequence[T]:
    """Apply a function to every item: at once, or one by one if the sequence is lazy."""
    if isinstance(whole, LazySequence):
        return Mapped(function, whole, *arguments)
    return [function(item, *arguments) for item in whole]
