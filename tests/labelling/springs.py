"""Structures, a recipe that is soon computed, and what its labels are."""

from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
from ase import Atoms

from finetune.data.structures import Structure

SLOW = "tests.labelling.slow_calculator.Slow"
XTB = {"program": "tblite"}
ROOT = Path(__file__).resolve().parents[2]


def springs(pool: Path, output: Path, seconds: float = 0.0, **changes: Any) -> dict[str, Any]:
    arguments = {"seconds": seconds, "log": str(output.with_suffix(".log"))}
    level = {"program": "ase", "calculator": SLOW, "arguments": arguments}
    return {"structures": str(pool), "level": level, "output": str(output), **changes}


def computed(output: Path) -> list[str]:
    """Return what the calculator was asked for, structure by structure."""
    log = output.with_suffix(".log")
    return [line.split()[0] for line in log.read_text().splitlines()] if log.exists() else []


def pool_of(path: Path, count: int = 6, numbers: tuple[int, ...] = ()) -> Path:
    frames = [Atoms([1], [[index + 1.0, 0.5, 0.0]]) for index in range(count)]
    frames += [Atoms([number], [[100.0 + number, 0.0, 0.0]]) for number in numbers]
    ase.io.write(path, frames)
    return path


def assert_springs(structures: Any) -> None:
    for item in structures:
        assert isinstance(item, Structure)
        assert item.energy == pytest.approx((item.positions**2).sum())
        np.testing.assert_allclose(item.forces, -2 * item.positions)
