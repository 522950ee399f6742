"""What MACE itself says of a batch, without anything of this package in between."""

import torch

from finetune.core.units import Prediction
from finetune.data.graphs import GraphBatch

ABSOLUTE, RELATIVE = 1e-10, 1e-14
"""eV, eV/Å and eV/Å³; relative, since untrained networks may reach 1e6 eV."""


def predict(model: torch.nn.Module, batch: GraphBatch, head: int = 0) -> dict[str, torch.Tensor]:
    """Return energy ``[B]``, forces ``[N, 3]`` and stress ``[B, 3, 3]`` of a plain MACE model.

    The stress means nothing for structures without a cell.
    """
    numbers = model.atomic_numbers.tolist()
    element = torch.tensor([numbers.index(number) for number in batch.numbers.tolist()])
    dtype = next(model.parameters()).dtype
    shifts = batch.cell[batch.structure[batch.edge_index[0]]]
    ends = torch.cumsum(batch.atoms, 0)
    data = {
        "positions": batch.positions.clone().requires_grad_(True),
        "cell": batch.cell.reshape(-1, 3).clone(),
        "node_attrs": torch.nn.functional.one_hot(element, len(numbers)).to(dtype),
        "edge_index": batch.edge_index,
        "unit_shifts": batch.unit_shifts,
        "shifts": torch.einsum("ei,eij->ej", batch.unit_shifts, shifts),
        "batch": batch.structure,
        "ptr": torch.cat([torch.zeros(1, dtype=torch.int64), ends]),
        "head": torch.full_like(batch.atoms, head),
        "total_charge": batch.charge.to(dtype),
        "total_spin": batch.spin.to(dtype),
    }
    found = model(data, compute_force=True, compute_stress=True)
    return {name: found[name].detach() for name in ("energy", "forces", "stress")}


def assert_as_mace(
    found: Prediction, model: torch.nn.Module, batch: GraphBatch, head: int = 0
) -> None:
    """Assert that a prediction is that of a plain MACE model but for rounding."""
    expected = predict(model, batch, head)
    crystal = batch.pbc.all(dim=1)
    pairs = [(found.energy, expected["energy"]), (found.forces, expected["forces"])]
    if found.stress is not None:
        assert crystal.any()
        pairs.append((found.stress[crystal], expected["stress"][crystal]))
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, atol=ABSOLUTE, rtol=RELATIVE)
