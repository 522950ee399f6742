"""Structures that several files label."""

from pathlib import Path

import ase.io
import pytest
from ase.build import molecule

from tests.conftest import rattled


@pytest.fixture(scope="session")
def molecules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pool") / "pool.xyz"
    frames = [rattled(name, seed) for seed, name in enumerate(("CH3OH", "H2O", "CH3OH", "CH4"))]
    radical = molecule("OH")
    radical.info.update(spin=2, config_type="radical", REF_energy=1.0, level_of_theory="guess")
    ase.io.write(path, [*frames, radical])
    return path
