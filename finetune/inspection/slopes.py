"""Do forces and stresses belong to the energies?

Between near neighbours ΔE is −F·ΔR, between strained copies V σ:ε − F·Δu. Few pairs of structures
are so near that this is exact: right labels of strongly rattled molecules give slopes from 0.6 to
1.4 at times. Only a slope that is negative, or beyond `OTHER` times its inverse and three standard
errors, is held against labels. The error is that of the jackknife, so that a single pair that
decides the slope does not pass for certainty. Signs and units are found wherever the error is below
`LARGEST_ERROR` (of molecules of 3 to 9 atoms rattled by up to 0.1 Å: 20 structures are enough);
energies per atom of three atoms or more, too; a factor below 1.8 is not.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import polar
from scipy.spatial import cKDTree
from scipy.spatial.distance import pdist

from finetune.core.units import Units
from finetune.data.distances import fractional, full_cell
from finetune.data.structures import Structure, some
from finetune.inspection.geometry import Finding
from finetune.inspection.labels import Read, correction

Array = NDArray[np.float64]
MOST, MOST_STRAINED = 600, 300
"""Structures of a composition that are compared for forces, and for stress."""
FAR = 0.4
"""Å, root mean square displacement of an atom beyond which neighbours are not near."""
SMALL, LARGE = 1e-4, 0.06
"""Strains that are compared."""
ENOUGH = 6
"""Pairs needed for a verdict."""
OTHER, LARGEST_ERROR = 1.8, 0.35
"""Factor from which on a slope is not that of right labels, and the largest relative standard error
with which it is judged."""
SLOTS = ("yz", "xz", "xy")
"""Order of the shear components (Voigt, as ASE has it)."""
ORDERS = tuple(permutations(range(3)))
_UNITS = ("eV", "kcal/mol", "kJ/mol", "Hartree", "Rydberg", "meV")


@dataclass(frozen=True)
class Slope:
    """A straight line through the origin, fitted to pairs of structures.

    ``value`` is its slope, 1 where labels are right, ``error`` its standard error relative to it;
    ``expected`` is what the labels predict for each pair, ``found`` what the energies say, eV.
    """

    value: float
    correlation: float
    pairs: int
    error: float = 0.0
    expected: tuple[float, ...] = ()
    found: tuple[float, ...] = ()

    @property
    def significant(self) -> bool:
        """Whether there are enough pairs, near enough to a line."""
        near = abs(self.correlation) > 0.7 and self.error < LARGEST_ERROR
        return self.pairs >= ENOUGH and near

    @property
    def tolerance(self) -> float:
        """How far off the slope may be, relative to itself: three standard errors and 4 %."""
        return 0.04 + 3 * self.error

    @property
    def right(self) -> bool:
        """Whether the slope may be that of right labels."""
        return self.value > 0 and abs(np.log(self.value)) < np.log(OTHER) + 3 * self.error


def force_slope(structures: Sequence[Structure]) -> Slope | None:
    """Fit ΔE = slope · (−F̄·ΔR) over near neighbours of one composition, atom order and cell.

    Neighbours are aligned rigidly; F̄ is the mean of the forces at both ends: the error is of third
    order in ΔR. None for too few neighbours.
    """
    forced = [i for i in structures if i.forces is not None and len(i) > 1]
    pairs = [pair for group in _groups(forced, True, MOST) for pair in _neighbours(group)]
    pairs = sorted(pairs, key=lambda pair: pair[0])[: max(50, len(pairs) // 3)]
    if len(pairs) < ENOUGH:
        return None
    _, expected, found = np.array(pairs).T
    return fit(expected, found)


def fit(expected: Array, found: Array) -> Slope | None:
    """Fit a line through the origin, without points far off it."""
    keep = np.ones(len(expected), dtype=bool)
    for _ in range(2):
        x, y = expected[keep], found[keep]
        if len(x) < ENOUGH or not x.any() or not y.any():
            return None
        slope = float(x @ y / (x @ x))
        residual = np.abs(found - slope * expected)
        keep = residual <= 8 * max(float(np.median(residual[keep])), 1e-12)
    correlation = float(x @ y / np.sqrt((x @ x) * (y @ y)))
    left_out = (y - slope * x) / np.maximum(1 - x**2 / (x @ x), 1e-3)  # residuals of the jackknife
    error = float(np.sqrt(((x * left_out) ** 2).sum()) / abs(x @ y))
    return Slope(slope, correlation, len(x), error, tuple(x.tolist()), tuple(y.tolist()))


def diagnosis(
    slope: float, atoms: int | None, tolerance: float = 0.04, units: Units | None = None
) -> str:
    """Say what a slope of ΔE on −F·ΔR other than 1 means and how to correct it, or "".

    ``atoms`` is the size of each structure, where it is the same; ``tolerance`` is relative;
    ``units`` are those that labels were read in.
    """
    read = (units or Units()).filled()
    now, own = read.factors(), str(read.forces).removeprefix("-")
    size = abs(slope)
    sign = "-" if slope * now["forces"] < 0 else ""
    turned = "the forces have the wrong sign" + (" (they are gradients)" if sign else "")
    if abs(size - 1) < 0.1 + tolerance:
        return f"{turned}: {correction({'data.units.forces': sign + own})}" if slope < 0 else ""
    if atoms is not None and atoms > 1 and abs(size * atoms - 1) < 0.06 + tolerance:
        return "the energies are per atom; give those of whole structures"
    known = []
    for energy in _UNITS:
        for force in _UNITS:
            for length in ("Å", "Bohr") if force in {"eV", "Hartree", "Rydberg"} else ("Å",):
                other = Units(energy=energy, forces=f"{sign}{force}/{length}")
                factors = other.factors()
                ratio = now["energy"] / factors["energy"] * factors["forces"] / now["forces"]
                if abs(slope / ratio - 1) < tolerance:
                    atomic = energy == force == "Hartree" and length == "Bohr"
                    one_right = read.energy == energy or own == f"{force}/{length}"
                    rarity = 0 if atomic else 1 + (not one_right) + (length != "Å")
                    known.append((rarity, energy, str(other.forces)))
    wrong = slope < 0
    if not known:
        return turned if wrong else ""
    said = []
    for _, energy, forces in sorted(known, key=lambda item: item[0])[:2]:
        advice = correction({"data.units.energy": energy, "data.units.forces": forces})
        said.append(f"energies in {energy} with forces in {forces.removeprefix('-')}: {advice}")
    return f"{f'{turned}, and ' if wrong else ''}the units differ, as those of {'; or '.join(said)}"


def force_findings(
    structures: Sequence[Structure],
    slope: Slope | None,
    units: Units | None = None,
    advise: bool = True,
) -> list[Finding]:
    """Say whether energies and forces agree, from the `force_slope` of the structures.

    ``units`` are those that labels were read in; ``advise`` is whether to say what is wrong.
    """
    if slope is None or not slope.significant:
        if all(item.forces is None for item in structures):
            return []
        text = "energies and forces cannot be compared: no structures are near each other"
        return [Finding("note", text)]
    said = (
        f"energies change by {slope.value:.4g} times −F·ΔR (correlation {slope.correlation:.3f}, "
        f"{slope.pairs} pairs of neighbours)"
    )
    if slope.right:
        return [Finding("ok", f"{said}: units and signs agree")]
    sizes = {len(item) for item in structures}
    atoms = sizes.pop() if len(sizes) == 1 else None
    why = diagnosis(slope.value, atoms, min(slope.tolerance, 0.3), units) if advise else ""
    why = why or "the labels do not agree"
    return [Finding("warning", f"{said}, not 1: {why}")]


def _groups(
    structures: Sequence[Structure], fixed_cell: bool, most: int
) -> Iterator[list[Structure]]:
    """Yield labelled structures that share atoms, level of theory, charge and spin, or cell too."""
    groups: dict[Hashable, list[Structure]] = defaultdict(list)
    for item in structures:
        if item.energy is not None:
            key = (item.numbers.tobytes(), item.level_of_theory, item.charge, item.spin)
            cell = item.cell.round(4).tobytes() if item.pbc.any() else b""
            groups[(key, item.pbc.tobytes(), cell) if fixed_cell else key].append(item)
    for group in groups.values():
        if len(group) > 1:
            yield some(group, most)


def _neighbours(group: Sequence[Structure]) -> Iterator[tuple[float, float, float]]:
    """Yield distance, −F̄·ΔR and ΔE of each structure and the one nearest to it."""
    periodic = bool(group[0].pbc.any())
    if periodic:
        features = np.stack([minimum_image(item, group[0]).ravel() for item in group])
    else:
        features = np.stack([pdist(item.positions) for item in group])
    columns = np.linspace(0, features.shape[1] - 1, min(features.shape[1], 300), dtype=int)
    for index, other in _near_pairs(features[:, columns], 1):
        first, second = group[index], group[other]
        assert first.forces is not None and second.forces is not None
        assert first.energy is not None and second.energy is not None
        if periodic:
            moved, forces = minimum_image(second, first), second.forces
        else:
            moved, rotation = aligned(second.positions, first.positions)
            forces = second.forces @ rotation
        distance = float(np.sqrt((moved**2).sum() / len(moved)))
        if 1e-5 < distance < FAR:
            work = -0.5 * float(((first.forces + forces) * moved).sum())
            yield distance, work, second.energy - first.energy


def _near_pairs(features: Array, most: int) -> Iterator[tuple[int, int]]:
    """Yield pairs of each row and the ``most`` rows nearest to it, none twice."""
    done = set()
    near = cKDTree(features).query(features, k=min(most + 1, len(features)))[1]
    for index, places in enumerate(near.tolist()):
        for other in [place for place in places if place != index][:most]:
            if frozenset((index, other)) not in done:
                done.add(frozenset((index, other)))
                yield index, other


def aligned(positions: Array, onto: Array) -> tuple[Array, Array]:
    """Move positions rigidly onto others; return the displacements left and the rotation.

    Kabsch, Acta Cryst. A 32, 922 (1976). Rows are atoms; a vector v turns into v @ rotation.
    """
    centred, target = positions - positions.mean(axis=0), onto - onto.mean(axis=0)
    left, _, right = np.linalg.svd(centred.T @ target)
    turn = np.diag([1.0, 1.0, np.sign(np.linalg.det(left @ right)) or 1.0])
    rotation = left @ turn @ right
    return centred @ rotation - target, rotation


def minimum_image(structure: Structure, reference: Structure) -> Array:
    """Return the displacements from another structure in the same cell, without net drift."""
    moved = structure.positions - reference.positions
    if structure.pbc.any():
        cell = full_cell(structure.cell, structure.pbc)
        moved = moved - np.where(structure.pbc, np.round(fractional(cell, moved)), 0.0) @ cell
    return np.asarray(moved - moved.mean(axis=0))


@dataclass(frozen=True)
class StressCheck:
    """What energies of strained copies say about the stresses.

    The slope is of ΔE + F·Δu on V σ:ε, the volume a mean of cells, Å³. ``order`` is that of the
    shear components where another one than assumed fits far better.
    """

    slope: Slope
    order: tuple[str, ...] | None
    volume: float

    def diagnosis(self, read: Read | None = None) -> str:
        """Say what is wrong with stresses ``read`` so, and how to correct it; "" for nothing."""
        read, said = read or Read(), []
        given = "virial" if read.virials else "stress"
        right = self.slope.value * read.units.factors()[given]  # factor of the unit that fits
        sign = "-" if right < 0 else ""
        if self.slope.significant and not self.slope.right:
            units = read.units.filled()
            own = str(getattr(units, given) or units.energy).removeprefix("-")
            names = ("eV/Å³", "GPa", "kbar", "Hartree/Bohr³") if given == "stress" else _UNITS
            near = [
                name
                for name in dict.fromkeys((own, *names))
                if abs(abs(right) / Units.model_validate({given: name}).factors()[given] - 1) < 0.15
            ]
            if near:
                what = "have the opposite sign" if near[0] == own else f"are in {near[0]}"
                turned = self.slope.value < 0 and near[0] != own
                advice = correction({f"data.units.{given}": sign + near[0]})
                also = " and the opposite sign" if turned else ""
                said.append(f"the stresses {what}{also}: {advice}")
            elif given == "stress" and abs(abs(right) * self.volume - 1) < 0.15:
                turned_by = "" if sign else " and data.units.virial=-eV"
                said.append(
                    f"the stresses are {'−' if sign else ''}V times stress, virials in eV: set "
                    f"data.keys.virial to their name{turned_by}"
                )
            else:
                said.append("the stresses do not fit the energies")
        if self.order:
            said.append(
                f"the shear components are in the order {', '.join(self.order)}, not "
                f"{', '.join(SLOTS)}: reorder them"
            )
        return "; ".join(said)


def stress_check(structures: Sequence[Structure]) -> StressCheck | None:
    """Compare stresses with energies of strained copies; None where there are too few."""
    strained = [item for item in structures if item.stress is not None]
    groups = _groups(strained, False, MOST_STRAINED)
    rows = [row for group in groups for row in _strained_pairs(group)]
    if len(rows) < ENOUGH:
        return None
    normal, shear, found, volumes = (np.array(column) for column in zip(*rows, strict=True))
    work = {order: normal + shear[:, list(order), range(3)].sum(axis=1) for order in ORDERS}
    fits = {order: slope for order in ORDERS if (slope := fit(work[order], found)) is not None}
    usual = ORDERS[0]
    if usual not in fits:
        return None
    spread = np.ptp(list(work.values()), axis=0)
    telling = spread > 0.3 * spread.max()  # pairs whose shear energies distinguish the orders
    chosen = usual
    if telling.sum() >= ENOUGH:
        residuals = {
            order: float(np.median(np.abs(found - slope.value * work[order])[telling]))
            for order, slope in fits.items()
        }
        best = min(residuals, key=lambda order: residuals[order])
        if residuals[best] < 0.3 * residuals[usual] and fits[best].significant:
            chosen = best
    names = tuple(SLOTS[chosen.index(slot)] for slot in range(3)) if chosen != usual else None
    return StressCheck(fits[chosen], names, float(volumes.mean()))


def stress_findings(check: StressCheck | None, read: Read | None = None) -> list[Finding]:
    """Say whether energies and stresses, ``read`` so, agree."""
    if check is None:
        return []
    said = (
        f"energies change by {check.slope.value:.4g} times V σ:ε (correlation "
        f"{check.slope.correlation:.3f}, {check.slope.pairs} strained pairs)"
    )
    if why := check.diagnosis(read):
        return [Finding("warning", f"{said}: {why}")]
    if check.slope.significant:
        return [Finding("ok", f"{said}: unit, sign and order of stress agree")]
    return []


def _strained_pairs(group: Sequence[Structure]) -> Iterator[tuple[float, Array, float, float]]:
    """Yield normal work, shear work [stress slot, strain slot], ΔE + F·Δu, and the volume."""
    places = [fractional(item.cell, item.positions) for item in group]
    shifts = []
    for place in places:
        moved = place - places[0]
        moved -= np.round(moved)
        shifts.append(moved - moved.mean(axis=0))
    rows = [
        np.concatenate([3 * item.cell.ravel(), (shift @ item.cell).ravel()])
        for item, shift in zip(group, shifts, strict=True)
    ]
    for index, other in _near_pairs(np.stack(rows), 5):
        first, second = sorted((index, other))
        found = _work(group[first], group[second], shifts[second] - shifts[first])
        if found is not None:
            yield found


def _work(
    first: Structure, second: Structure, moved: Array
) -> tuple[float, Array, float, float] | None:
    assert first.energy is not None and second.energy is not None
    assert first.stress is not None and second.stress is not None
    rotation, stretch = polar(np.linalg.solve(first.cell, second.cell), side="left")
    strain = stretch - np.eye(3)
    if not SMALL < np.abs(strain).max() < LARGE or np.linalg.det(rotation) < 0:
        return None
    displacement = moved @ (first.cell @ (np.eye(3) + strain / 2))
    work = 0.0
    if first.forces is not None and second.forces is not None:
        mean = (first.forces + second.forces @ rotation.T) / 2
        work = float((mean * displacement).sum())
    elif np.abs(displacement).max() > 1e-3:
        return None
    volumes = [abs(float(np.linalg.det(item.cell))) for item in (first, second)]
    # Strains refer to the first cell: the energy per strain is V σ (1 + ε)⁻¹, to first order.
    turned = volumes[1] * (rotation @ second.stress @ rotation.T)
    density = (volumes[0] * first.stress + turned @ np.linalg.inv(stretch)) / 2
    normal = float(np.diag(density) @ np.diag(strain))
    slots = [(1, 2), (0, 2), (0, 1)]
    shear = np.array([[(density[a] + density[a[::-1]]) * strain[b] for b in slots] for a in slots])
    return normal, shear, second.energy - first.energy + work, sum(volumes) / 2
