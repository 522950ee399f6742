"""Energy curves along one coordinate, and holes in their repulsive walls."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations_with_replacement
from typing import Any, TypeAlias

import numpy as np
import torch
from ase import Atoms
from ase.data import chemical_symbols, covalent_radii
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from finetune.core.files import finite
from finetune.data.graphs import GraphBatch, batches, graph
from finetune.data.structures import Structure, to_atoms, without_labels
from finetune.evaluation.distances import Array, find_bonds
from finetune.potentials.potential import Potential

HOLE = 0.01
"""eV by which the energy of a wall may fall inwards, for rounding, before it counts as a hole."""


@dataclass(frozen=True)
class Curve:
    """Energies of potentials along a coordinate."""

    kind: str  # dimer, bond, torsion, volume or labelled
    name: str  # such as C-O
    unit: str
    values: Array  # the coordinate [k], ascending
    energies: dict[str, Array]  # eV [k]: to free atoms (dimer), total (labelled), to the start
    labels: Array | None = None  # eV [k]
    wall: float | None = None  # value below which the energy has to rise inwards
    # of potentials with a head for forces, see `inconsistencies`
    inconsistency: dict[str, Array] = field(default_factory=dict)

    def check(self) -> list[dict[str, Any]]:
        """Return for each potential what the curve shows: see `checked`.

        Where a head predicts the forces, ``inconsistency`` is the largest one outside the wall,
        eV/Å.
        """
        outside = self.values >= (-np.inf if self.wall is None else self.wall)
        return [
            {"kind": self.kind, "name": self.name, "unit": self.unit, "potential": name}
            | checked(self.values, energies, self.wall)
            | labelled_errors(energies, self.labels)
            | _largest(self.inconsistency.get(name), outside)
            for name, energies in self.energies.items()
        ]

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Curve:
        """Return the curve of which `as_dict` returned the content."""
        energies = {name: np.array(found, float) for name, found in content["energies"].items()}
        labels = None if content["labels"] is None else np.array(content["labels"])
        kept = {key: content[key] for key in ("kind", "name", "unit", "wall")}
        inconsistency = {
            name: np.array(found, float) for name, found in content.get("inconsistency", {}).items()
        }
        values = np.array(content["values"])
        return cls(
            **kept, values=values, energies=energies, labels=labels, inconsistency=inconsistency
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the curve, ready for JSON."""
        inconsistency = {name: finite(x.tolist()) for name, x in self.inconsistency.items()}
        return {
            **{key: value for key, value in vars(self).items() if key != "inconsistency"},
            "values": self.values.tolist(),
            "energies": {name: finite(found.tolist()) for name, found in self.energies.items()},
            "labels": None if self.labels is None else self.labels.tolist(),
            **({"inconsistency": inconsistency} if inconsistency else {}),
        }


def checked(values: Array, energies: Array, wall: float | None) -> dict[str, Any]:
    """Return the minimum, the height and the deepest hole of a curve.

    ``minimum`` is the coordinate of the lowest energy, ``range`` the highest energy above it (eV).
    ``hole`` is the largest fall of the energy (eV) on the way inwards within the wall, if it is
    more than `HOLE`; ``hole_at`` where it is deepest; ``hole_behind`` the barrier (eV) before it,
    from the lowest energy outside the wall; ``wall_height`` the energy at the innermost point above
    that at the foot (eV).
    """
    found: dict[str, Any] = {"minimum": None, "range": None}
    if np.isfinite(energies).all():
        found = {"minimum": float(values[energies.argmin()]), "range": float(np.ptp(energies))}
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


def _largest(inconsistency: Array | None, outside: NDArray[np.bool_]) -> dict[str, float]:
    return {} if inconsistency is None else {"inconsistency": float(inconsistency[outside].max())}


def labelled_errors(energies: Array, labels: Array | None) -> dict[str, Any]:
    """Return mean and largest difference from labels, mean removed, and the labels' range, eV."""
    if labels is None:
        return {}
    difference = energies - labels
    difference = np.abs(difference - difference.mean())
    found = {"mae": difference.mean(), "max": difference.max(), "label_range": np.ptp(labels)}
    return {name: float(value) for name, value in found.items()}


