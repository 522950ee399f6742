"""ASE databases: labels in columns, key-value pairs and data, in the units of their metadata.

SchNetPack writes labels into the data of a row, and their units into the metadata, as
``_property_unit_dict`` and ``_distance_unit``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from ase import Atoms
from ase.db import connect
from ase.db.core import Database
from ase.db.row import AtomsRow

from finetune.core.errors import DataError
from finetune.core.units import Units
from finetune.data.formats.frames import File, Format, Frame, Frames, reason, unreadable
from finetune.data.labels import unit_tags
from finetune.recipe.sections import LabelKeys

_BACKENDS = dict.fromkeys(("aselmdb", "mysql", "postgresql"), "ase-db-backends")
"""Packages that ASE needs for some kinds of databases."""
_LABELS = ("energy", "forces", "stress", "virial")
_INDEX = re.compile(r"[-\d:]*")


def open_database(file: File, keys: LabelKeys) -> Frames:
    """Open a database; after ``@`` stands an index expression or a query such as ``element=C``.

    Labels are looked up by name in columns (calculator results), key-value pairs and data.
    """
    kind = _kind(file)
    query = not _INDEX.fullmatch(file.index)
    try:
        database = connect(str(file.path), type=kind, use_lock_file=False)
        metadata = database.metadata
    except ModuleNotFoundError:
        raise DataError(
            f"'{file.name}' is an ASE database of the kind {kind}, which needs the package "
            f"{_BACKENDS[kind]}: pip install {_BACKENDS[kind]}."
        ) from None
    except Exception as error:  # each backend raises its own
        raise unreadable(file.name, 0, reason(error)) from None
    tags = _stated(metadata, keys, file.name)
    return Frames(
        f"ASE database ({kind})",
        _stream(database, file.index if query else None, file.name, tags),
        chosen=query,
    )


DATABASE = Format(lambda file: _kind(file) in {"db", "json", *_BACKENDS}, open_database)


def _kind(file: File) -> str:
    return "aselmdb" if file.path.suffix == ".aselmdb" else file.ase_kind


def _stated(metadata: Mapping[str, Any], keys: LabelKeys, source: str) -> dict[str, str]:
    """Return the units that the metadata state for the labels asked for, as tags."""
    units = metadata.get("_property_unit_dict") or {}
    given = {name: units.get(getattr(keys, name)) for name in _LABELS}
    given["length"] = metadata.get("_distance_unit")
    given = {name: unit for name, unit in given.items() if unit}
    try:
        return unit_tags(Units.model_validate(given))
    except ValueError:
        listed = ", ".join(f"{name} in {unit}" for name, unit in given.items())
        raise DataError(
            f"the metadata of '{source}' state a unit that is unknown ({listed}). Correct them."
        ) from None


def _stream(
    database: Database, query: str | None, source: str, tags: dict[str, str]
) -> Iterator[Frame]:
    count = 0
    rows = database.select(query)
    while True:
        try:
            row = next(rows, None)
        except Exception as error:  # SQLite and JSON raise whatever damage makes them
            yield count, unreadable(source, count, reason(error))
            return
        if row is None:
            return
        try:
            atoms = _atoms(row)
            atoms.info = tags | atoms.info
            yield count, atoms
        except DataError as error:
            yield count, DataError(f"'{source}', structure {count}: {error}")
        except Exception as error:
            yield count, unreadable(source, count, reason(error))
        count += 1


def _atoms(row: AtomsRow) -> Atoms:
    """Return the structure of a row, with everything that may be a label by its name."""
    atoms = row.toatoms()
    # `row.charge` is the sum of the initial charges and hides a pair of that name
    places: list[Mapping[str, Any]] = [
        getattr(atoms.calc, "results", {}),
        {name: vars(row)[name] for name in row._keys},
        row.data,
    ]
    for values in places[1:]:
        for name, value in values.items():
            others = [place[name] for place in places if place is not values and name in place]
            if any(not np.array_equal(value, other) for other in others):
                raise DataError(
                    f"'{name}' has different values in columns, key-value pairs and data. Keep one."
                )
            atoms.info[name] = value
    return atoms
