"""PITC, PISC, second differences and strains against sums over pairs written out in NumPy."""

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from numpy.typing import NDArray

from finetune.data.graphs import GraphBatch, concatenate, graph
from finetune.losses.loss import Loss, LossContext, Site
from finetune.recipe.plugins import losses
from finetune.testing import LennardJonesPotential, MorsePotential, PairPotential
from tests.conftest import rattled, structure

Array = NDArray[np.float64]
Pair = Callable[[Array], tuple[Array, Array]]
EXACT = 1e-10


def morse(r: Array) -> tuple[Array, Array]:
    decay = np.exp(-1.9 * (r - 1.1))
    return 4.0 * ((1 - decay) ** 2 - 1), 8.0 * 1.9 * (1 - decay) * decay


def lennard_jones(r: Array) -> tuple[Array, Array]:
    sixth = (3.4 / r) ** 6
    return 0.0416 * (sixth**2 - sixth), 0.0416 * (-12 * sixth**2 + 6 * sixth) / r


def lattice_sum(
    pair: Pair, cutoff: float, positions: Array, cell: Array, images: int
) -> tuple[float, Array, Array]:
    """Energy, forces and virial Σ r ⊗ ∂E/∂r of all pairs within the cutoff."""
    energy, forces, virial = 0.0, np.zeros_like(positions), np.zeros((3, 3))
    for shift in product(range(-images, images + 1), repeat=3):
        vectors = positions[None] - positions[:, None] + np.array(shift) @ cell
        r = np.linalg.norm(vectors, axis=-1)
        i, j = np.nonzero((r > 1e-9) & (r < cutoff))
        r, unit = r[i, j], vectors[i, j] / r[i, j][:, None]
        value, slope = pair(r)
        inside = 1 - (r / cutoff) ** 2
        slope = slope * inside**3 - value * 6 * r / cutoff**2 * inside**2
        energy += 0.5 * float((value * inside**3).sum())
        np.add.at(forces, i, slope[:, None] * unit)
        virial += 0.5 * np.einsum("e,ex,ey->xy", slope * r, unit, unit)
    return energy, forces, virial


class Molecules:
    potential: PairPotential = MorsePotential()
    pair, cutoff, images = staticmethod(morse), 4.0, 0

    def atoms(self) -> list[Atoms]:
        return [rattled(name, 3) for name in ("CH3CH2OH", "H2O", "CH4")]


class Crystals:
    potential: PairPotential = LennardJonesPotential()
    pair, cutoff, images = staticmethod(lennard_jones), 8.0, 4

    def atoms(self) -> list[Atoms]:
        random = np.random.default_rng(0)
        crystals = [bulk("Ar", "fcc", 5.3, cubic=cubic) for cubic in (True, False)]
        for atoms in crystals:
            atoms.positions += random.normal(0.0, 0.1, atoms.positions.shape)
        return crystals


SYSTEMS = {"Morse molecules": Molecules(), "Lennard-Jones crystals": Crystals()}


@pytest.fixture(params=SYSTEMS.values(), ids=SYSTEMS.keys())
def system(request: pytest.FixtureRequest) -> Molecules | Crystals:
    return request.param  # type: ignore[no-any-return]


