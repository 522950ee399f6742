"""Errors of a potential on labelled structures."""

from __future__ import annotations

from collections import defaultdict
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


def _empty() -> Array:
    return np.zeros((2, 0))


def _none() -> Indices:
    return np.zeros(0, dtype=np.int64)


@dataclass(frozen=True)
class LabelledPredictions:
    """Predictions and labels, in this order, for the structures and atoms that have labels."""

    energy: Array = field(default_factory=_empty)  # total energies [2, n], eV
    atoms: Array = field(default_factory=lambda: np.zeros(0))  # of those structures [n]
    forces: Array = field(default_factory=_empty)  # components [2, m], eV/Å
    stress: Array = field(default_factory=_empty)  # components [2, k], eV/Å³
    energy_of: Indices = field(default_factory=_none)  # index of the structure of each energy [n]
    forces_of: Indices = field(default_factory=_none)  # of each atom with forces [m / 3]
    stress_of: Indices = field(default_factory=_none)  # of each stress [k / 9]
    numbers: Indices = field(default_factory=_none)  # atomic numbers, as forces_of [m / 3]


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
    parts: dict[str, list[torch.Tensor]] = defaultdict(list)
    first = 0
    for batch in batches(graphs, batch_size):
        moved = batch.to(potential.device, potential.dtype)
        want_forces, want_stress = bool(batch.has_forces.any()), bool(batch.has_stress.any())
        with torch.no_grad():
            found = potential(moved, forces=want_forces, stress=want_stress, create_graph=False)
        for kind in ("energy", "forces", "stress"):
            predicted, has = getattr(found, kind), getattr(batch, f"has_{kind}")
            if predicted is not None:
                label = getattr(batch, kind).double()
                pair = torch.stack([predicted.detach().cpu().double(), label])
                parts[kind].append(pair[:, has].reshape(2, -1))
                owner = batch.structure if kind == "forces" else torch.arange(len(batch))
                parts[f"{kind}_of"].append(first + owner[has])
        parts["atoms"].append(batch.atoms[batch.has_energy].double())
        if found.forces is not None:
            parts["numbers"].append(batch.numbers[batch.has_forces])
        first += len(batch)
    potential.train(was_training)
    joined = {name: torch.cat(items, dim=-1).cpu().numpy() for name, items in parts.items()}
    return LabelledPredictions(**joined)


@np.errstate(invalid="ignore", over="ignore")
def errors(predictions: LabelledPredictions, structures: int) -> Errors:
    """Reduce predictions to errors; those of a diverged potential are infinite or NaN.

    ``structures`` is the number of structures evaluated, labelled or not.
    """
    energy = predictions.energy[0] - predictions.energy[1]
    residuals = {
        "energy": energy,
        "energy_per_atom": energy / predictions.atoms,
        "forces": predictions.forces[0] - predictions.forces[1],
        "stress": predictions.stress[0] - predictions.stress[1],
    }
    figures: dict[str, Any] = {f"{kind}_mae": _mae(item) for kind, item in residuals.items()}
    figures |= {f"{kind}_rmse": _rmse(item) for kind, item in residuals.items()}
    return Errors(
        structures=structures,
        labelled_energies=energy.size,
        labelled_forces=residuals["forces"].size // 3,
        labelled_stresses=residuals["stress"].size // 9,
        energy_shifted_mae=_mae(energy - energy.mean()) if energy.size else None,
        **figures,
    )


def _mae(residual: Array) -> float | None:
    return float(np.abs(residual).mean()) if residual.size else None


def _rmse(residual: Array) -> float | None:
    return float(np.sqrt(np.square(residual).mean())) if residual.size else None