def energies_of(
    potentials: Mapping[str, Potential], frames: Sequence[Atoms], size: int = 32
) -> dict[str, Array]:
    """Return the total energies of frames by potential ``[frames]``, eV, of any geometry."""
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


def inconsistencies(
    potentials: Mapping[str, Potential], frames: Sequence[Atoms], size: int = 32
) -> dict[str, Array]:
    """Return for each frame the largest |F + dE/dr| of an atom ``[frames]``, eV/Å.

    Only of potentials whose forces F a head predicts.
    """
    found = {}
    for name, potential in potentials.items():
        if not potential.direct_forces:
            continue
        graphs = [unlabelled(atoms, potential.cutoff) for atoms in frames]
        largest: list[float] = []
        for batch in batches(graphs, size):
            moved = batch.to(potential.device, potential.dtype)
            both = potential(moved, create_graph=False, gradient=True)
            off = (both.forces - both.gradient_forces).norm(dim=1).detach()
            largest += [float(part.max()) for part in torch.split(off, batch.atoms.tolist())]
        found[name] = np.array(largest)
    return found


def unlabelled(atoms: Atoms, cutoff: float) -> GraphBatch:
    """Return the graph of an `ase.Atoms`, without labels."""
    return graph(without_labels(atoms, atoms.get_chemical_formula()), cutoff)


Hinge: TypeAlias = "tuple[int, int, NDArray[np.intp]]"
"""Two bonded atoms, and the atoms on the side of the second, which is the smaller one."""
STRETCH = (0.6, 1.8)
"""Shares of a bond's length."""
SQUEEZE = (0.75, 1.2)
"""Shares of a cell's lengths."""
BOND_WALL, CELL_WALL = 0.85, 0.9
"""Share of the given length below which the energy has to rise inwards."""


def scans(potentials: Mapping[str, Potential], atoms: Atoms, where: str) -> list[Curve]:
    """Scan the volume of a periodic structure, or the bonds and torsions of a molecule.

    Bonds within rings are left out, and of bonds between the same elements with the same numbers of
    neighbours only the first is scanned. Only the coordinate changes; the rest stays as given.
    """
    if atoms.pbc.all():
        return [_volume(potentials, atoms, where)]
    if atoms.pbc.any():
        return []
    curves = []
    bonded = np.bincount(find_bonds(atoms).pairs.ravel(), minlength=len(atoms))
    for hinge in _hinges(atoms):
        ends = hinge[:2]
        label = "-".join(f"{chemical_symbols[atoms.numbers[index]]}{index}" for index in ends)
        curves.append(_bond(potentials, atoms, hinge, f"{label}, {where}"))
        if min(bonded[list(ends)]) > 1:
            curves.append(_torsion(potentials, atoms, hinge, f"{label}, {where}"))
    return curves


def _volume(potentials: Mapping[str, Potential], atoms: Atoms, where: str) -> Curve:
    shares = np.linspace(*SQUEEZE, 31)
    frames = []
    for share in shares:
        frames.append(atoms.copy())
        frames[-1].set_cell(share * atoms.cell.array, scale_atoms=True)
    energies = _relative(potentials, frames, atoms)
    off = inconsistencies(potentials, frames)
    return Curve("volume", where, "a / a₀", shares, energies, wall=CELL_WALL, inconsistency=off)


def _bond(potentials: Mapping[str, Potential], atoms: Atoms, hinge: Hinge, name: str) -> Curve:
    first, second, moving = hinge
    vector = atoms.positions[second] - atoms.positions[first]
    length = float(np.linalg.norm(vector))
    values = length * np.linspace(*STRETCH, 37)
    start = atoms.positions[moving]
    frames = [_moved(atoms, moving, start + (value / length - 1.0) * vector) for value in values]
    energies = _relative(potentials, frames, atoms)
    off, wall = inconsistencies(potentials, frames), BOND_WALL * length
    return Curve("bond", name, "Å", values, energies, wall=wall, inconsistency=off)


