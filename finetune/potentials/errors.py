"""Errors of a potential on labelled structures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
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
GRADIENT_ROWS = (
    ("force MAE of −dE/dr (components)", "gradient_forces_mae", "meV/Å"),
    ("force RMSE of −dE/dr (components)", "gradient_forces_rmse", "meV/Å"),
    ("force head against −dE/dr (components)", "inconsistency_mae", "meV/Å"),
)
"""What a table shows besides where a head predicts the forces."""

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
    # where a head predicts the forces; else empty:
    gradient_forces: Array = field(default_factory=_empty)  # −dE/dr, as forces [2, m], eV/Å
    consistency: Array = field(default_factory=_empty)  # head and −dE/dr, all atoms [2, l], eV/Å
    consistency_of: Indices = field(default_factory=_none)  # index of the structure [l / 3]


@dataclass(frozen=True)
class Errors:
    """Errors of a potential; None where there is no label of that kind.

    Energies are eV for a structure (``energy_*``) and eV/atom (``energy_per_atom_*``);
    ``energy_shifted_mae`` is what remains of the former after the mean error is taken away. Forces
    are eV/Å over components, stress eV/Å³ over components.

    Where a head predicts the forces, ``forces_*`` are its errors, ``gradient_forces_*`` those of
    −dE/dr, and ``inconsistency_mae`` the mean absolute difference of the two over the components
    of all atoms, labelled or not. ``jacobian_asymmetry`` is that of
    `finetune.evaluation.asymmetry`, where it was measured.
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
    gradient_forces_mae: float | None = None
    gradient_forces_rmse: float | None = None
    inconsistency_mae: float | None = None
    jacobian_asymmetry: float | None = None

    def as_dict(self) -> dict[str, float | int | None]:
        """Return the fields by name, ready for JSON; of a head for forces only if there is one."""
        of_a_head = {item.name for item in fields(self) if item.default is None}
        found: dict[str, float | int | None] = asdict(self)
        return {name: v for name, v in found.items() if name not in of_a_head or v is not None}


def predict(
    potential: Potential, graphs: Sequence[GraphBatch], batch_size: int = 16
) -> LabelledPredictions:
    """Evaluate a potential on structures; forces and stress only where they have labels.

    Where a head predicts the forces, its forces and −dE/dr are evaluated of all structures.
    """
    was_training = potential.training
    potential.eval()
    parts: dict[str, list[torch.Tensor]] = defaultdict(list)
    first = 0
    for batch in batches(graphs, batch_size):
        moved = batch.to(potential.device, potential.dtype)
        wanted = {name: bool(getattr(batch, f"has_{name}").any()) for name in ("forces", "stress")}
        if potential.direct_forces:
            wanted |= {"forces": True, "gradient": True}
        with torch.no_grad():
            found = potential(moved, **wanted, create_graph=False)
        for kind in ("energy", "forces", "stress"):
            predicted, has = getattr(found, kind), getattr(batch, f"has_{kind}")
            if predicted is not None:
                parts[kind].append(_pairs(predicted, getattr(batch, kind), has))
                owner = batch.structure if kind == "forces" else torch.arange(len(batch))
                parts[f"{kind}_of"].append(first + owner[has])
        if (gradient := found.gradient_forces) is not None:
            every = torch.ones_like(batch.has_forces)
            parts["gradient_forces"].append(_pairs(gradient, batch.forces, batch.has_forces))
            parts["consistency"].append(_pairs(found.forces, gradient, every))
            parts["consistency_of"].append(first + batch.structure)
        parts["atoms"].append(batch.atoms[batch.has_energy].double())
        if found.forces is not None:
            parts["numbers"].append(batch.numbers[batch.has_forces])
        first += len(batch)
    potential.train(was_training)
    joined = {name: torch.cat(items, dim=-1).cpu().numpy() for name, items in parts.items()}
    return LabelledPredictions(**joined)


def _pairs(first: torch.Tensor, second: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Return the chosen rows of both ``[2, m]``, in double precision on the CPU."""
    pair = torch.stack([item.detach().cpu().double() for item in (first, second)])
    return pair[:, chosen].reshape(2, -1)


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
        "gradient_forces": predictions.gradient_forces[0] - predictions.gradient_forces[1],
    }
    figures: dict[str, Any] = {f"{kind}_mae": _mae(item) for kind, item in residuals.items()}
    figures |= {f"{kind}_rmse": _rmse(item) for kind, item in residuals.items()}
    return Errors(
        structures=structures,
        labelled_energies=energy.size,
        labelled_forces=residuals["forces"].size // 3,
        labelled_stresses=residuals["stress"].size // 9,
        energy_shifted_mae=_mae(energy - energy.mean()) if energy.size else None,
        inconsistency_mae=_mae(predictions.consistency[0] - predictions.consistency[1]),
        **figures,
    )


def _mae(residual: Array) -> float | None:
    return float(np.abs(residual).mean()) if residual.size else None


def _rmse(residual: Array) -> float | None:
    return float(np.sqrt(np.square(residual).mean())) if residual.size else None
