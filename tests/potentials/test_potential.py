"""What a MACE holds beyond the suite of every potential."""

import pytest
import torch
from ase.build import molecule

from finetune.core.errors import FoundationError
from finetune.data.graphs import GraphBatch, graph
from finetune.potentials.mace.potential import MacePotential
from tests.conftest import rattled, structure
from tests.tiny import tiny_mace


def test_single_precision_keeps_total_energies_exact_in_the_references(
    potential: MacePotential,
) -> None:
    item = graph(structure(rattled("CH3CH2OH", 6)), potential.cutoff)
    single = tiny_mace().float()
    assert single.reference_energies.dtype == torch.float64
    found = single(item.to(torch.device("cpu"), torch.float32))
    assert found.energy.dtype == torch.float64
    assert found.forces.dtype == torch.float32
    assert abs(found.energy - potential(item).energy).item() < 1e-5


def test_nothing_but_energies_is_computed_unasked(
    potential: MacePotential, mixed_graphs: list[GraphBatch], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a gradient was taken")

    monkeypatch.setattr(torch.autograd, "grad", refuse)
    found = potential(mixed_graphs[0], forces=False)
    assert found.forces is None
    assert found.stress is None


def test_unknown_elements_are_named(potential: MacePotential) -> None:
    with pytest.raises(FoundationError, match=r"knows H C N O but not .*Cl"):
        potential(graph(structure(molecule("CH3Cl")), potential.cutoff))
