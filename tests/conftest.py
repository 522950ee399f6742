import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from matplotlib.figure import Figure

import finetune
from finetune.data.graphs import GraphBatch, graph
from finetune.data.structures import Structure, from_atoms
from finetune.export.calculator import PotentialCalculator
from finetune.potentials.mace.potential import MacePotential
from finetune.potentials.storage import save
from finetune.recipe.recipe import Recipe
from finetune.recipe.sections import LabelKeys
from finetune.training.records import Silent
from tests.tiny import tiny_mace

torch.set_num_threads(1)


def structure(atoms: Atoms, where: str = "test") -> Structure:
    return from_atoms(atoms, LabelKeys(), where)


def rattled(name: str, seed: int, amplitude: float = 0.1) -> Atoms:
    atoms = molecule(name)
    atoms.positions += np.random.default_rng(seed).normal(0.0, amplitude, atoms.positions.shape)
    return atoms


class Heard(Silent):
    """Keeps what was said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, message: str) -> None:
        self.lines.append(message)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of downloads and conversions of its own, so that tests leave the user's alone."""
    folder = tmp_path_factory.mktemp("cache")
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(folder)
    yield folder
    if before is None:
        del os.environ["XDG_CACHE_HOME"]
    else:
        os.environ["XDG_CACHE_HOME"] = before


@pytest.fixture(scope="session", autouse=True)
def undrawn() -> Iterator[Any]:
    """Save figures empty: to draw them takes half the time of a short run. See `drawn`."""
    save, empty = Figure.savefig, Figure(figsize=(1, 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", lambda _, *given, **named: save(empty, *given, **named))
        yield save


@pytest.fixture
def drawn(undrawn: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Save figures as users see them."""
    monkeypatch.setattr(Figure, "savefig", undrawn)


@pytest.fixture(scope="session")
def potential() -> MacePotential:
    return tiny_mace()


@pytest.fixture(scope="session")
def diamond() -> Atoms:
    atoms = bulk("C", "diamond", 3.5, cubic=False)
    atoms.positions[1] += [0.05, -0.08, 0.03]
    return atoms


@pytest.fixture(scope="session")
def mixed(diamond: Atoms) -> list[Structure]:
    """Structures of different sizes: molecules, a free atom and a crystal."""
    molecules = [rattled(name, 1) for name in ("CH3CH2OH", "CH4", "NH3")]
    return [structure(atoms) for atoms in (*molecules, Atoms("H"), diamond)]


@pytest.fixture(scope="session")
def mixed_graphs(mixed: list[Structure], potential: MacePotential) -> list[GraphBatch]:
    return [graph(item, potential.cutoff) for item in mixed]


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a stored foundation and sparse labels of another potential.

    Energies only to train and validate on, energies and forces to test on.
    """
    folder = tmp_path_factory.mktemp("workspace")
    save(tiny_mace(seed=0), folder / "foundation", {"name": "tiny"})
    teacher = PotentialCalculator(tiny_mace(seed=1))
    for split, count in (("train", 12), ("valid", 6), ("test", 6)):
        frames = []
        for index in range(count):
            atoms = rattled(("CH3CH2OH", "CH3OH")[index % 2], seed=100 * count + index)
            atoms.calc = teacher
            energy, forces = atoms.get_potential_energy(), atoms.get_forces()
            atoms.calc = None
            atoms.info["REF_energy"] = energy + 7.0 * len(atoms)
            if split == "test":
                atoms.arrays["REF_forces"] = forces
            frames.append(atoms)
        ase.io.write(folder / f"{split}.xyz", frames)
    return folder


def recipe_for(workspace: Path, output: Path | str, **changes: object) -> Recipe:
    mapping: dict[str, object] = {
        "foundation": str(workspace / "foundation"),
        "data": {split: str(workspace / f"{split}.xyz") for split in ("train", "valid", "test")},
        "losses": {
            "energy": {"weight": 1.0},
            "pitc": {"weight": 0.1, "displacement": 0.05},
            "pisc": {"weight": 0.01, "displacement": 0.05},
        },
        "train": {"epochs": 4, "learning_rate": 0.01},
        "output": str(output),
        **changes,
    }
    return Recipe.parse(mapping)


def committee_recipe(workspace: Path, output: Path, **changes: Any) -> Recipe:
    given = {
        "losses": {"energy": {}},
        "train": {"epochs": 2, "learning_rate": 0.01, "ema": 0.5, "checkpoint_seconds": 0},
        "committee": {"members": 2, "labels": "bootstrap"},
        "adapter": {"kind": "readout"},
    }
    return recipe_for(workspace, output, **{**given, **changes})


@pytest.fixture(scope="session")
def committee(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> finetune.RunResult:
    """Two members, trained."""
    return finetune.run(committee_recipe(workspace, tmp_path_factory.mktemp("committee") / "run"))
