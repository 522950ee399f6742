"""Energy curves along one coordinate, and holes in their repulsive walls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray

from finetune.data.graphs import GraphBatch, batches, graph
from finetune.data.labels import without_labels
from finetune.files import finite
from finetune.foundation.potential import Potential

Array = NDArray[np.float64]
HOLE = 0.01
"""eV by which the energy of a wall may fall inwards, for rounding, before it counts as a hole."""


@dataclass(frozen=True)
class Curve:
    """Energies of potentials along a coordinate.

    Attributes:
        kind: ``dimer``, ``bond``, ``torsion``, ``volume`` or ``labelled``.
        name: Which of them, such as ``C-O``.
        unit: Of the coordinate.
        values: The coordinate ``[k]``, ascending.
        energies: By potential ``[k]``, eV. Of dimers relative to the free atoms, of labelled scans
            total energies, else relative to the structure given.
        labels: Labelled energies ``[k]``, eV; None without.
        wall: Value below which the energy has to rise inwards; None where there is no wall.
    """

    kind: str
    name: str
    unit: str
    values: Array
    energies: dict[str, Array]
    labels: Array | None = None
    wall: float | None = None

    def check(self) -> list[dict[str, Any]]:
        """Return for each potential what the curve says: see `checked`."""
        return [
            {"kind": self.kind, "name": self.name, "unit": self.unit, "potential": name}
            | checked(self.values, energies, self.wall)
            | labelled_errors(energies, self.labels)
            for name, energies in self.energies.items()
        ]

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Curve:
        """Return the curve that `as_dict` put down."""
        energies = {
            name: np.array(found, dtype=np.float64) for name, found in content["energies"].items()
        }
        labels = content["labels"]
        return cls(
            kind=content["kind"],
            name=content["name"],
            unit=content["unit"],
            values=np.array(content["values"]),
            energies=energies,
            labels=None if labels is None else np.array(labels),
            wall=content["wall"],
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the curve, ready for JSON."""
        return {
            "kind": self.kind,
            "name": self.name,
            "unit": self.unit,
            "values": self.values.tolist(),
            "energies": {name: finite(found.tolist()) for name, found in self.energies.items()},
            "labels": None if self.labels is None else self.labels.tolist(),
            "wall": self.wall,
        }


def checked(values: Array, energies: Array, wall: float | None) -> dict[str, Any]:
    """Return the minimum, the height and the deepest hole of a curve.

    ``minimum`` is the coordinate of the lowest energy, ``range`` the highest energy above it (eV).
    ``hole`` is the most, in eV, by which the energy falls on the way inwards within the wall, if
    that is more than `HOLE`; ``hole_at`` where it is deepest; ``hole_behind`` how high above the
    lowest energy outside the wall (eV) atoms must climb to fall into it; ``wall_height`` the energy
    at the innermost point above that at the foot (eV).
    """
    found: dict[str, Any] = {"minimum": None, "range": None}
    if np.isfinite(energies).all():
        found["minimum"] = float(values[energies.argmin()])
        found["range"] = float(np.ptp(energies))
    if wall is None:
        return found
    inwards = energies[values <= wall][::-1]
    places = values[values <= wall][::-1]
    if not np.isfinite(inwards).all():
        at = float(places[~np.isfinite(inwards)][0])
        return {**found, "hole": None, "hole_at": at, "hole_behind": None, "wall_height": None}
    falls = np.maximum.accumulate(inwards) - inwards
    deepest = int(falls.argmax())
    outside = energies[values >= places[0]].min()
    hole = float(falls[deepest]) if falls[deepest] > HOLE else 0.0
    return {
        **found,
        "hole": hole,
        "hole_at": float(places[deepest]) if hole else None,
        "hole_behind": float(inwards[: deepest + 1].max() - outside) if hole else None,
        "wall_height": float(inwards[-1] - inwards[0]),
    }


def labelled_errors(energies: Array, labels: Array | None) -> dict[str, Any]:
    """Compare a curve with labels, the mean difference taken away.

    ``mae`` and ``max`` are the mean and largest absolute difference, ``label_range`` the height of
    the labelled curve, all eV.
    """
    if labels is None:
        return {}
    difference = energies - labels
    difference = np.abs(difference - difference.mean())
    return {
        "mae": float(difference.mean()),
        "max": float(difference.max()),
        "label_range": float(np.ptp(labels)),
    }


def energies_of(
    potentials: Mapping[str, Potential], frames: Sequence[Atoms], size: int = 32
) -> dict[str, Array]:
    """Return the total energies of frames by potential ``[frames]``, eV; any geometry is taken."""
    found = {}
    for name, potential in potentials.items():
        graphs = [unlabelled(atoms, potential.cutoff) for atoms in frames]
        with torch.no_grad():
            parts = [
                potential(batch.to(potential.device, potential.dtype), forces=False).energy
                for batch in batches(graphs, size)
            ]
        found[name] = torch.cat(parts).cpu().double().numpy()
    return found


def unlabelled(atoms: Atoms, cutoff: float) -> GraphBatch:
    """Return the graph of an `ase.Atoms` without labels."""
    return graph(without_labels(atoms, atoms.get_chemical_formula()), cutoff)
