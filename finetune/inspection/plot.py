"""An inspection as a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from finetune.errors import DataError
from finetune.inspection.geometry import shortest
from finetune.inspection.inspect import Inspection


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
