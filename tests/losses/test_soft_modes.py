"""Soft modes against the full Hessian."""

import torch

from finetune.data.graphs import GraphBatch, graph
from finetune.losses.frozen_foundation import FrozenFoundation
from finetune.losses.soft_modes import soft_modes
from finetune.potentials.mace.potential import MacePotential
from finetune.testing import MorsePotential
from tests.conftest import rattled, structure


def hessian(potential: torch.nn.Module, single: GraphBatch, step: float = 1e-4) -> torch.Tensor:
    rows = []
    for index in range(single.positions.numel()):
        move = torch.zeros_like(single.positions)
        move.view(-1)[index] = step
        plus, minus = (potential(single.displaced(s * move)).forces for s in (1, -1))
        rows.append((minus - plus).reshape(-1) / (2 * step))
    matrix = torch.stack(rows)
    return 0.5 * (matrix + matrix.T)


def single_of(name: str, cutoff: float) -> GraphBatch:
    return graph(structure(rattled(name, 1, 0.02)), cutoff, 0.1)


def test_they_are_the_lowest_of_the_full_hessian(potential: MacePotential) -> None:
    single = single_of("CH3OH", potential.cutoff)  # 18 coordinates, 12 of them internal
    found = soft_modes(potential, single, 12)
    assert found.directions.shape == (12, 6, 3)
    flat = found.directions.reshape(12, -1)
    torch.testing.assert_close(flat @ flat.T, torch.eye(12, dtype=flat.dtype), atol=1e-8, rtol=0)
    full = hessian(potential, single)
    projected = torch.linalg.eigvalsh(flat @ full @ flat.T)
    torch.testing.assert_close(found.curvatures, projected, rtol=1e-3, atol=1e-3)


def test_rigid_motions_are_left_out(potential: MacePotential) -> None:
    single = single_of("H2O", potential.cutoff)
    found = soft_modes(potential, single, 9)
    assert len(found.curvatures) == 3  # of nine coordinates, three are internal
    assert found.directions.sum(dim=1).abs().max().item() < 1e-8
    centred = single.positions - single.positions.mean(dim=0)
    spin = torch.linalg.cross(centred.expand(3, -1, -1), found.directions).sum(dim=1)
    assert spin.abs().max().item() < 1e-7


def test_larger_structures_get_soft_directions() -> None:
    potential = MorsePotential()
    single = single_of("C6H6", potential.cutoff)  # more coordinates than Lanczos steps
    found = soft_modes(potential, single, 4)
    spectrum = torch.linalg.eigvalsh(hessian(potential, single))
    assert found.curvatures.max().item() < 0.05 * spectrum.max().item()


def test_a_free_atom_has_none(potential: MacePotential) -> None:
    from ase import Atoms

    single = graph(structure(Atoms("H")), potential.cutoff, 0.1)
    assert soft_modes(potential, single, 3).directions.shape == (0, 1, 3)


def test_what_the_teacher_remembers_does_not_depend_on_the_batch(
    potential: MacePotential, mixed_graphs: list[GraphBatch]
) -> None:
    from finetune.data.graphs import concatenate

    together, alone = FrozenFoundation(potential), FrozenFoundation(potential)
    batch = concatenate(mixed_graphs)
    forces = together.base(batch, forces=True).forces
    assert forces is not None
    modes = together.soft_modes(batch, 2)
    for index, single in enumerate(mixed_graphs):
        mine = alone.base(single, forces=True).forces
        assert torch.equal(forces[batch.structure == index], mine)  # type: ignore[arg-type]
        assert torch.equal(modes[index].directions, alone.soft_modes(single, 2)[0].directions)
