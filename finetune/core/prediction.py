"""The shared vocabulary: what a potential predicts, and its shapes and units.

Energies are eV, lengths Å, forces eV/Å, stress eV/Å³ with ASE's sign (positive under tension).
A batch holds B structures with N atoms in all.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from ase import units

ENERGY_DTYPE = torch.float64
"""Total energies stay in double precision whatever the model computes in: a CCSD(T) total energy
of 10⁴ eV has a resolution of 1 meV in single precision."""

FORCE_UNIT, STRESS_UNIT = "eV/Å", "eV/Å³"


def energy_unit(normalise: str) -> str:
    """Return the unit of energies that are taken ``per_atom`` or ``per_structure``."""
    return "eV/atom" if normalise == "per_atom" else "eV"


def readable(value: float, unit: str) -> tuple[float, str]:
    """Return a value and its unit as people read them: meV for eV, GPa for eV/Å³."""
    if unit == STRESS_UNIT:
        return value / units.GPa, "GPa"
    return (1000 * value, f"m{unit}") if unit.startswith("eV") else (value, unit)


@dataclass(frozen=True)
class Prediction:
    """What a potential predicts for a batch.

    Attributes:
        energy: Total energies ``[B]``, eV, float64.
        node_energy: Atomic energies ``[N]``, eV, float64; they add up to ``energy``.
        forces: ``[N, 3]``, eV/Å, or None where they were not asked for.
        stress: ``[B, 3, 3]``, eV/Å³, or None; zero for structures without a full cell.
    """

    energy: torch.Tensor
    node_energy: torch.Tensor
    forces: torch.Tensor | None = None
    stress: torch.Tensor | None = None


def sum_per_structure(values: torch.Tensor, batch: torch.Tensor, structures: int) -> torch.Tensor:
    """Add values ``[N, …]`` of the atoms of each structure: ``[structures, …]``."""
    total = values.new_zeros((structures, *values.shape[1:]))
    return total.index_add(0, batch, values)
