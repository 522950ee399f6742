"""Look at sets of structures and tell what they hold and what is strange."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase.symbols import Symbols

from finetune.core.errors import DataError
from finetune.data.duplicates import TOLERANCE, clusters
from finetune.data.structures import Coverage, Structure, coverage
from finetune.inspection import energies, geometry
from finetune.inspection.finding import Finding
from finetune.inspection.forces import Slope, diagnosis, force_slope
from finetune.inspection.geometry import shortest
from finetune.inspection.stress import StressCheck, stress_check


@dataclass(frozen=True)
class Range:
    """Smallest, middle and largest of some numbers."""

    least: float
    median: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Range | None:
        """Return the range of the values, None where there are none."""
        if not len(values):
            return None
        return cls(float(np.min(values)), float(np.median(values)), float(np.max(values)))


@dataclass(frozen=True)
class Inspection:
    """What sets of structures hold.

    Attributes:
        coverage: By set: structures, atoms, labels, elements.
        compositions: Structures by formula, all sets together.
        levels: Structures by level of theory, as far as the files say.
        ranges: Of atoms, energies per atom (eV), force components (eV/Å), stress (eV/Å³).
        shortest: Shortest distance (Å) by pair of elements, and where.
        force_slope: ΔE against −F·ΔR between near neighbours.
        stress: ΔE against V σ:ε between strained copies.
        findings: What was checked, and what is strange.
        structures: The structures by set.
    """

    coverage: dict[str, Coverage]
    compositions: dict[str, int]
    levels: dict[str, int]
    ranges: dict[str, Range]
    shortest: dict[str, tuple[float, str]]
    force_slope: Slope | None
    stress: StressCheck | None
    findings: tuple[Finding, ...]
    structures: Mapping[str, Sequence[Structure]]

    def as_dict(self) -> dict[str, Any]:
        """Return everything but the structures as plain data."""
        stress = None if self.stress is None else self.stress.slope
        slopes = {"forces": self.force_slope, "stress": stress}
        return {
            "sets": {name: asdict(item) for name, item in self.coverage.items()},
            "compositions": self.compositions,
            "levels_of_theory": self.levels,
            "ranges": {name: asdict(item) for name, item in self.ranges.items()},
            "shortest_distances": {
                name: {"distance": value, "where": where}
                for name, (value, where) in self.shortest.items()
            },
            "slopes": {
                name: {"slope": item.value, "correlation": item.correlation, "pairs": item.pairs}
                for name, item in slopes.items()
                if item is not None
            },
            "findings": [asdict(item) for item in self.findings],
        }

    def lines(self) -> list[str]:
        """Return the inspection in plain words."""
        found = []
        for name, item in self.coverage.items():
            found.append(
                f"{name}: {item.structures} structures, {item.atoms} atoms; {item.energy} with "
                f"energy, {item.forces} with forces, {item.stress} with stress; "
                f"{' '.join(item.elements)}"
            )
        listed = [f"{formula} {count}" for formula, count in self.compositions.items()]
        more = f" and {len(listed) - 8} more" if len(listed) > 8 else ""
        found.append(f"compositions: {', '.join(listed[:8])}{more}")
        if self.levels:
            named = ", ".join(f"{level} {count}" for level, count in self.levels.items())
            found.append(f"levels of theory: {named}")
        for name, r in self.ranges.items():
            found.append(f"{name}: {r.least:.6g} to {r.most:.6g}, median {r.median:.6g}")
        if self.shortest:
            pairs = ", ".join(f"{n} {value:.2f}" for n, (value, _) in self.shortest.items())
            found.append(f"shortest distances (Å): {pairs}")
        return found + [str(item) for item in self.findings]


def inspect(sets: Mapping[str, Sequence[Structure]], tolerance: float = TOLERANCE) -> Inspection:
    """Look at one or several sets of structures together.

    Args:
        sets: Structures by the name of their file or split; at least one structure.
        tolerance: Å, up to which structures count as the same.
    """
    everything = [item for items in sets.values() for item in items]
    slope, stress = force_slope(everything), stress_check(everything)
    levels = Counter(i.level_of_theory for i in everything if i.level_of_theory is not None)
    findings = [
        *_levels(levels),
        *geometry.lengths(everything),
        *geometry.periodicity(everything),
        *energies.origin(everything),
        *_slopes(everything, slope, stress),
        *energies.net_forces(everything),
        *energies.zeros(everything),
        *energies.outliers(everything),
        *_duplicates(sets, tolerance),
    ]
    formulas = Counter(str(Symbols(item.numbers).get_chemical_formula()) for item in everything)
    order = {"warning": 0, "note": 1, "ok": 2}
    return Inspection(
        coverage={name: coverage(items) for name, items in sets.items()},
        compositions=dict(formulas.most_common()),
        levels=dict(levels.most_common()),
        ranges=_ranges(everything),
        shortest=geometry.shortest(everything),
        force_slope=slope,
        stress=stress,
        findings=tuple(sorted(findings, key=lambda item: order[item.level])),
        structures=sets,
    )


def _levels(levels: Mapping[str, int]) -> list[Finding]:
    if len({level.casefold() for level in levels}) < 2:
        return []
    named = ", ".join(f"{level} ({count})" for level, count in levels.items())
    return [Finding("warning", f"the labels are of different levels of theory: {named}")]


def _ranges(structures: Sequence[Structure]) -> dict[str, Range]:
    values: dict[str, list[float]] = {
        "atoms": [float(len(item)) for item in structures],
        "energy per atom (eV)": [i.energy / len(i) for i in structures if i.energy is not None],
        "largest force component (eV/Å)": [
            float(np.abs(i.forces).max()) for i in structures if i.forces is not None
        ],
        "pressure (eV/Å³)": [
            -float(np.trace(i.stress)) / 3 for i in structures if i.stress is not None
        ],
    }
    found = {name: Range.of(items) for name, items in values.items()}
    return {name: item for name, item in found.items() if item is not None}


def _slopes(
    structures: Sequence[Structure], slope: Slope | None, stress: StressCheck | None
) -> list[Finding]:
    found = []
    if slope is None or not slope.told:
        if any(item.forces is not None for item in structures):
            text = "energies and forces cannot be compared: no structures are near each other"
            found.append(Finding("note", text))
    else:
        said = f"energies change by {slope.value:.4g} times −F·ΔR (correlation "
        said += f"{slope.correlation:.3f}, {slope.pairs} pairs of neighbours)"
        sizes = {len(item) for item in structures}
        if slope.right:
            found.append(Finding("ok", f"{said}: units and signs agree"))
        else:
            atoms = sizes.pop() if len(sizes) == 1 else None
            why = diagnosis(slope.value, atoms, slope.tolerance)
            found.append(Finding("warning", f"{said}, not 1: {why or 'the labels do not agree'}"))
    if stress is not None:
        why = stress.diagnosis()
        said = f"energies change by {stress.slope.value:.4g} times V σ:ε (correlation "
        said += f"{stress.slope.correlation:.3f}, {stress.slope.pairs} strained pairs)"
        if why:
            found.append(Finding("warning", f"{said}: {why}"))
        elif stress.slope.told:
            found.append(Finding("ok", f"{said}: unit, sign and order of stress agree"))
    return found


def _duplicates(sets: Mapping[str, Sequence[Structure]], tolerance: float) -> list[Finding]:
    """Count the same structures within and across sets, and those with other energies."""
    everything = [(name, item) for name, items in sets.items() for item in items]
    numbers = clusters((item for _, item in everything), tolerance)
    groups: dict[int, list[tuple[str, Structure]]] = {}
    for number, entry in zip(numbers.tolist(), everything, strict=True):
        groups.setdefault(number, []).append(entry)
    found = []
    within: Counter[str] = Counter()
    across: Counter[tuple[str, str]] = Counter()
    for entries in groups.values():
        counts = Counter(name for name, _ in entries)
        within.update({name: count - 1 for name, count in counts.items() if count > 1})
        names = [name for name in sets if name in counts]
        across.update(
            {(a, b): counts[b] for place, a in enumerate(names) for b in names[place + 1 :]}
        )
    for (first, second), count in across.items():
        text = f"{count} structures of '{second}' are in '{first}' too (within {tolerance:g} Å)"
        found.append(Finding("warning", f"{text}: a leak, if one tests the other"))
    for name, count in within.items():
        text = f"{count} structures of '{name}' repeat others (within {tolerance:g} Å)"
        found.append(Finding("note", text))
    differing = []
    for entries in groups.values():
        labels = [(i.energy / len(i), i.where) for _, i in entries if i.energy is not None]
        if len(labels) > 1 and max(labels)[0] - min(labels)[0] > 1e-3:
            differing.append((max(labels)[0] - min(labels)[0], min(labels)[1], max(labels)[1]))
    if differing:
        most, first, second = max(differing)
        text = (
            f"{len(differing)} structures are there with energies that differ, the most by "
            f"{most:.3g} eV/atom: {first} and {second}. Keep one label of each"
        )
        found.append(Finding("warning", text))
    return found or [Finding("ok", "no structure is there twice")]


def check_plot(path: Path) -> None:
    """Refuse a name that no picture can have, or a folder that is not there.

    Raises:
        DataError: With names that can.
    """
    if path.suffix not in {".png", ".pdf", ".svg"}:
        raise DataError(f"'{path}' is no picture: end its name in .png, .pdf or .svg.")
    if not path.parent.is_dir():
        raise DataError(f"there is no folder '{path.parent}' to draw '{path.name}' in. Make it.")


def draw(inspection: Inspection, path: Path) -> None:
    """Write energies, forces, shortest distances and ΔE against −F·ΔR as one picture.

    Args:
        inspection: What to draw.
        path: ``.png``, ``.pdf`` or ``.svg``.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7), layout="constrained")
    energy, force, distance, slope = figure.subplots(2, 2).ravel()
    for name, items in inspection.structures.items():
        energies = [i.energy / len(i) for i in items if i.energy is not None]
        if energies:
            energy.hist(energies, bins=40, histtype="step", label=f"{name} ({len(energies)})")
        forces = [np.abs(i.forces).max() for i in items if i.forces is not None]
        if forces:
            force.hist(forces, bins=40, histtype="step", label=f"{name} ({len(forces)})")
    energy.set(xlabel="energy, eV/atom", ylabel="structures")
    force.set(xlabel="largest force component, eV/Å", ylabel="structures")
    for axes in (energy, force):
        if axes.patches:
            axes.legend(fontsize=7)
    everything = [item for items in inspection.structures.values() for item in items]
    found = shortest(everything)
    distance.barh(list(found), [value for value, _ in found.values()])
    distance.set(xlabel="shortest distance, Å")
    line = inspection.force_slope
    if line is not None and line.expected:
        slope.plot(line.expected, line.found, ".", markersize=3)
        ends = np.array([min(line.expected), max(line.expected)])
        slope.plot(ends, ends, "k:", linewidth=1, label="slope 1")
        slope.plot(ends, line.value * ends, linewidth=1, label=f"slope {line.value:.3g}")
        slope.legend(fontsize=7)
    slope.set(xlabel="−F·ΔR between neighbours, eV", ylabel="ΔE, eV")
    figure.savefig(path, dpi=150)
