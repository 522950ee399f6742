"""Structures by themselves: units of lengths, cells, duplicates."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
from ase.data import atomic_numbers, chemical_symbols, covalent_radii

from finetune.data.distances import fractional, nearest
from finetune.data.duplicates import clusters
from finetune.data.structures import Structure, some

REACH = 4.0
"""Å, within which neighbours are looked for."""
MOST = 1000
"""Structures whose distances are measured."""
CLOSE = 0.6
"""Times the sum of covalent radii, below which atoms are too close."""


@dataclass(frozen=True)
class Finding:
    """One result: ``ok`` for what is right, ``note`` to know, ``warning`` to correct."""

    level: Literal["ok", "note", "warning"]
    text: str

    def __str__(self) -> str:
        return f"{self.level}: {self.text}{'' if self.text.endswith('?') else '.'}"


def shortest(structures: Sequence[Structure]) -> dict[str, tuple[float, str]]:
    """Return the shortest distance (Å) by pair of elements, and the structure that has it."""
    found: dict[str, tuple[float, str]] = {}
    for item in some(structures, MOST):
        values, partner = nearest(item.positions, item.cell, item.pbc, REACH)
        for atom in np.flatnonzero(partner >= 0):
            pair = sorted((int(item.numbers[atom]), int(item.numbers[partner[atom]])))
            name = "-".join(chemical_symbols[number] for number in pair)
            if values[atom] < found.get(name, (np.inf, ""))[0]:
                found[name] = (float(values[atom]), item.where)
    return dict(sorted(found.items()))


def lengths(structures: Sequence[Structure]) -> Iterator[Finding]:
    """Compare neighbour distances with covalent radii: distinguishes Å from Bohr, nm and pm."""
    ratios: list[float] = []
    for item in some(structures, MOST):
        values, partner = nearest(item.positions, item.cell, item.pbc, REACH)
        near = partner >= 0
        radii = covalent_radii[item.numbers[near]] + covalent_radii[item.numbers[partner[near]]]
        ratios.extend(values[near] / radii)
    if not ratios:
        return
    middle = float(np.median(ratios))
    if not 0.75 <= middle <= 1.6:
        unit = "Bohr" if middle > 1 else "nm" if middle < 0.3 else ""
        asked = f"in {unit}? Set data.units.length={unit}" if unit else "of another unit"
        text = f"neighbours are {middle:.3g} times as far apart as their covalent radii add up to: "
        yield Finding("warning", f"{text}are lengths {asked}")
        return
    yield Finding("ok", f"neighbours are {middle:.2f} times the covalent radii apart")
    for name, (distance, where) in shortest(structures).items():
        radii = sum(covalent_radii[atomic_numbers[symbol]] for symbol in name.split("-"))
        if distance < CLOSE * radii:
            text = f"{where} has {name} {distance:.2f} Å apart. Check it, or drop it"
            yield Finding("warning", text)


def periodicity(structures: Sequence[Structure]) -> Iterator[Finding]:
    """Count periodic structures, and name open ones that fill their cell."""
    periodic = sum(bool(item.pbc.all()) for item in structures)
    partly = sum(bool(item.pbc.any() and not item.pbc.all()) for item in structures)
    open_ones = len(structures) - periodic - partly
    counts = (
        (periodic, "periodic"),
        (partly, "periodic in some directions"),
        (open_ones, "molecules (no periodic direction)"),
    )
    text = ", ".join(f"{count} {name}" for count, name in counts if count)
    yield Finding("ok" if len(structures) in (periodic, open_ones) else "note", text)
    full = [item for item in structures if not item.pbc.any() and _fills(item)]
    if full:
        text = (
            f"{len(full)} structures fill their cell but are not periodic (first: "
            f"{full[0].where}): is pbc missing"
        )
        yield Finding("warning", text)
    stray = sum(1 for item in structures if item.stress is not None and not item.pbc.all())
    if stray:
        yield Finding("warning", f"{stray} open structures have stress")


def _fills(item: Structure) -> bool:
    volume = abs(np.linalg.det(item.cell))
    if volume < 1e-3 or len(item) < 2:
        return False
    heights = 1 / np.linalg.norm(np.linalg.inv(item.cell), axis=0)
    gaps = (1 - np.ptp(fractional(item.cell, item.positions), axis=0)) * heights
    return bool((gaps < 3.0).all() and volume / len(item) < 60)


def duplicates(sets: Mapping[str, Sequence[Structure]], tolerance: float) -> list[Finding]:
    """Count equal structures within and across sets, and those whose energies differ.

    Those count as the same that `clusters` groups at the tolerance (Å).
    """
    everything = [(name, item) for name, items in sets.items() for item in items]
    groups: dict[int, list[tuple[str, Structure]]] = defaultdict(list)
    numbers = clusters((item for _, item in everything), tolerance)
    for number, entry in zip(numbers.tolist(), everything, strict=True):
        groups[number].append(entry)
    within: Counter[str] = Counter()
    across: Counter[tuple[str, str]] = Counter()
    differing = []
    for entries in groups.values():
        counts = Counter(name for name, _ in entries)
        within.update({name: count - 1 for name, count in counts.items() if count > 1})
        names = [name for name in sets if name in counts]
        across.update({(a, b): counts[b] for a, b in combinations(names, 2)})
        labels = [(i.energy / len(i), i.where) for _, i in entries if i.energy is not None]
        if len(labels) > 1 and max(labels)[0] - min(labels)[0] > 1e-3:
            differing.append((max(labels)[0] - min(labels)[0], min(labels)[1], max(labels)[1]))
    found = []
    for (first, second), count in across.items():
        text = f"{count} structures of '{second}' are in '{first}' too (within {tolerance:g} Å)"
        found.append(Finding("warning", f"{text}: a leak, if one tests the other"))
    for name, count in within.items():
        text = f"{count} structures of '{name}' repeat others (within {tolerance:g} Å)"
        found.append(Finding("note", text))
    if differing:
        most, first, second = max(differing)
        text = (
            f"{len(differing)} structures occur with energies that differ, the most by "
            f"{most:.3g} eV/atom: {first} and {second}. Keep one label of each"
        )
        found.append(Finding("warning", text))
    return found or [Finding("ok", "no structure occurs twice")]
