"""Do stresses belong to the energies? Between strained copies ΔE is V σ:ε − F·Δu."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import polar
from scipy.spatial import cKDTree

from finetune.core.units import Units
from finetune.data.structures import Structure
from finetune.inspection.forces import ENOUGH, Slope, fit

Array = NDArray[np.float64]
SMALL, LARGE = 1e-4, 0.06
"""Strains that are looked at."""
MOST = 300
"""Structures of a composition that are looked at."""
SLOTS = ("yz", "xz", "xy")
"""Order of the shear components (Voigt, as ASE has it)."""


@dataclass(frozen=True)
class StressCheck:
    """What energies of strained copies say of the stresses.

    Attributes:
        slope: Of ΔE + F·Δu on V σ:ε.
        order: Order of the shear components that fits far better than the one assumed, if any.
        volume: Mean cell volume, Å³.
    """

    slope: Slope
    order: tuple[str, ...] | None
    volume: float

    def diagnosis(self) -> str:
        """Say what is wrong with the stresses, and the mend; nothing where all is well."""
        said = []
        value = self.slope.value
        sign = "-" if value < 0 else ""
        if self.slope.told and not 0.85 < value < 1.15:
            units = {
                name: Units(stress=name).factors()["stress"] for name in ("eV/Å³", "GPa", "kbar")
            }
            units["Hartree/Bohr³"] = Units(stress="Hartree/Bohr³").factors()["stress"]
            near = [name for name, factor in units.items() if abs(abs(value) / factor - 1) < 0.15]
            if near:
                what = "have the opposite sign" if near[0] == "eV/Å³" else f"are in {near[0]}"
                also = " and the opposite sign" if sign and near[0] != "eV/Å³" else ""
                said.append(f"the stresses {what}{also}: set data.units.stress={sign}{near[0]}")
            elif abs(abs(value) * self.volume - 1) < 0.15:
                turned = "minus " if sign else ""
                said.append(f"the stresses are virials (eV): divide them by {turned}the volume")
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
    rows = [row for group in _groups(structures) for row in _pairs(group)]
    if len(rows) < ENOUGH:
        return None
    normal = np.array([row[0] for row in rows])
    shear = np.array([row[1] for row in rows])  # [pairs, stress slot, strain slot]
    found = np.array([row[2] for row in rows])
    fits: dict[tuple[int, ...], Slope] = {}
    for order in permutations(range(3)):
        slope = fit(normal + shear[:, list(order), range(3)].sum(axis=1), found)
        if slope is not None:
            fits[order] = slope
    usual = fits.get((0, 1, 2))
    if usual is None:
        return None
    residuals = {
        order: float(
            np.median(
                np.abs(
                    found - slope.value * (normal + shear[:, list(order), range(3)].sum(axis=1))
                )[_sheared(shear)]
            )
        )
        if _sheared(shear).sum() >= ENOUGH
        else 0.0
        for order, slope in fits.items()
    }
    best = min(residuals, key=lambda order: residuals[order])
    strange = residuals[best] < 0.3 * residuals[(0, 1, 2)] and fits[best].told
    chosen = best if strange else (0, 1, 2)
    names = tuple(SLOTS[chosen.index(slot)] for slot in range(3)) if strange else None
    volume = float(np.mean([row[3] for row in rows]))
    return StressCheck(fits[chosen], names, volume)


def _sheared(shear: Array) -> NDArray[np.bool_]:
    """Return the pairs whose shear energies tell the orders apart."""
    spread = np.ptp([shear[:, list(o), range(3)].sum(axis=1) for o in permutations(range(3))], 0)
    return np.asarray(spread > 0.3 * spread.max())


def _groups(structures: Sequence[Structure]) -> Iterator[list[Structure]]:
    groups: dict[Any, list[Structure]] = defaultdict(list)
    for item in structures:
        if item.energy is not None and item.stress is not None:
            state = (item.charge, item.spin, item.level_of_theory)
            groups[(item.numbers.tobytes(), state)].append(item)
    for group in groups.values():
        if len(group) > 1:
            chosen = np.linspace(0, len(group) - 1, min(len(group), MOST), dtype=int)
            yield [group[index] for index in chosen]


def _pairs(group: Sequence[Structure]) -> Iterator[tuple[float, Array, float, float]]:
    """Yield normal work, shear work [stress slot, strain slot], what is found, and the volume."""
    base = _fractional(group[0])
    shifts = []
    for item in group:
        moved = _fractional(item) - base
        moved -= np.round(moved)
        shifts.append(moved - moved.mean(axis=0))
    features = np.stack(
        [
            np.concatenate([3 * item.cell.ravel(), (shift @ item.cell).ravel()])
            for item, shift in zip(group, shifts, strict=True)
        ]
    )
    near = cKDTree(features).query(features, k=min(6, len(group)))[1]
    done = {(index, index) for index in range(len(group))}
    for index, places in enumerate(near):
        for other in places.tolist():
            pair = (min(index, other), max(index, other))
            if pair in done:
                continue
            done.add(pair)
            found = _work(group[pair[0]], group[pair[1]], shifts[pair[1]] - shifts[pair[0]])
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
    density = [
        volume * stress
        for volume, stress in zip(
            volumes, (first.stress, rotation @ second.stress @ rotation.T), strict=True
        )
    ]
    density[1] = density[1] @ np.linalg.inv(stretch)
    mean_density = (density[0] + density[1]) / 2
    normal = float(np.diag(mean_density) @ np.diag(strain))
    slots = [(1, 2), (0, 2), (0, 1)]
    shear = np.array(
        [[(mean_density[a] + mean_density[a[::-1]]) * strain[b] for b in slots] for a in slots]
    )
    return normal, shear, second.energy - first.energy + work, sum(volumes) / 2


def _fractional(structure: Structure) -> Array:
    return np.asarray(np.linalg.solve(structure.cell.T, structure.positions.T).T)
