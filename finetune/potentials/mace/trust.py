"""Open a MACE file the ordinary way, which runs whatever code it carries, because the user says so.

Still nothing but settings and weights is kept: a fresh model is built from them and must predict
what the loaded one does.
"""

from __future__ import annotations

import copy
import io
import warnings
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import torch

from finetune.core.errors import FoundationError
from finetune.data.graphs import GraphBatch, concatenate, graph
from finetune.data.structures import Structure
from finetune.potentials import storage
from finetune.potentials.archive import read_archive
from finetune.potentials.mace.conversion import Part, read_settings
from finetune.potentials.mace.importing import mace_modules
from finetune.potentials.mace.opening import read_weights
from finetune.potentials.mace.potential import MacePotential, construct
from finetune.potentials.mace.settings import MaceSettings
from finetune.potentials.potential import Potential
from finetune.potentials.storage import StoredConfig, fingerprint

_SPACING, _RATTLE, _ATOMS = 1.8, 0.3, 8  # Å, Å and atoms of a structure


def difference(first: Potential, second: Potential) -> tuple[float, float, float]:
    """Return the largest differences of energies, eV, and forces, eV/Å, and a scale for both.

    The scale is one plus the largest force.
    """
    batch = structures(first).to(first.device, first.dtype)
    one, other = (potential(batch, create_graph=False) for potential in (first, second))
    assert one.forces is not None and other.forces is not None
    return (
        float((one.energy - other.energy).abs().max()),
        float((one.forces - other.forces).abs().max()),
        1.0 + float(one.forces.abs().max()),
    )


def structures(potential: Potential) -> GraphBatch:
    """Return clusters, the first one periodic, in which every element of a potential occurs."""
    draw = np.random.default_rng(0)
    grid = _SPACING * np.array(list(np.ndindex(2, 2, 2)), dtype=np.float64)
    numbers = cycle(potential.elements)
    found = []
    for index in range(1 + len(potential.elements) // _ATOMS):
        item = Structure(
            numbers=np.array(list(islice(numbers, _ATOMS)), dtype=np.int64),
            positions=grid + draw.uniform(-_RATTLE, _RATTLE, grid.shape),
            cell=2 * _SPACING * np.eye(3),
            pbc=np.array([index == 0] * 3),
        )
        found.append(graph(item, potential.cutoff))
    return concatenate(found)


_TOLERANCE = 1e-4  # eV and eV/Å, of a file in single precision


def open_trusted(
    path: Path, dtype: torch.dtype = torch.float64, head: str | None = None
) -> tuple[Potential, StoredConfig]:
    """Open a pickled MACE model by `torch.load`, executing what it contains.

    Args:
        path: The file.
        dtype: Type of the weights and of the computation.
        head: Name of the head that predicts; may be left out where there is one.

    Returns:
        The potential, in evaluation mode, and its configuration.

    Raises:
        FoundationError: If it does not load, is no MACE, or a MACE built from its settings and
            weights does not predict what it does.
    """
    loaded = _load(path)
    try:
        settings, weights = _take(loaded)
        config = StoredConfig(fingerprint=fingerprint(settings, weights), settings=settings)
        opened = storage.assemble(config, weights, torch.float64, settings.heads[0], path)
        fresh = storage.mace_inside(opened).model
        for name in settings.heads:
            _compare(settings, loaded, fresh, name)
    except FoundationError as error:
        raise FoundationError(f"'{path}' {error}") from error
    return storage.assemble(config, weights, dtype, head, path), config


def _load(path: Path) -> torch.nn.Module:
    modules = mace_modules()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded = torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:  # a pickle may raise anything
        raise FoundationError(
            f"'{path}' cannot be loaded by torch either: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(loaded, modules.MACE):
        raise FoundationError(f"'{path}' holds a {type(loaded).__name__}, which is no MACE.")
    return loaded.double().eval()


def _take(loaded: torch.nn.Module) -> tuple[MaceSettings, dict[str, torch.Tensor]]:
    """Return settings and weights of a loaded model, as the safe way reads them from a file."""
    modules = mace_modules()
    plain = copy.deepcopy(loaded)
    known = (modules.ScaleShiftMACE, modules.MACE)
    plain.__class__ = next(kind for kind in known if isinstance(plain, kind))
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(plain, file)
    root = read_archive(file).root
    settings = read_settings(root)
    return settings, read_weights(Part(root), construct(settings, torch.float64))


def _compare(
    settings: MaceSettings, loaded: torch.nn.Module, fresh: torch.nn.Module, head: str
) -> None:
    first, second = (MacePotential(settings, model, head) for model in (loaded, fresh))
    energy, forces, scale = difference(first, second)
    if not max(energy, forces) < _TOLERANCE * scale:
        raise FoundationError(
            "cannot be taken over: a MACE with its settings and weights predicts other energies "
            f"(by {energy:.3g} eV) and forces (by {forces:.3g} eV/Å), so it is of another "
            "architecture."
        )
