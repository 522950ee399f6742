"""Are lengths in Å, and cells what they should be?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase.data import atomic_numbers, chemical_symbols, covalent_radii

from finetune.data.distances import nearest
from finetune.data.structures import Structure
from finetune.inspection.finding import Finding

REACH = 4.0
"""Å, up to which neighbours are looked for."""
MOST = 1000
"""Structures whose distances are measured."""
CLOSE = 0.6
"""Times the sum of covalent radii, below which atoms are too close."""


def shortest(structures: Sequence[Structure]) -> dict[str, tuple[float, str]]:
    """Return the shortest distance (Å) by pair of elements, and the structure that has it."""
    found: dict[str, tuple[float, str]] = {}
    for item in _some(structures):
        values, partner = nearest(item.positions, item.cell, item.pbc, REACH)
        for atom in np.flatnonzero(partner >= 0):
            pair = sorted((int(item.numbers[atom]), int(item.numbers[partner[atom]])))
            name = "-".join(chemical_symbols[number] for number in pair)
            if values[atom] < found.get(name, (np.inf, ""))[0]:
                found[name] = (float(values[atom]), item.where)
    return dict(sorted(found.items()))


def lengths(structures: Sequence[Structure]) -> list[Finding]:
    """Compare neighbour distances with covalent radii: tells Å from Bohr, nm and pm."""
    ratios = []
    for item in _some(structures):
        values, partner = nearest(item.positions, item.cell, item.pbc, REACH)
        near = partner >= 0
        radii = covalent_radii[item.numbers[near]] + covalent_radii[item.numbers[partner[near]]]
        ratios.append(values[near] / radii)
    joined = np.concatenate(ratios) if ratios else np.empty(0)
    if not len(joined):
        return []
    middle = float(np.median(joined))
    if middle > 1.6:
        text = (
            f"neighbours are {middle:.2f} times as far apart as covalent radii tell: are lengths "
            "in Bohr? Set data.units.length=Bohr"
        )
        return [Finding("warning", text)]
    if middle < 0.75:
        unit = "nm" if middle < 0.3 else "of another unit"
        text = f"neighbours are {middle:.2g} times as far apart as covalent radii tell: are lengths"
        mend = " in nm? Set data.units.length=nm" if unit == "nm" else f" {unit}?"
        return [Finding("warning", text + mend)]
    found = [Finding("ok", f"neighbours are {middle:.2f} times the covalent radii apart")]
    for name, (distance, where) in shortest(structures).items():
        radii = sum(covalent_radii[atomic_numbers[symbol]] for symbol in name.split("-"))
        if distance < CLOSE * radii:
            text = f"{where} has {name} {distance:.2f} Å apart. Check it, or drop it"
            found.append(Finding("warning", text))
    return found


def periodicity(structures: Sequence[Structure]) -> list[Finding]:
    """Say which structures are periodic, and name cells without periodicity that are full."""
    periodic = sum(bool(item.pbc.all()) for item in structures)
    partly = sum(bool(item.pbc.any() and not item.pbc.all()) for item in structures)
    open_ones = len(structures) - periodic - partly
    counts = ((periodic, "periodic"), (partly, "periodic in some directions"), (open_ones, "open"))
    text = ", ".join(f"{count} {name}" for count, name in counts if count)
    found = [Finding("ok" if len(structures) in (periodic, open_ones) else "note", text)]
    full = [item for item in structures if not item.pbc.any() and _fills(item)]
    if full:
        text = (
            f"{len(full)} structures fill their cell but are not periodic (first: "
            f"{full[0].where}): is pbc missing"
        )
        found.append(Finding("warning", text))
    stray = sum(1 for item in structures if item.stress is not None and not item.pbc.all())
    return found + ([Finding("warning", f"{stray} open structures have stress")] if stray else [])


def _fills(item: Structure) -> bool:
    if abs(np.linalg.det(item.cell)) < 1e-3 or len(item) < 2:
        return False
    fractional = np.linalg.solve(item.cell.T, item.positions.T).T
    heights = 1 / np.linalg.norm(np.linalg.inv(item.cell), axis=0)
    gaps = (1 - np.ptp(fractional, axis=0)) * heights
    volume = abs(np.linalg.det(item.cell)) / len(item)
    return bool((gaps < 3.0).all() and volume < 60)


def _some(structures: Sequence[Structure]) -> list[Structure]:
    places = np.linspace(0, len(structures) - 1, min(len(structures), MOST), dtype=int)
    return [structures[int(place)] for place in places]
