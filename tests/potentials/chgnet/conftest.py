"""What tests of the CHGNet family share."""

import io
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from copy import deepcopy
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from numpy.typing import NDArray

from finetune.potentials.chgnet.checkpoint import write_checkpoint
from finetune.potentials.chgnet.potential import ChgnetPotential
from finetune.potentials.opening import open_file
from finetune.testing.analytic import small_potential

FILES = {
    "0.3.0": "0.3.0/chgnet_0.3.0_e29f68s314m37.pth.tar",
    "0.2.0": "0.2.0/chgnet_0.2.0_e30f77s348m32.pth.tar",
    "r2scan": "r2scan/chgnet_r2scan_transfer_learning_e15f36s161m23.pth.tar",
}
"""The checkpoints in the wheel of chgnet, as `CHGNet.load` names them."""
GPA = 160.21766208  # in an eV/Å³, as chgnet has it


@pytest.fixture(autouse=True)
def chgnet_is_installed() -> None:
    pytest.importorskip("chgnet", reason="needs the extra: pip install 'piwsl-finetune[chgnet]'")


@contextmanager
def quiet() -> Iterator[None]:
    """Let chgnet and pymatgen print and warn without anyone hearing."""
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def published(name: str) -> Path:
    spec = find_spec("chgnet")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / "pretrained" / FILES[name]


def example(seed: int = 0, **changes: Any) -> ChgnetPotential:
    """Return a small network with random weights; ``changes`` replace the example's settings."""
    potential = small_potential("chgnet", seed, **changes)
    assert isinstance(potential, ChgnetPotential)
    return potential


def opened(path: Path) -> ChgnetPotential:
    potential, _ = open_file(path)
    assert isinstance(potential, ChgnetPotential)
    return potential


def written(potential: ChgnetPotential, path: Path, **metadata: Any) -> Path:
    """Write a potential as the file of its family's own."""
    path.write_bytes(write_checkpoint(potential, torch.float64, metadata))
    return path


def own_model(path: Path, **options: Any) -> Any:
    """Return the network that chgnet itself opens."""
    with quiet():
        from chgnet.model import CHGNet

        return CHGNet.from_file(str(path), **options).eval()


@dataclass(frozen=True)
class Own:
    """What chgnet predicts: eV, eV/Å, eV/Å³."""

    energy: float
    forces: NDArray[np.float64]
    stress: NDArray[np.float64]


def own_prediction(model: Any, atoms: Atoms) -> Own:
    """Evaluate chgnet's network by chgnet's own calculator."""
    with quiet():
        from chgnet.model import CHGNetCalculator

        found = atoms.copy()
        found.calc = CHGNetCalculator(model=model, use_device="cpu")
        energy, forces = found.get_potential_energy(), found.get_forces()
        return Own(float(energy), forces, found.get_stress(voigt=False))


@contextmanager
def own_in_double() -> Iterator[None]:
    """Let chgnet compute in float64: it has its type in constants."""
    from chgnet.graph import converter
    from chgnet.model import model

    with pytest.MonkeyPatch.context() as patch:
        for module in (converter, model):
            patch.setattr(module, "TORCH_DTYPE", torch.float64)
        yield


def own_interaction(model: Any, atoms: Atoms) -> Own:
    """Return what the network predicts without its composition model, all in float64."""
    model = deepcopy(model).double()
    model.composition_model = None
    with quiet(), own_in_double():
        from pymatgen.io.ase import AseAtomsAdaptor

        graph = model.graph_converter(AseAtomsAdaptor.get_structure(atoms))
        found = model.predict_graph(graph, task="efs")
    share = len(atoms) if model.is_intensive else 1
    return Own(float(found["e"]) * share, found["f"], found["s"] / GPA)


def structures() -> Mapping[str, Atoms]:
    """Solids, a slab and molecules in boxes, distorted; two of them perfect."""
    draw = np.random.default_rng(0)
    slab = fcc111("Al", (2, 2, 3), vacuum=8.0)
    slab.pbc = True
    found = {
        "Si": bulk("Si", cubic=True),
        "NaCl": bulk("NaCl", "rocksalt", 5.64),
        "diamond": bulk("C", "diamond", 3.57),
        "Cu": bulk("Cu") * (2, 1, 1),
        "Fe": bulk("Fe", cubic=True),
        "MgO": bulk("MgO", "rocksalt", 4.21, cubic=True),
        "K": bulk("K") * (2, 1, 1),
        "Ar": bulk("Ar") * (2, 1, 1),
        "Al slab": slab,
    }
    for name in ("CH3CH2OH", "H2O", "CO2", "H2", "CH4"):
        found[name] = molecule(name)
        found[name].set_cell([12.0] * 3)
        found[name].center()
        found[name].pbc = True
    perfect = {"Si, perfect": bulk("Si"), "CO2, straight": found["CO2"].copy()}
    for atoms in found.values():
        atoms.positions += draw.normal(0.0, 0.05, atoms.positions.shape)
    return {**found, **perfect}
