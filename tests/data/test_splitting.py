"""Splits divide what is asked for, leave nothing out, and never divide duplicates."""

from dataclasses import replace

import numpy as np
import pytest
from ase.build import bulk

from finetune.core.errors import DataError
from finetune.data.duplicates import clusters
from finetune.data.splitting import KINDS, shortfalls, split
from finetune.data.structures import Structure
from tests.conftest import rattled, structure


def moved(item: Structure, seed: int, noise: float = 0.0) -> Structure:
    """Turn, mirror and shift a structure and exchange like atoms."""
    random = np.random.default_rng(seed)
    rotation = np.linalg.qr(random.normal(size=(3, 3)))[0]
    order = random.permutation(len(item))
    positions = item.positions + random.uniform(-noise, noise, item.positions.shape)
    shifted = positions @ rotation + random.normal(size=3)
    return replace(
        item, numbers=item.numbers[order], positions=shifted[order], cell=item.cell @ rotation
    )


@pytest.fixture(scope="module")
def several() -> list[Structure]:
    """Sixty structures of three formulas; every fifth is the one before, moved."""
    found: list[Structure] = []
    for index in range(60):
        name = ("CH3OH", "NH3", "CH4")[index // 20]
        where = f"'{name}.xyz', structure {index}"
        item = structure(rattled(name, index), where)
        if index % 5 == 4:
            item = moved(found[-1], index, 1e-5)
        found.append(replace(item, where=where, energy=-100.0 + np.cos(index - (index % 5 == 4))))
    return found


def test_duplicates_are_found_however_they_lie(several: list[Structure]) -> None:
    numbers = clusters(several)
    assert len(set(numbers.tolist())) == 48
    assert all(numbers[index] == numbers[index - 1] for index in range(4, 60, 5))
    charged = [several[0], replace(several[0], charge=1)]
    assert len(set(clusters(charged).tolist())) == 2
    near = [several[0], replace(several[0], positions=several[0].positions * 1.001)]
    assert [len(set(clusters(near, size).tolist())) for size in (1e-4, 0.1)] == [2, 1]


def test_periodic_duplicates_are_found_in_other_images_and_orders() -> None:
    atoms = bulk("Si") * (2, 2, 1)
    atoms.rattle(0.1, seed=1)
    other = atoms[::-1]
    other.positions += [3.0, 1.0, -2.0]
    other.wrap()
    third = atoms.copy()
    third.positions[0] += 0.1
    numbers = clusters([structure(item) for item in (atoms, other, third)])
    assert numbers[0] == numbers[1] != numbers[2]


@pytest.mark.parametrize("kind", KINDS)
def test_parts_are_whole_seeded_and_share_no_duplicate(kind: str, several: list[Structure]) -> None:
    sizes = {"train": 0.0, "valid": 0.2, "test": 0.2}
    parts = split(several, sizes, kind, seed=1, block=5)  # type: ignore[arg-type]
    assert parts == split(several, sizes, kind, seed=1, block=5)  # type: ignore[arg-type]
    assert sorted(sum(parts.values(), [])) == list(range(60))
    numbers = clusters(several)
    held = {name: set(numbers[indices].tolist()) for name, indices in parts.items()}
    assert not held["train"] & held["test"] and not held["train"] & held["valid"]
    if kind != "composition":
        assert len(parts["test"]) == pytest.approx(12, abs=5)
    if kind == "random":
        assert parts != split(several, sizes, kind, seed=2)
    if kind == "composition":
        assert [
            len({np.sort(several[i].numbers).tobytes() for i in p}) for p in parts.values()
        ] == [1, 1, 1]
    if kind == "block":
        for indices in parts.values():
            assert {index // 5 for index in indices} == {i // 5 for i in indices[::5]}


def test_a_split_by_energy_extrapolates(several: list[Structure]) -> None:
    alike = [item for item in several if len(item) == 6]
    parts = split(alike, {"train": 0.0, "test": 5}, "energy")
    energies = [[alike[index].energy or 0.0 for index in p] for p in parts.values()]
    assert max(energies[0]) <= min(energies[1])
    with pytest.raises(DataError, match="has no energy to split by"):
        split([replace(alike[0], energy=None), *alike], {"train": 0.5}, "energy")


def test_parts_that_are_not_as_large_as_was_asked_for_are_told() -> None:
    sizes = {"train": 8, "test": 2}
    assert shortfalls({"train": range(8), "test": range(2)}, 10, sizes, "random") == []
    (told,) = shortfalls({"train": range(7), "test": range(3)}, 10, sizes, "composition")
    assert "train has 7 structures, 8 were asked for; test has 3 structures, 2 were" in told
    assert "structures of one formula and duplicates are not divided" in told


@pytest.mark.parametrize(
    "sizes",
    [
        {"train": 0.0, "test": 60.0},
        {"train": 40.0, "test": 30.0},
        {"train": -1.0},
        {"train": 0.0, "test": 1.5},
        {"train": float("nan")},
        {"train": float("inf")},
    ],
)
def test_sizes_that_do_not_fit_are_refused(
    sizes: dict[str, float], several: list[Structure]
) -> None:
    with pytest.raises(DataError, match="cannot be divided|fraction below 1"):
        split(several, sizes)
    with pytest.raises(DataError, match="stays empty"):
        split(several[:20], {"train": 0.0, "test": 0.1}, "composition")
