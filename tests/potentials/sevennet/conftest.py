import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms

from finetune.data.graphs import GraphBatch
from finetune.potentials.archive import Content, read_archive
from finetune.potentials.family import family
from finetune.potentials.sevennet.network import Network, construct
from finetune.potentials.sevennet.potential import SevenNetPotential
from finetune.potentials.sevennet.settings import SevenNetSettings
from finetune.potentials.sevennet.writing import checkpoint
from finetune.testing.comparing import graph_of

FAMILY = family("sevennet")
REFERENCES: dict[str, Any] = json.loads((Path(__file__).parent / "references.json").read_text())
CHECKPOINTS = "SEVENNET_CHECKPOINTS"
"""Variable that names a folder with an unpacked wheel of sevenn, or where sevenn is installed."""
WHEEL = "sevenn==0.13.0"


def frame(name: str) -> Atoms:
    item = REFERENCES["structures"][name]
    return Atoms(item["numbers"], item["positions"], cell=item["cell"], pbc=item["pbc"])


def batch_of(name: str, potential: SevenNetPotential) -> GraphBatch:
    return graph_of(frame(name), potential).to(torch.device("cpu"), potential.dtype)


def example(**changes: Any) -> SevenNetSettings:
    return SevenNetSettings(**{**FAMILY.example().model_dump(), **changes})


def built(
    settings: SevenNetSettings, head: str | None = None, dtype: torch.dtype = torch.float64
) -> SevenNetPotential:
    """Return a potential whose weights depend on the settings alone; a new one for each call."""
    return SevenNetPotential(settings, deepcopy(_network(settings, dtype)), head).eval()


@cache
def _network(settings: SevenNetSettings, dtype: torch.dtype) -> Network:
    torch.manual_seed(0)
    return construct(settings, dtype)


def channels(**changes: Any) -> SevenNetSettings:
    """Return settings of a network that is told the channel in all layers that can be."""
    given: dict[str, Any] = {
        "heads": ("low", "high"),
        "head_layers": ("embedding", "before", "after", "readout"),
        "shift": ((-13.0, -1030.0, -1480.0, -2040.0), (-14.0, -1031.0, -1481.0, -2041.0)),
        "scale": ((1.5, 1.5, 1.5, 1.5), (1.25, 1.5, 1.75, 1.5)),
    }
    return example(**{**given, **changes})


def content_of(raw: bytes) -> Content:
    return read_archive(io.BytesIO(raw))


def read(raw: bytes) -> tuple[SevenNetSettings, dict[str, torch.Tensor]]:
    """Read a checkpoint as a user's file is read."""
    content = content_of(raw)
    assert FAMILY.recognises(content.root)
    settings, weights = FAMILY.read(content)
    assert isinstance(settings, SevenNetSettings)
    return settings, weights


def reopened(
    raw: bytes, dtype: torch.dtype = torch.float32, head: str | None = None
) -> SevenNetPotential:
    """Build the potential that a checkpoint holds."""
    potential, weights = FAMILY.assemble(*read(raw), dtype, head)
    assert isinstance(potential, SevenNetPotential)
    parameters = dict(potential.model.named_parameters())
    assert parameters.keys() == weights.keys()
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.data = weights[name].to(dtype).clone()
    return potential.eval()


def loaded(potential: SevenNetPotential) -> dict[str, Any]:
    """Return what a written checkpoint holds, to be changed."""
    raw = checkpoint(potential, torch.float32, {})
    found: dict[str, Any] = torch.load(io.BytesIO(raw), weights_only=True)
    return found


def saved(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def stress_in_voigt(stress: torch.Tensor) -> np.ndarray[Any, Any]:
    rows, columns = [0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]
    found: np.ndarray[Any, Any] = stress[rows, columns].double().numpy()
    return found


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder that holds sevenn's published checkpoints, from its wheel."""
    given = os.environ.get(CHECKPOINTS)
    if given:
        yield Path(given)
        return
    folder = tmp_path_factory.mktemp("sevenn")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--retries", "1"]
    done = subprocess.run(
        [*command, "--dest", str(folder), WHEEL], capture_output=True, text=True, check=False
    )
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr.strip().splitlines() or ["nothing was downloaded"])[-1]
        pytest.skip(f"no {WHEEL} from the package index, and {CHECKPOINTS} is not set: {reason}")
    with zipfile.ZipFile(wheels[0]) as archive:
        archive.extractall(folder)
    yield folder
