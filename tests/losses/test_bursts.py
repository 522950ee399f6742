"""Bursts of dynamics: the right temperature, the right bounds, the same every time."""

import pytest
import torch
from ase import Atoms, units

from finetune.data.graphs import GraphBatch, graph
from finetune.losses.soft_modes import thermal_displacements
from finetune.testing import HarmonicPotential
from tests.conftest import rattled, structure


def lattice(atoms: int = 64) -> GraphBatch:
    return graph(structure(Atoms(f"C{atoms}", [[3.0 * i, 0.0, 0.0] for i in range(atoms)])), 1.0)


class Tethered(HarmonicPotential):
    """Every atom in a well at its own place in the lattice."""

    def interaction(self, batch, element, strain):  # type: ignore[no-untyped-def]
        positions = batch.positions.detach().requires_grad_(torch.is_grad_enabled())
        away = positions - 3.0 * torch.round(positions / 3.0)
        return 0.5 * self.stiffness * away.square().sum(dim=1), positions, None


def test_the_spread_in_a_well_is_that_of_equipartition() -> None:
    stiffness, temperature = 20.0, 400.0
    frames = thermal_displacements(Tethered(stiffness), lattice(), temperature, 1000.0, 1.0)
    variance = frames[200:].square().mean().item()
    assert variance == pytest.approx(units.kB * temperature / stiffness, rel=0.06)


def test_a_burst_repeats_and_does_not_drift() -> None:
    single = graph(structure(rattled("CH3CH2OH", 1)), 1.0)
    first, again = (
        thermal_displacements(HarmonicPotential(0.1), single, 300.0, 20.0, 1.0) for _ in range(2)
    )
    assert torch.equal(first, again)
    assert first.sum(dim=1).abs().max().item() < 1e-12
    assert len(first) == 17  # of twenty frames, those from the fourth on


def test_frames_that_go_too_far_are_left_out() -> None:
    single = graph(structure(rattled("CH3CH2OH", 1)), 1.0)
    frames = thermal_displacements(HarmonicPotential(), single, 300.0, 50.0, 0.05)
    assert 1 <= len(frames) < 41
    assert frames.norm(dim=2).max().item() <= 0.05
    tiny = thermal_displacements(HarmonicPotential(), single, 300.0, 50.0, 1e-3)
    assert tiny.shape[0] == 1
    assert tiny.norm(dim=2).max().item() == pytest.approx(1e-3)
