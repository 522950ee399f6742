"""Errors of a potential on labelled structures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from finetune.data.graphs import GraphBatch, batches
from finetune.potentials.potential import Potential

ROWS = (
    ("energy MAE per structure", "energy_mae", "meV"),
    ("energy RMSE per structure", "energy_rmse", "meV"),
    ("energy MAE, mean error removed", "energy_shifted_mae", "meV"),
    ("energy MAE per atom", "energy_per_atom_mae", "meV/atom"),
    ("energy RMSE per atom", "energy_per_atom_rmse", "meV/atom"),
    ("force MAE (components)", "forces_mae", "meV/Å"),
    ("force RMSE (components)", "forces_rmse", "meV/Å"),
    ("stress MAE (components)", "stress_mae", "meV/Å³"),
    ("stress RMSE (components)", "stress_rmse", "meV/Å³"),
)
"""What a table shows: title, field of `Errors`, unit (a thousandth of the field's)."""

Array = NDArray[np.float64]
Indices = NDArray[np.int64]


def _none() -> Indices:
    return np.zeros(0, dtype=np.int64)


@dataclass(frozen=True)
class LabelledPredictions:
    """Predictions beside labels, for the structures and atoms that have labels.

    Attributes:
        energy: Predicted and labelled total energies ``[2, n]``, eV.
        atoms: Number of atoms of those structures ``[n]``.
        forces: Predicted and labelled force components ``[2, m]``, eV/Å.
        stress: Predicted and labelled stress components ``[2, k]``, eV/Å³.
        energy_of: Index of the structure of each energy ``[n]``.
        forces_of: Index of the structure of each atom with forces ``[m / 3]``.
        stress_of: Index of the structure of each stress ``[k / 9]``.
        numbers: Atomic number of each atom with forces ``[m / 3]``.
    """

    energy: Array
    atoms: Array
    forces: Array
    stress: Array
    energy_of: Indices = field(default_factory=_none)
    forces_of: Indices = field(default_factory=_none)
    stress_of: Indices = field(default_factory=_none)
    numbers: Indices = field(default_factory=_none)


@dataclass(frozen=True)
class Errors:
    """Errors of a potential; None where there is no label of that kind.

    Energies are eV for a structure (``energy_*``) and eV/atom (``energy_per_atom_*``);
    ``energy_shifted_mae`` is what remains of the former after the mean error is taken away. Forces
    are eV/Å over components, stress eV/Å³ over components.
    """

    structures: int
    labelled_energies: int
    labelled_forces: int
    labelled_stresses: int
    energy_mae: float | None
    energy_rmse: float | None
    energy_shifted_mae: float | None
    energy_per_atom_mae: float | None
    energy_per_atom_rmse: float | None
    forces_mae: float | None
    forces_rmse: float | None
    stress_mae: float | None
    stress_rmse: float | None

    def as_dict(self) -> dict[str, float | int | None]:
        """Return the fields by name, ready for JSON."""
        return asdict(self)


def predict(
    potential: Potential, graphs: Sequence[GraphBatch], batch_size: int = 16
) -> LabelledPredictions:
    """Evaluate a potential on structures; forces and stress only where they have labels."""
    was_training = potential.training
    potential.eval()
    energies, atoms, forces, stresses = [], [], [], []
    places: dict[str, list[torch.Tensor]] = {"energy": [], "forces": [], "stress": []}
    numbers: list[torch.Tensor] = []
    first = 0
    for batch in batches(graphs, batch_size):
        moved = batch.to(potential.device, potential.dtype)
        want_forces, want_stress = bool(batch.has_forces.any()), bool(batch.has_stress.any())
        with torch.no_grad():
            found = potential(moved, forces=want_forces, stress=want_stress, create_graph=False)
        has = batch.has_energy
        energies.append(torch.stack([found.energy.detach().cpu(), batch.energy])[:, has])
        atoms.append(batch.atoms[has])
        places["energy"].append(first + torch.nonzero(has)[:, 0])
        if found.forces is not None:
            pair = torch.stack([found.forces.cpu().double(), batch.forces.double()])
            forces.append(pair[:, batch.has_forces].reshape(2, -1))
            places["forces"].append(first + batch.structure[batch.has_forces])
            numbers.append(batch.numbers[batch.has_forces])
        if found.stress is not None:
            pair = torch.stack([found.stress.cpu().double(), batch.stress.double()])
            stresses.append(pair[:, batch.has_stress].reshape(2, -1))
            places["stress"].append(first + torch.nonzero(batch.has_stress)[:, 0])
        first += len(batch)
    potential.train(was_training)
    return LabelledPredictions(
        energy=_join(energies),
        atoms=torch.cat(atoms).double().numpy() if atoms else np.zeros(0),
        forces=_join(forces),
        stress=_join(stresses),
        energy_of=_indices(places["energy"]),
        forces_of=_indices(places["forces"]),
        stress_of=_indices(places["stress"]),
        numbers=_indices(numbers),
    )


@np.errstate(invalid="ignore", over="ignore")
def errors(predictions: LabelledPredictions, structures: int) -> Errors:
    """Reduce predictions to errors; those of a diverged potential are infinite or NaN.

    Args:
        predictions: From `predict`.
        structures: Number of structures evaluated, labelled or not.
    """
    energy = predictions.energy[0] - predictions.energy[1]
    per_atom = energy / predictions.atoms
    forces = predictions.forces[0] - predictions.forces[1]
    stress = predictions.stress[0] - predictions.stress[1]
    return Errors(
        structures=structures,
        labelled_energies=energy.size,
        labelled_forces=forces.size // 3,
        labelled_stresses=stress.size // 9,
        energy_mae=_mae(energy),
        energy_rmse=_rmse(energy),
        energy_shifted_mae=_mae(energy - energy.mean()) if energy.size else None,
        energy_per_atom_mae=_mae(per_atom),
        energy_per_atom_rmse=_rmse(per_atom),
        forces_mae=_mae(forces),
        forces_rmse=_rmse(forces),
        stress_mae=_mae(stress),
        stress_rmse=_rmse(stress),
    )


def _join(parts: list[torch.Tensor]) -> Array:
    return torch.cat(parts, dim=1).numpy() if parts else np.zeros((2, 0))


def _indices(parts: list[torch.Tensor]) -> Indices:
    return torch.cat(parts).cpu().numpy() if parts else _none()


def _mae(residual: Array) -> float | None:
    return float(np.abs(residual).mean()) if residual.size else None


def _rmse(residual: Array) -> float | None:
    return float(np.sqrt(np.square(residual).mean())) if residual.size else None
