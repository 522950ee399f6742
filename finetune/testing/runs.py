"""Small real runs, for suites that test a complete run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
from ase.build import molecule

import finetune
from finetune.core.errors import FoundationError
from finetune.data.graphs import graph
from finetune.data.structures import without_labels
from finetune.export.formats import check_plain, write_file
from finetune.potentials import storage
from finetune.potentials.family import family
from finetune.potentials.potential import Potential
from finetune.testing.analytic import small_potential

EXPORTED = 1e-8
"""eV and eV/Å: a potential and its export."""
ROUNDED = 1e-3
"""The same where the export is in single precision: of total energies of thousands of eV."""
_SPLITS = {"train": 6, "valid": 3, "test": 3}


class Workspace:
    """An empty folder with a stored foundation, and structures labelled by another potential."""

    def __init__(self, folder: Path, foundation: Potential) -> None:
        self.folder = folder
        storage.save(foundation, folder / "foundation", {"name": "tiny"})
        labelling, random = small_potential(seed=1), np.random.default_rng(0)
        for split, count in _SPLITS.items():
            frames = []
            for index in range(count):
                atoms = molecule(("CH3OH", "H2O")[index % 2])
                atoms.positions += random.normal(0.0, 0.1, atoms.positions.shape)
                item = graph(without_labels(atoms, "structure"), labelling.cutoff)
                found = labelling(item, create_graph=False)
                assert found.forces is not None
                atoms.info["REF_energy"] = float(found.energy) + 1.0 * len(atoms)
                atoms.arrays["REF_forces"] = found.forces.numpy()
                frames.append(atoms)
            ase.io.write(folder / f"{split}.xyz", frames)
        self.test = folder / "test.xyz"

    def recipe(
        self, name: str, adapter: Mapping[str, Any], train: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Return a recipe of three epochs of a step with averaged weights, into folder ``name``."""
        return {
            "foundation": str(self.folder / "foundation"),
            "data": {split: str(self.folder / f"{split}.xyz") for split in _SPLITS},
            "adapter": dict(adapter),
            "losses": {"energy": {"weight": 1.0}, "forces": {"weight": 0.1}, "pitc": {}},
            "train": {
                **{"epochs": 3, "batch_size": 6, "learning_rate": 1e-3, "ema": 0.5},
                **{"device": "cpu", **(train or {})},
            },
            "output": str(self.folder / name),
        }

    def stop_and_resume(self, name: str, adapter: Mapping[str, Any]) -> None:
        """Run into folder ``name``, stopped after the first epoch and resumed."""
        finetune.run(self.recipe(name, adapter, {"max_hours": 1e-9}))
        assert len(self._epochs(name)) == 2
        finetune.run(self.recipe(name, adapter, {"max_hours": 1.0}), resume="must")
        assert len(self._epochs(name)) == 4

    def weights(self, name: str) -> bytes:
        """Return the tuned weights of a run, as they are stored."""
        return (self.folder / name / "model" / "model.safetensors").read_bytes()

    def check_export(self, name: str) -> None:
        """Export a run as a file that predicts the same, or see that it is refused."""
        found, path = finetune.load_foundation(self.folder / name), self.folder / f"{name}.exported"
        if found.adapters:
            with pytest.raises(FoundationError, match=found.adapters[-1]["kind"]):
                check_plain(found)
            with pytest.raises(FoundationError, match="not a plain potential"):
                write_file(found.potential, path)
            assert not path.exists()
            return
        check_plain(found)
        inside = storage.family_potential(found.potential)
        formats = family(inside.family).formats()
        if not formats:
            with pytest.raises(FoundationError, match="no format of other programs"):
                write_file(found.potential, path)
            return
        write_file(found.potential, path)
        opened = finetune.load_foundation(path, head=inside.head_name).potential
        batch = graph(without_labels(ase.io.read(self.test), "structure"), opened.cutoff)
        here, there = (item(batch, create_graph=False) for item in (found.potential, opened))
        own = next(iter(formats.values()))
        tolerance = ROUNDED if own.single else EXPORTED
        assert float((here.energy - there.energy).abs()) < tolerance
        assert float((here.forces - there.forces).abs().max()) < tolerance

    def _epochs(self, name: str) -> list[str]:
        return (self.folder / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines()


def train_in_two_processes(recipe: Mapping[str, Any], module: str) -> None:
    """Run a recipe, written next to its output, in two processes that import ``module`` first."""
    path = Path(recipe["output"]).with_suffix(".json")
    path.write_text(json.dumps(dict(recipe)), encoding="utf-8")
    script = path.with_suffix(".py")
    script.write_text(
        "import importlib, sys, torch\n"
        "torch.set_num_threads(1)\n"
        f"importlib.import_module({module!r})\n"
        "import finetune\n"
        f"finetune.run({str(path)!r})\n",
        encoding="utf-8",
    )
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *launch, str(script)],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
