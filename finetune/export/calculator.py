"""An ASE calculator on any potential."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from finetune.data.graphs import graph
from finetune.data.labels import LARGEST_NUMBER, Structure, check_geometry, whole_number
from finetune.devices import choose_device, choose_dtype
from finetune.foundation.loading import load_foundation
from finetune.foundation.potential import Potential


class PotentialCalculator(Calculator):
    """Energy, forces, stress and atomic energies of a potential for ASE.

    Energies are eV, forces eV/Å, stress eV/Å³ in ASE's sign and Voigt order (periodic structures
    only). ``energies`` are atomic energies that include the reference energies. Potentials that
    know of charge and spin read them from ``atoms.info``: ``charge`` (0 if absent) and ``spin``,
    the multiplicity (1 if absent).

    Args:
        potential: The potential, on its device and in its dtype.
    """

    implemented_properties: ClassVar[list[str]] = [
        "energy",
        "free_energy",
        "energies",
        "forces",
        "stress",
    ]

    def __init__(self, potential: Potential) -> None:
        super().__init__()
        self.potential = potential.eval()

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """Return what has changed since the last calculation; called by ASE."""
        changes: list[str] = super().check_state(atoms, tol)
        before = {} if self.atoms is None else self.atoms.info
        if any(before.get(key) != atoms.info.get(key) for key in ("charge", "spin")):
            changes.append("info")
        return changes

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Evaluate the potential; called by ASE.

        Raises:
            FoundationError: For an element that the potential does not know.
            DataError: For a geometry that cannot be evaluated (colliding or non-finite atoms).
        """
        super().calculate(atoms, properties, system_changes)
        where = f"{self.atoms.get_chemical_formula()} given to the calculator"
        structure = Structure(
            numbers=np.asarray(self.atoms.numbers, dtype=np.int64),
            positions=np.array(self.atoms.positions, dtype=np.float64),
            cell=np.array(self.atoms.cell.array, dtype=np.float64),
            pbc=np.array(self.atoms.pbc, dtype=bool),
            charge=whole_number(self.atoms, "charge", 0, -LARGEST_NUMBER, where),
            spin=whole_number(self.atoms, "spin", 1, 1, where),
            where=where,
        )
        check_geometry(structure)
        if structure.charge and "charge" not in self.potential.further_inputs:
            warnings.warn(
                f"the potential has no input for the charge ({structure.charge}) of {where}: it is "
                "ignored.",
                stacklevel=2,
            )
        batch = graph(structure, self.potential.cutoff)
        stress = bool(structure.pbc.all())
        found = self.potential(
            batch.to(self.potential.device, self.potential.dtype),
            forces=True,
            stress=stress,
            create_graph=False,
        )
        results: dict[str, Any] = {
            "energy": float(found.energy[0]),
            "free_energy": float(found.energy[0]),
            "energies": found.node_energy.detach().cpu().double().numpy(),
            "forces": found.forces.detach().cpu().double().numpy(),
        }
        if stress:
            full = found.stress[0].detach().cpu().double().numpy()
            results["stress"] = full_3x3_to_voigt_6_stress(full)
        self.results = results


def load_calculator(
    path: str | Path, device: str = "auto", dtype: str = "float64"
) -> PotentialCalculator:
    """Open a run folder, or anything that `load_foundation` opens, as an ASE calculator.

    Args:
        path: Run folder, its ``model`` or ``adapter`` folder, a MACE file, or the name of a
            foundation.
        device: ``auto`` (CUDA where there is one), ``cpu``, ``cuda``, ``cuda:1``, …
        dtype: ``float64`` (geometry optimisation, frequencies) or ``float32`` (fast dynamics).

    Raises:
        FoundationError: If there is nothing to open, or it is damaged.
        RecipeError: If the device or the dtype is unknown.
    """
    chosen = choose_device(device)
    foundation = load_foundation(path, choose_dtype(dtype), chosen)
    return PotentialCalculator(foundation.potential)