def _torsion(potentials: Mapping[str, Potential], atoms: Atoms, hinge: Hinge, name: str) -> Curve:
    first, second, moving = hinge
    values = np.arange(0.0, 361.0, 15.0)
    centre = atoms.positions[first]
    axis = atoms.positions[second] - centre
    frames = []
    for value in values:
        turned = atoms[moving]
        turned.rotate(value, axis, center=centre)
        frames.append(_moved(atoms, moving, turned.positions))
    energies, off = _relative(potentials, frames, atoms), inconsistencies(potentials, frames)
    return Curve("torsion", name, "°", values, energies, inconsistency=off)


def _hinges(atoms: Atoms) -> Iterator[Hinge]:
    """Yield bonds that are in no ring, one of each type."""
    pairs = find_bonds(atoms).pairs
    degrees = np.bincount(pairs.ravel(), minlength=len(atoms))
    seen = set()
    for index, (first, second) in enumerate(pairs.tolist()):
        kind = tuple(sorted((int(atoms.numbers[i]), int(degrees[i])) for i in (first, second)))
        others = np.delete(pairs, index, axis=0)
        links = (np.ones(len(others)), (others[:, 0], others[:, 1]))
        part = connected_components(coo_array(links, shape=(len(atoms),) * 2), directed=False)[1]
        if kind in seen or part[first] == part[second]:
            continue
        seen.add(kind)
        here, there = (np.flatnonzero(part == part[end]) for end in (first, second))
        yield (second, first, here) if len(here) < len(there) else (first, second, there)


def _moved(atoms: Atoms, moving: NDArray[np.intp], positions: Array) -> Atoms:
    """Return a copy in which some atoms are elsewhere."""
    frame = atoms.copy()
    frame.positions[moving] = positions
    return frame


def _relative(
    potentials: Mapping[str, Potential], frames: list[Atoms], given: Atoms
) -> dict[str, Array]:
    found = energies_of(potentials, [*frames, given])
    return {name: energies[:-1] - energies[-1] for name, energies in found.items()}


INNERMOST, WALL = 0.3, 0.7
"""Shares of the sum of covalent radii: where curves begin, and the foot of the wall (below the
bond length of any diatomic molecule)."""
POINTS = 120


def dimers(potentials: Mapping[str, Potential], elements: Sequence[int]) -> list[Curve]:
    """Return the energy of each pair of elements, relative to the free atoms, out to the cutoff."""
    cutoff = max(potential.cutoff for potential in potentials.values())
    free = energies_of(potentials, [Atoms([number]) for number in elements])
    curves = []
    for first, second in combinations_with_replacement(range(len(elements)), 2):
        pair = [elements[first], elements[second]]
        radius = float(covalent_radii[pair].sum())
        values = np.linspace(INNERMOST * radius, cutoff, POINTS)
        frames = [Atoms(pair, [[0.0, 0.0, 0.0], [0.0, 0.0, value]]) for value in values]
        energies = {
            name: found - free[name][first] - free[name][second]
            for name, found in energies_of(potentials, frames).items()
        }
        name = "-".join(chemical_symbols[number] for number in pair)
        off, wall = inconsistencies(potentials, frames), WALL * radius
        curves.append(Curve("dimer", name, "Å", values, energies, wall=wall, inconsistency=off))
    return curves


VALUE, UNIT, NAME = "scan_value", "scan_unit", "config_type"
"""Tags of the structures of a scan."""
FEWEST = 3
"""Structures that make a scan."""


def labelled_scans(
    potentials: Mapping[str, Potential], structures: Sequence[Structure]
) -> list[Curve]:
    """Return a curve for each ``config_type`` and formula with a ``scan_value`` and an energy."""
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
                inconsistency=inconsistencies(potentials, atoms),
            )
        )
    return curves
