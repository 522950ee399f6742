"""Scans with labels, as files bring them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from finetune.data.labels import Structure, to_atoms
from finetune.evaluation.scans.curves import Curve, energies_of
from finetune.foundation.potential import Potential

VALUE, UNIT, NAME = "scan_value", "scan_unit", "config_type"
"""Tags of the structures of a scan."""
FEWEST = 3


def labelled_scans(
    potentials: Mapping[str, Potential], structures: Sequence[Structure]
) -> list[Curve]:
    """Return a curve for each scan among structures: those with a ``scan_value`` and an energy.

    Structures belong to one scan if they have the same atoms and the same ``config_type``.
    """
    found: dict[tuple[str, bytes], list[Structure]] = defaultdict(list)
    for item in structures:
        if item.energy is not None and isinstance(item.tags.get(VALUE), float):
            found[str(item.tags.get(NAME, "scan")), item.numbers.tobytes()].append(item)
    curves = []
    for (name, _), items in found.items():
        if len(items) < FEWEST:
            continue
        items = sorted(items, key=lambda item: float(item.tags[VALUE]))
        atoms = [to_atoms(item) for item in items]
        curves.append(
            Curve(
                kind="labelled",
                name=f"{atoms[0].get_chemical_formula()} {name}",
                unit=str(items[0].tags.get(UNIT, "")),
                values=np.array([float(item.tags[VALUE]) for item in items]),
                energies=energies_of(potentials, atoms),
                labels=np.array([item.energy for item in items], dtype=np.float64),
            )
        )
    return curves
