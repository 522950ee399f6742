"""NumPy archives: sGDML, (r)MD17 and PhysNet layouts.

sGDML: ``R [S, n, 3]``, ``z [n]``, ``E [S]``, ``F [S, n, 3]``, units in ``r_unit`` and ``e_unit``.
rMD17: ``coords``, ``nuclear_charges``, ``energies``, ``forces`` in kcal/mol and Å.
PhysNet: ``R [S, most, 3]``, ``Z [S, most]``, ``N [S]``, ``E``, ``F``, ``Q`` (charge) in eV, Å, e.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from finetune.core.errors import DataError
from finetune.core.units import Units
from finetune.data.formats.frames import File, Format, Frame, Frames, named, reason
from finetune.data.labels import names_of, unit_tags
from finetune.recipe.sections import LabelKeys

_LAYOUTS = {
    "sGDML": ("R", "z", "E", "F"),
    "rMD17": ("coords", "nuclear_charges", "energies", "forces"),
    "PhysNet": ("R", "Z", "E", "F"),
}
_KCAL = Units(energy="kcal/mol", length="Å")
_GEOMETRY = {"R", "z", "Z", "N", "coords", "nuclear_charges", "lattice"}


def open_npz(file: File, keys: LabelKeys) -> Frames:
    """Open a NumPy archive of one of the layouts."""
    source = file.name
    try:
        arrays = _load(file.path)
    except DataError as error:
        raise DataError(f"'{source}' {error}") from None
    except Exception as error:  # zip and numpy raise whatever damage makes them
        raise DataError(
            f"'{source}' is not a complete NumPy archive ({reason(error)}). Copy or write it again."
        ) from None
    layout = next((n for n, names in _LAYOUTS.items() if set(names[:2]) <= set(arrays)), None)
    if layout is None:
        raise DataError(
            f"'{source}' contains {', '.join(sorted(arrays)) or 'nothing'}; a NumPy archive needs "
            "R and z (sGDML), coords and nuclear_charges (rMD17), or R, Z and N (PhysNet)."
        )
    coordinates, species, energy, forces = _LAYOUTS[layout]
    usual = None if layout == "PhysNet" else _KCAL
    labels = {
        name: a for name, a in arrays.items() if name not in _GEOMETRY and a.dtype.kind in "iuf"
    }
    natural = {"energy": energy, "forces": forces}
    if layout == "PhysNet" and "Q" in arrays:
        natural["charge"] = "Q"
    keys = named(keys, natural)
    count = len(arrays[coordinates]) if arrays[coordinates].ndim == 3 else 1
    for name in {*names_of("charge", keys), *names_of("spin", keys)} & set(labels):
        if labels[name].size not in {1, count}:
            raise DataError(
                f"'{source}': '{name}' has {labels[name].size} numbers for {count} structures."
            )
        labels[name] = np.broadcast_to(labels[name].ravel(), (count,))
    return Frames(
        f"NumPy archive ({layout})",
        _stream(arrays, labels, coordinates, species, forces, source, _stated(arrays, source)),
        natural=natural,
        usual=usual,
        names=frozenset(labels),
    )


def _recognises(file: File) -> bool:
    suffix = file.path.suffix
    return suffix == ".npz" or (suffix == "" and zipfile.is_zipfile(file.path))


NPZ = Format(_recognises, open_npz)


def _load(path: Path) -> dict[str, NDArray[Any]]:
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            with archive.open(member) as content:
                version = np.lib.format.read_magic(content)
                read = {
                    (1, 0): np.lib.format.read_array_header_1_0,
                    (2, 0): np.lib.format.read_array_header_2_0,
                }.get(version)
                if read is None:
                    raise DataError(f"has an unknown format version of '{member.filename}'.")
                shape, _, dtype = read(content)
                if dtype.hasobject:
                    continue
                claimed = dtype.itemsize * int(np.prod(shape, dtype=object))
                if claimed > member.file_size:
                    raise DataError(
                        f"is damaged: '{member.filename}' claims {claimed} bytes and has "
                        f"{member.file_size}."
                    )
    arrays: dict[str, NDArray[Any]] = {}
    with np.load(path, allow_pickle=False) as archive:
        for name in archive.files:
            try:
                arrays[name] = archive[name]
            except ValueError as error:
                if "allow_pickle" not in str(error):
                    raise
                if name in _GEOMETRY or name in {"E", "F", "energies", "forces"}:
                    raise DataError(
                        f"keeps '{name}' as pickled objects, which are not opened. Save it as an "
                        "array of numbers."
                    ) from None
    return arrays


def _stated(arrays: Mapping[str, NDArray[Any]], source: str) -> dict[str, str]:
    """Return the units that an archive names, as tags; forces have those of both."""
    given = {"energy": _text(arrays.get("e_unit")), "length": _text(arrays.get("r_unit"))}
    if all(given.values()):
        given["forces"] = "{energy}/{length}".format(**given)
    given = {name: unit for name, unit in given.items() if unit}
    try:
        return unit_tags(Units.model_validate(given))
    except ValueError:
        raise DataError(
            f"'{source}' names units that are unknown ({', '.join(map(str, given.values()))}). "
            "Convert it, or correct e_unit and r_unit."
        ) from None


def _text(value: NDArray[Any] | None) -> str | None:
    if value is None or value.size != 1:
        return None
    item = value.reshape(()).item()
    text = item.decode("utf-8", "replace") if isinstance(item, bytes) else str(item)
    return text.strip() or None


def _stream(
    arrays: Mapping[str, NDArray[Any]],
    labels: Mapping[str, NDArray[Any]],
    coordinates: str,
    species: str,
    forces: str,
    source: str,
    tags: Mapping[str, str],
) -> Iterator[Frame]:
    positions, numbers = arrays[coordinates], arrays[species]
    if positions.ndim == 2:
        positions = positions[None]
        labels = {k: v[None] if k == forces and v.ndim == 2 else v for k, v in labels.items()}
    if positions.ndim != 3 or positions.shape[2] != 3 or positions.dtype.kind not in "fiu":
        raise DataError(
            f"'{source}': '{coordinates}' has shape {positions.shape}; it needs "
            "(structures, atoms, 3)."
        )
    count, most = positions.shape[:2]
    if numbers.shape not in {(most,), (count, most)} or numbers.dtype.kind not in "iuf":
        raise DataError(
            f"'{source}': '{species}' has shape {numbers.shape}, '{coordinates}' "
            f"{positions.shape}: they do not fit."
        )
    if not np.equal(numbers, np.round(numbers)).all():
        wrong = numbers[numbers != np.round(numbers)][0]
        raise DataError(
            f"'{source}': '{species}' contains {wrong:g}; atomic numbers are whole. Is it damaged?"
        )
    for name, values in labels.items():
        if name == forces and values.shape != positions.shape:
            raise DataError(
                f"'{source}': '{name}' has shape {values.shape}; forces need {positions.shape}."
            )
        if name in {"E", "energies"} and values.size not in {count, 3 * count * most}:
            raise DataError(
                f"'{source}': '{name}' has {values.size} energies for {count} structures."
            )
    labels = {name: values for name, values in labels.items() if values.shape[:1] == (count,)}
    level, lattice, counts = _text(arrays.get("theory")), arrays.get("lattice"), arrays.get("N")
    for index in range(count):
        atomic = numbers if numbers.ndim == 1 else numbers[index]
        if counts is not None and counts.ndim == 1 and counts.shape[0] > index:
            real = max(0, min(int(counts[index]), most))
        else:
            real = most if atomic.all() else int(np.flatnonzero(atomic)[-1:].sum() + 1)
        atoms = Atoms(atomic[:real].astype(int), positions[index, :real].astype(float))
        atoms.info.update(tags)
        if level is not None:
            atoms.info["level_of_theory"] = level
        if lattice is not None and lattice.shape == (3, 3):
            atoms.set_cell(lattice.T)  # sGDML keeps lattice vectors as columns
            atoms.pbc = True
        for name, values in labels.items():
            if values[index].size == 1:
                atoms.info[name] = values[index].item()
            elif values.shape == positions.shape:
                atoms.arrays[name] = values[index][:real]
        yield index, atoms
