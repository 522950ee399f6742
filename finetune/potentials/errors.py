"""Errors of a potential on labelled structures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

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
    """Predictions and labels, for the structures and atoms that have labels.

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
    pairs: dict[str, list[torch.Tensor]] = {"energy": [], "forces": [], "stress": []}
    places: dict[str, list[torch.Tensor]] = {kind: [] for kind in pairs}
    atoms: list[torch.Tensor] = []
    numbers: list[torch.Tensor] = []
    first = 0
    for batch in batches(graphs, batch_size):
        moved = batch.to(potential.device, potential.dtype)
        want_forces, want_stress = bool(batch.has_forces.any()), bool(batch.has_stress.any())
        with torch.no_grad():
            found = potential(moved, forces=want_forces, stress=want_stress, create_graph=False)
        structure = torch.arange(len(batch))
        for kind in pairs:
            predicted, has = getattr(found, kind), getattr(batch, f"has_{kind}")
            if predicted is not None:
                pair = torch.stack(
                    [predicted.detach().cpu().double(), getattr(batch, kind).double()]
                )
                pairs[kind].append(pair[:, has].reshape(2, -1))
                owner = batch.structure if kind == "forces" else structure
                places[kind].append(first + owner[has])
        atoms.append(batch.atoms[batch.has_energy])
        if found.forces is not None:
            numbers.append(batch.numbers[batch.has_forces])
        first += len(batch)
    potential.train(was_training)
    joined: dict[str, Any] = {
        kind: torch.cat(parts, dim=1).numpy() if parts else np.zeros((2, 0))
        for kind, parts in pairs.items()
    }
    joined |= {f"{kind}_of": _indices(parts) for kind, parts in places.items()}
    return LabelledPredictions(
        **joined,
        atoms=torch.cat(atoms).double().numpy() if atoms else np.zeros(0),
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
    residuals = {
        "energy": energy,
        "energy_per_atom": energy / predictions.atoms,
        "forces": predictions.forces[0] - predictions.forces[1],
        "stress": predictions.stress[0] - predictions.stress[1],
    }
    figures: dict[str, Any] = {
        f"{kind}_mae": _mae(residual) for kind, residual in residuals.items()
    }
    figures |= {f"{kind}_rmse": _rmse(residual) for kind, residual in residuals.items()}
    return Errors(
        structures=structures,
        labelled_energies=energy.size,
        labelled_forces=residuals["forces"].size // 3,
        labelled_stresses=residuals["stress"].size // 9,
        energy_shifted_mae=_mae(energy - energy.mean()) if energy.size else None,
        **figures,
    )


def _indices(parts: list[torch.Tensor]) -> Indices:
    return torch.cat(parts).cpu().numpy() if parts else _none()


def _mae(residual: Array) -> float | None:
    return float(np.abs(residual).mean()) if residual.size else None


def _rmse(residual: Array) -> float | None:
    return float(np.sqrt(np.square(residual).mean())) if residual.size else None
