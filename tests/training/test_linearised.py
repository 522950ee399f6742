"""Labels as rows, and the linear problem of the optimiser gauss-newton."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from scipy.stats import multivariate_normal

from finetune.core.errors import TrainingError
from finetune.data.graphs import GraphBatch, concatenate, graph
from finetune.export.calculator import PotentialCalculator
from finetune.recipe.loss_options import SUPERVISED
from finetune.training.optimisers import gauss_newton
from finetune.training.optimisers.gauss_newton import Linearised, log_likelihood, most_probable
from finetune.training.optimisers.label_rows import Rows, bases, label_rows, without_copies
from tests.conftest import rattled, structure
from tests.tiny import tiny_mace


def random_rows(kinds: list[int], weights: int, elements: int = 2) -> Rows:
    random = torch.Generator().manual_seed(3)
    energies = kinds.count(0)
    return Rows(
        residuals=torch.randn(len(kinds), generator=random, dtype=torch.float64),
        kinds=torch.tensor(kinds),
        internal=(torch.eye(kinds.count(1), dtype=torch.float64),),
        composition=torch.randint(1, 9, (energies, elements), generator=random).double(),
        gradients=torch.randn(len(kinds), weights, generator=random, dtype=torch.float64),
    )


def test_the_likelihood_is_that_of_a_normal_distribution() -> None:
    random = np.random.default_rng(0)
    half = random.normal(size=(5, 3))
    noise, targets = random.uniform(0.1, 1.0, 5), random.normal(size=5)
    expected = multivariate_normal.logpdf(targets, np.zeros(5), half @ half.T + np.diag(noise))
    assert log_likelihood(half @ half.T, noise, targets) == pytest.approx(expected, rel=1e-12)
    assert log_likelihood(-np.eye(5), np.zeros(5), targets) == -np.inf


@pytest.mark.parametrize("most", [10_000, 150])
def test_amplitude_and_noise_are_found_again(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr(gauss_newton, "MOST_ROWS", most)
    random = np.random.default_rng(1)
    half = random.normal(size=(400, 60))
    kinds = np.repeat([0, 1], 200)
    noise = np.array([0.3, 2.0])[kinds]
    targets = 3.0 * half @ random.normal(size=60) + noise * random.normal(size=400)
    found = most_probable(half @ half.T, targets, kinds)
    assert found.amplitude == pytest.approx(9.0, rel=0.5)
    np.testing.assert_allclose(np.sqrt(found.noise), [0.3, 2.0], rtol=0.25)


@pytest.mark.parametrize("kinds", [[0] * 9, [1] * 9, [0] * 5 + [1] * 6 + [2] * 9])
def test_the_solution_is_the_least_of_the_objective(kinds: list[int]) -> None:
    sizes = [4, 7, 19]
    rows = random_rows(kinds, sum(sizes))
    moved = torch.linspace(-1, 1, sum(sizes), dtype=torch.float64)
    problem = Linearised(rows, sizes, moved)
    targets = rows.residuals + rows.gradients @ moved
    weighted = rows.gradients.T / problem.noise
    normal = weighted @ rows.gradients + torch.diag(1 / problem.prior)
    torch.testing.assert_close(problem.solution, torch.linalg.solve(normal, weighted @ targets))

    def at(change: torch.Tensor) -> float:
        return problem.objective(targets - rows.gradients @ change, change)

    least = at(problem.solution)
    for seed in range(5):
        torch.manual_seed(seed)
        nudge = 1e-3 * torch.randn(sum(sizes), dtype=torch.float64)
        assert at(problem.solution + nudge) > least
    assert len({*torch.unique(problem.noise).tolist()}) == len(set(kinds))


def test_each_tensor_has_the_same_share_of_the_prior() -> None:
    sizes = [4, 26]
    rows = random_rows([0] * 9, sum(sizes))
    rows.gradients[:, :4] *= 1000.0
    rows = Rows(rows.residuals, rows.kinds, rows.composition, rows.internal, rows.gradients)
    problem = Linearised(rows, sizes, torch.zeros(sum(sizes), dtype=torch.float64))
    _, rest = bases(rows.composition)
    shares = [
        float(((rest.T @ rows.gradients)[:, part] ** 2 * problem.prior[part]).sum())
        for part in (slice(0, 4), slice(4, 30))
    ]
    assert shares[0] == pytest.approx(shares[1])


def test_what_reference_energies_explain_is_set_apart() -> None:
    composition = torch.tensor([[1.0, 4.0], [2.0, 8.0], [1.0, 3.0], [1.0, 4.0]]).double()
    offsets, rest = bases(composition)
    assert offsets.shape == (4, 2) and rest.shape == (4, 2)
    assert float((rest.T @ composition).abs().max()) < 1e-12
    one, others = bases(torch.full((5, 1), 3.0).double())
    assert one.shape == (5, 1) and others.shape == (5, 4)


@pytest.fixture(scope="module")
def labelled(diamond: Atoms) -> list[GraphBatch]:
    """Ethanol with energy and forces, methane with an energy, diamond with all labels."""
    teacher = PotentialCalculator(tiny_mace(seed=5))
    found = []
    for atoms, kinds in (
        (rattled("CH3CH2OH", 1), ("energy", "forces")),
        (rattled("CH4", 2), ("energy",)),
        (diamond.copy(), ("energy", "forces", "stress")),
    ):
        atoms.calc = teacher
        labels: dict[str, Any] = {
            "energy": atoms.get_potential_energy(),
            "forces": atoms.get_forces(),
            "stress": atoms.get_stress(voigt=False) if "stress" in kinds else None,
        }
        atoms.calc = None
        for kind in kinds:
            place = atoms.arrays if kind == "forces" else atoms.info
            place[f"REF_{kind}"] = labels[kind]
        found.append(graph(structure(atoms), tiny_mace().cutoff))
    return found


def test_rows_are_labels_and_their_gradients(labelled: list[GraphBatch]) -> None:
    potential = tiny_mace(seed=4)
    parameters = [item for item in potential.parameters() if item.requires_grad]
    batch = concatenate(labelled)
    rows = label_rows(potential, without_copies([batch]), SUPERVISED, parameters)
    assert torch.bincount(rows.kinds).tolist() == [3, 3 * 11, 6]
    prediction = potential(batch, stress=True)
    energies = (batch.energy - prediction.energy) / batch.atoms.sqrt()
    torch.testing.assert_close(rows.residuals[:3], energies.detach())
    torch.testing.assert_close(
        rows.composition * batch.atoms.sqrt()[:, None], potential.composition(batch)
    )
    torch.manual_seed(0)
    direction = [torch.randn_like(item) for item in parameters]
    step, found = 1e-5, []
    for sign in (1, -1):
        with torch.no_grad():
            for item, along in zip(parameters, direction, strict=True):
                item.add_(along, alpha=sign * step)
        found.append(label_rows(potential, without_copies([batch]), SUPERVISED).residuals)
        with torch.no_grad():
            for item, along in zip(parameters, direction, strict=True):
                item.add_(along, alpha=-sign * step)
    difference = (found[1] - found[0]) / (2 * step)
    flat = torch.cat([item.reshape(-1) for item in direction])
    torch.testing.assert_close(rows.gradients @ flat, difference, rtol=1e-5, atol=1e-6)
    alone = label_rows(potential, without_copies(labelled), ("forces",))
    torch.testing.assert_close(alone.residuals, rows.residuals[3:36])
    assert alone.composition.numel() == 0


def test_forces_know_what_moves_and_turns_for_nothing(labelled: list[GraphBatch]) -> None:
    potential = tiny_mace(seed=4)
    parameters = [item for item in potential.parameters() if item.requires_grad]
    rows = label_rows(potential, without_copies(labelled), SUPERVISED, parameters)
    assert [tuple(basis.shape) for basis in rows.internal] == [(27, 21), (6, 3)]
    gradients = rows.gradients[3 : 3 + 27]
    inside = rows.internal[0] @ (rows.internal[0].T @ gradients)
    torch.testing.assert_close(inside, gradients, atol=1e-9, rtol=0)
    atom = structure(Atoms("H"))
    alone = graph(replace(atom, energy=0.0, forces=np.zeros((1, 3))), potential.cutoff)
    parts = without_copies([*labelled, alone])
    lonely = label_rows(potential, parts, SUPERVISED, parameters)
    assert lonely.internal[2].shape == (3, 0)
    sizes = [item.numel() for item in parameters]
    problem = Linearised(lonely, sizes, torch.zeros(sum(sizes), dtype=torch.float64))
    assert bool(problem.solution.isfinite().all())


@pytest.mark.slow
def test_net_forces_and_torques_say_nothing_of_the_noise() -> None:
    random = np.random.default_rng(0)
    teacher, graphs = tiny_mace(seed=5), []
    for seed in range(6):
        atoms = rattled("CH3OH", seed)
        atoms.calc = PotentialCalculator(teacher)
        forces = atoms.get_forces() + random.normal(0.0, 0.1, (6, 3))
        plain = replace(structure(atoms), forces=forces)
        (basis,) = label_rows(
            teacher,
            without_copies([graph(plain, teacher.cutoff)]),
            ("forces",),
            [next(teacher.parameters())],
        ).internal
        inside = basis.numpy() @ (basis.numpy().T @ forces.reshape(-1))  # as programs make them
        graphs.append(graph(replace(plain, forces=inside.reshape(6, 3)), teacher.cutoff))
    potential = tiny_mace(seed=4)
    parameters = [item for item in potential.parameters() if item.requires_grad]
    rows = label_rows(potential, without_copies(graphs), ("forces",), parameters)
    sizes = [item.numel() for item in parameters]
    problem = Linearised(rows, sizes, torch.zeros(sum(sizes), dtype=torch.float64))
    assert float(problem.noise[0]) ** 0.5 > 0.03


@pytest.mark.slow
def test_copies_are_one_label_with_less_noise(labelled: list[GraphBatch]) -> None:
    potential = tiny_mace(seed=4)
    parameters = [item for item in potential.parameters() if item.requires_grad]
    ethanol, methane, crystal = labelled
    pieces = without_copies([concatenate([ethanol, methane, ethanol]), crystal, ethanol])
    assert [piece.copies.tolist() for piece in pieces] == [[3, 1, 1]]
    other = replace(methane, energy=methane.energy + 0.1)  # the same geometry, another label
    apart = without_copies([methane, other])
    assert [piece.copies.tolist() for piece in apart] == [[1], [1]]
    once = label_rows(potential, without_copies(labelled), SUPERVISED, parameters)
    rows = label_rows(potential, pieces, SUPERVISED, parameters)
    factor = torch.ones(len(once.kinds), dtype=torch.float64)
    factor[0] = factor[3 : 3 + 27] = 3**0.5
    torch.testing.assert_close(rows.residuals, once.residuals * factor)
    torch.testing.assert_close(rows.gradients, once.gradients * factor[:, None])
    torch.testing.assert_close(rows.composition, once.composition * factor[:3, None])


def test_forces_teach_where_reference_energies_explain_all_energies(
    labelled: list[GraphBatch],
) -> None:
    potential = tiny_mace(seed=4)
    parameters = [item for item in potential.parameters() if item.requires_grad]
    rows = label_rows(potential, without_copies(labelled[:1]), SUPERVISED, parameters)
    sizes = [item.numel() for item in parameters]
    problem = Linearised(rows, sizes, torch.zeros(sum(sizes), dtype=torch.float64))
    assert problem.offsets.shape == (1, 1)
    assert bool(problem.solution.isfinite().all()) and float(problem.solution.norm()) > 0
    assert float(problem.noise.min()) > 0


def test_weights_that_change_reference_energies_alone_are_refused() -> None:
    rows = random_rows([0] * 6, 3, elements=1)
    rows = Rows(
        rows.residuals, rows.kinds, rows.composition, rows.internal, rows.composition.repeat(1, 3)
    )
    with pytest.raises(TrainingError, match="nothing but what reference energies explain"):
        Linearised(rows, [3], torch.zeros(3, dtype=torch.float64))


def test_labels_that_the_foundation_has_right_change_nothing() -> None:
    rows = random_rows([0] * 6, 5)
    rows = Rows(0 * rows.residuals, rows.kinds, rows.composition, rows.internal, rows.gradients)
    problem = Linearised(rows, [5], torch.zeros(5, dtype=torch.float64))
    assert float(problem.solution.abs().max()) == 0


def test_what_is_not_finite_is_named() -> None:
    potential = tiny_mace(seed=4)
    frames = [structure(rattled("CH4", seed), f"here, structure {seed}") for seed in range(3)]
    graphs = [graph(replace(frame, energy=0.0), potential.cutoff) for frame in frames]
    graphs[1].positions[1] = graphs[1].positions[0]
    parameters = [item for item in potential.parameters() if item.requires_grad]
    with pytest.raises(TrainingError, match="here, structure 1: .*not finite"):
        label_rows(potential, without_copies(graphs), ("energy", "forces"), parameters)
