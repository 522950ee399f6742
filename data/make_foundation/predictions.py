"""Energies and forces of a model for many configurations."""

from __future__ import annotations

import numpy as np
from mace.modules.models import ScaleShiftMACE
from numpy.typing import NDArray

from .dataset import Configurations, batch_of, labels_of, ordered_batches


def predict(
    model: ScaleShiftMACE, data: Configurations, indices: NDArray[np.int64], batch_size: int = 32
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Total energies (eV) and forces (eV/Å) of the configurations ``indices``.

    The atomic energies are added in double precision: in single precision the total energy of
    a molecule is only known to about 0.1 meV.
    """
    dtype = next(model.parameters()).dtype
    reference = model.atomic_energies_fn.atomic_energies.double().numpy().ravel()
    composition = data.composition()[indices]
    energies, forces = [], []
    for chunk in ordered_batches(indices, batch_size):
        out = model(batch_of(data, chunk, dtype))
        energies.append(out["interaction_energy"].detach().double().numpy())
        forces.append(out["forces"].detach().double().numpy())
    return np.concatenate(energies) + composition @ reference, np.concatenate(forces)


def force_and_energy_mae(
    model: ScaleShiftMACE, data: Configurations, indices: NDArray[np.int64]
) -> tuple[float, float]:
    """Mean absolute errors of force components (eV/Å) and of energies per atom (eV/atom)."""
    energies, forces = predict(model, data, indices)
    energy_labels, force_labels = labels_of(data, indices)
    per_atom = (energies - energy_labels) / data.n_atoms[indices]
    return float(np.abs(forces - force_labels).mean()), float(np.abs(per_atom).mean())