def evaluate(
    system: Molecules | Crystals, batch: GraphBatch
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    found = [
        lattice_sum(
            system.pair,
            system.cutoff,
            batch.positions[batch.structure == index].numpy(),
            batch.cell[index].numpy(),
            system.images,
        )
        for index in range(len(batch))
    ]
    return (
        torch.tensor([energy for energy, _, _ in found], dtype=torch.float64),
        torch.from_numpy(np.concatenate([forces for _, forces, _ in found])),
        torch.from_numpy(np.stack([virial for _, _, virial in found])),
    )


def built(name: str, **options: object) -> Loss:
    return losses.get(name)(losses.options(name).model_validate(options))  # type: ignore[arg-type]


def seen_by(system: Molecules | Crystals, loss: Loss) -> LossContext:
    batch = concatenate([graph(structure(a), system.cutoff, 1.5) for a in system.atoms()])
    generator = torch.Generator().manual_seed(0)
    return LossContext(batch, system.potential, loss.requests(batch), generator)


def test_the_potentials_are_those_of_the_sums(system: Molecules | Crystals) -> None:
    batch = concatenate([graph(structure(a), system.cutoff) for a in system.atoms()])
    found = system.potential(batch, stress=True)
    energy, forces, virial = evaluate(system, batch)
    torch.testing.assert_close(found.energy, energy, rtol=EXACT, atol=0)
    torch.testing.assert_close(found.forces, forces, rtol=EXACT, atol=EXACT)
    if batch.pbc.all():
        stress = virial / batch.volume[:, None, None]
        torch.testing.assert_close(found.stress, stress, rtol=EXACT, atol=EXACT)


@pytest.mark.parametrize("form", ["one_sided", "symmetric"])
def test_pitc(system: Molecules | Crystals, form: str) -> None:
    loss = built("pitc", form=form, displacement=0.1, normalise="per_structure")
    seen = seen_by(system, loss)
    moved = seen.displacement(Site(loss.options.displaced))  # type: ignore[attr-defined]
    energy, forces, _ = evaluate(system, seen.batch)
    plus, _, _ = evaluate(system, seen.batch.displaced(moved))
    minus, _, _ = evaluate(system, seen.batch.displaced(-moved))
    work = seen.batch.sum_atoms((moved * forces).sum(dim=1))
    residual = plus - energy + work if form == "one_sided" else 0.5 * (plus - minus) + work
    expected = residual.square().mean().item()
    assert loss(seen).item() == pytest.approx(expected, rel=EXACT)


def test_pisc(system: Molecules | Crystals) -> None:
    loss = built("pisc", displacement=0.1, distance="huber", huber_delta=1e-3)
    seen = seen_by(system, loss)
    displaced = loss.options.displaced  # type: ignore[attr-defined]
    first, second = (seen.displacement(Site(displaced, copy=copy)) for copy in (0, 1))
    here, _, _ = evaluate(system, seen.batch.displaced(first))
    there, forces, _ = evaluate(system, seen.batch.displaced(second))
    work = seen.batch.sum_atoms(((first - second) * forces).sum(dim=1))
    residual = ((here - there + work) / seen.batch.atoms).abs()
    huber = torch.where(residual < 1e-3, 0.5 * residual**2, 1e-3 * (residual - 0.5e-3))
    assert loss(seen).item() == pytest.approx(huber.mean().item(), rel=EXACT)


def test_second_differences(system: Molecules | Crystals) -> None:
    loss = built("second_difference", displacement={"kind": "sphere", "size": 0.1})
    seen = seen_by(system, loss)
    moved = seen.displacement(Site(loss.options.displaced))  # type: ignore[attr-defined]
    energies = [evaluate(system, seen.batch.displaced(s * moved))[0] for s in (1, 0, -1)]
    residual = 0.5 * (energies[0] + energies[2]) - energies[1]
    expected = (residual / seen.batch.atoms).square().mean().item()
    assert loss(seen).item() == pytest.approx(expected, rel=EXACT)


@pytest.mark.parametrize("form", ["one_sided", "symmetric"])
def test_strains_of_crystals(form: str) -> None:
    system = Crystals()
    loss = built("strain", form=form, strain=0.02)
    seen = seen_by(system, loss)
    (strain,) = seen.drawn.values()
    energy, _, virial = evaluate(system, seen.batch)
    plus, _, _ = evaluate(system, seen.batch.strained(strain))
    minus, _, _ = evaluate(system, seen.batch.strained(-strain))
    work = (strain * virial).sum(dim=(1, 2))
    residual = plus - energy - work if form == "one_sided" else 0.5 * (plus - minus) - work
    expected = (residual / seen.batch.atoms).square().mean().item()
    assert loss(seen).item() == pytest.approx(expected, rel=EXACT)


@pytest.mark.parametrize(("form", "order"), [("one_sided", 2), ("symmetric", 3)])
def test_remainders_of_strains_shrink_with_the_power_of_their_size(form: str, order: int) -> None:
    values = []
    for size in (2e-3, 1e-3):
        loss = built("strain", form=form, strain=size, distance="absolute")
        values.append(loss(seen_by(Crystals(), loss)).item())
    assert values[0] / values[1] == pytest.approx(2.0**order, rel=0.03)


def test_strains_are_about_periodic_structures_alone() -> None:
    loss, crystals = built("strain"), Crystals()
    graphs = [graph(structure(a), crystals.cutoff, 0.5) for a in crystals.atoms()]
    molecule = graph(structure(rattled("H2O", 1)), crystals.cutoff, 0.5)
    assert loss.requests(molecule) == []
    mixed, alone = concatenate([*graphs, molecule]), concatenate(graphs)
    drawn: dict[Site, torch.Tensor] = {}
    values = []
    for batch in (mixed, alone):
        asked = loss.requests(batch)
        drawn = {site: values[:2] for site, values in drawn.items()}
        generator = torch.Generator().manual_seed(0)
        seen = LossContext(batch, crystals.potential, asked, generator, drawn=drawn)
        drawn = seen.drawn
        values.append(loss(seen).item())
    assert values[0] == pytest.approx(values[1], rel=1e-12)
