"""What `data inspect` reports on sets of structures: contents, findings, a picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from finetune.core.errors import DataError
from finetune.core.text import counted
from finetune.data.duplicates import TOLERANCE
from finetune.data.structures import Coverage, Structure, coverage
from finetune.inspection import geometry, labels, slopes

_USUAL = {"charge": 0, "spin": 1}
_STATES = {"charge": "total charge", "spin": "spin multiplicity"}
_UNREAD = {"q": "charge", "net_charge": "charge", "mult": "spin"}
"""Names that charge and spin may have where they are not read."""


@dataclass(frozen=True)
class Inspection:
    """What sets of structures contain, and what was found in them, warnings first.

    Ranges are of atoms, energies per atom (eV), force components (eV/Å) and stress (eV/Å³);
    shortest distances (Å) are by pair of elements, with where they are. ``force_slope`` is ΔE
    against −F·ΔR between near neighbours, ``stress`` ΔE against V σ:ε between strained copies.
    ``states`` counts structures by charge and by spin multiplicity.
    """

    coverage: dict[str, Coverage]
    compositions: dict[str, int]
    states: dict[str, dict[int, int]]
    levels: dict[str, int]
    ranges: dict[str, dict[str, float]]
    shortest: dict[str, tuple[float, str]]
    force_slope: slopes.Slope | None
    stress: slopes.StressCheck | None
    findings: tuple[geometry.Finding, ...]
    structures: Mapping[str, Sequence[Structure]]

    def as_dict(self) -> dict[str, Any]:
        """Return everything but the structures as plain data."""
        stress = None if self.stress is None else self.stress.slope
        fits = {"forces": self.force_slope, "stress": stress}
        return {
            "sets": {name: asdict(item) for name, item in self.coverage.items()},
            "compositions": self.compositions,
            "levels_of_theory": self.levels,
            "states": self.states,
            "ranges": self.ranges,
            "shortest_distances": {
                name: {"distance": value, "where": where}
                for name, (value, where) in self.shortest.items()
            },
            "slopes": {
                name: {"slope": item.value, "correlation": item.correlation, "pairs": item.pairs}
                for name, item in fits.items()
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
        for name, counts in self.states.items():
            if set(counts) != {_USUAL[name]}:
                shares = ", ".join(f"{value} in {count}" for value, count in counts.items())
                found.append(f"{name}: {shares} structures")
        if self.levels:
            named = ", ".join(f"{level} {count}" for level, count in self.levels.items())
            found.append(f"levels of theory: {named}")
        for name, r in self.ranges.items():
            found.append("{}: {least:.6g} to {most:.6g}, median {median:.6g}".format(name, **r))
        if self.shortest:
            pairs = ", ".join(f"{n} {value:.2f}" for n, (value, _) in self.shortest.items())
            found.append(f"shortest distances (Å): {pairs}")
        return found + [str(item) for item in self.findings]


def inspect(
    sets: Mapping[str, Sequence[Structure]],
    tolerance: float = TOLERANCE,
    further: Sequence[geometry.Finding] = (),
    read: labels.Read | None = None,
) -> Inspection:
    """Inspect sets of structures together; up to the tolerance (Å) structures count as the same.

    ``further`` are findings made elsewhere, as against a foundation; where these say what to
    correct, energies and forces are not diagnosed again. ``read`` says how labels were read.
    """
    read = read or labels.Read()
    advised = any(item.level == "warning" and "set data." in item.text for item in further)
    everything = [item for items in sets.values() for item in items]
    slope, stress = slopes.force_slope(everything), slopes.stress_check(everything)
    levels = Counter(i.level_of_theory for i in everything if i.level_of_theory is not None)
    findings = [
        *further,
        *labels.mixed_levels(sets),
        *geometry.lengths(everything),
        *geometry.periodicity(everything),
        *labels.origin(everything),
        *slopes.force_findings(everything, slope, read.units, not advised),
        *slopes.stress_findings(stress, read),
        *labels.net_forces(everything),
        *labels.zeros(everything),
        *_unread_states(everything),
        *labels.outliers(everything),
        *geometry.duplicates(sets, tolerance),
    ]
    order = {"warning": 0, "note": 1, "ok": 2}
    return Inspection(
        coverage={name: coverage(items) for name, items in sets.items()},
        compositions=dict(Counter(item.formula for item in everything).most_common()),
        states={
            name: dict(sorted(Counter(getattr(i, name) for i in everything).items()))
            for name in _USUAL
        },
        levels=dict(levels.most_common()),
        ranges=_ranges(everything),
        shortest=geometry.shortest(everything),
        force_slope=slope,
        stress=stress,
        findings=tuple(sorted(findings, key=lambda item: order[item.level])),
        structures=sets,
    )


def _unread_states(structures: Sequence[Structure]) -> Iterator[geometry.Finding]:
    """Note numbers that look like a charge or a spin under a name that is not read."""
    for name, quantity in _UNREAD.items():
        count = sum(isinstance(item.tags.get(name), float) for item in structures)
        if count:
            text = (
                f"{counted(count, 'structure')} ha{'s' if count == 1 else 've'} a number "
                f"'{name}', which is not read. If it is the {_STATES[quantity]}, set "
                f"data.keys.{quantity}={name}"
            )
            yield geometry.Finding("note", text)


def _ranges(structures: Sequence[Structure]) -> dict[str, dict[str, float]]:
    values: dict[str, list[float]] = {
        "atoms": [len(item) for item in structures],
        "energy per atom (eV)": [i.energy / len(i) for i in structures if i.energy is not None],
        "largest force component (eV/Å)": [
            float(np.abs(i.forces).max()) for i in structures if i.forces is not None
        ],
        "pressure (eV/Å³)": [
            -float(np.trace(i.stress)) / 3 for i in structures if i.stress is not None
        ],
    }
    return {
        name: {"least": float(min(n)), "median": float(np.median(n)), "most": float(max(n))}
        for name, n in values.items()
        if n
    }


def check_plot(path: Path) -> None:
    """Refuse a name that is not one of a picture, or a folder that does not exist."""
    if path.suffix not in {".png", ".pdf", ".svg"}:
        raise DataError(f"'{path}' is not a picture: end its name in .png, .pdf or .svg.")
    if not path.parent.is_dir():
        raise DataError(f"there is no folder '{path.parent}' to draw '{path.name}' in. Make it.")


def draw(inspection: Inspection, path: Path) -> None:
    """Write energies, forces, shortest distances and ΔE against −F·ΔR as one picture."""
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
    found = inspection.shortest
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
