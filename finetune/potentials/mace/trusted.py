"""Read a MACE by loading its file as torch does, which runs the code in it; and compare models."""

from __future__ import annotations

import copy
import warnings
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import torch

from finetune.core.errors import FoundationError
from finetune.data.graphs import GraphBatch, concatenate, graph
from finetune.data.structures import Structure
from finetune.potentials.mace.conversion import Part, inert, read_settings, read_weights
from finetune.potentials.mace.potential import MacePotential, construct, mace_modules
from finetune.potentials.mace.settings import MaceSettings
from finetune.potentials.potential import Potential

_TOLERANCE = 1e-4  # eV and eV/Å, of a file in single precision


def read_trusted(path: Path) -> tuple[MaceSettings, dict[str, torch.Tensor]]:
    """Read a pickled MACE by `torch.load`, which runs whatever code it contains.

    Only settings and weights are kept: a model built from them must predict what the loaded one
    does. Raises FoundationError if it does not, or if the file does not load or is no MACE.
    """
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
    loaded = loaded.double().eval()
    try:
        plain = copy.deepcopy(loaded)
        known = (modules.ScaleShiftMACE, modules.MACE)
        plain.__class__ = next(kind for kind in known if isinstance(plain, kind))
        root = inert(plain)
        settings = read_settings(root)
        weights = read_weights(Part(root), construct(settings, torch.float64))
        fresh = construct(settings, torch.float64).eval()
        with torch.no_grad():
            for name, tensor in weights.items():
                fresh.get_parameter(name).copy_(tensor)
        for name in settings.heads:
            pair = (MacePotential(settings, model, name) for model in (loaded, fresh))
            energy, forces, scale = difference(*pair)
            if not max(energy, forces) < _TOLERANCE * scale:
                raise FoundationError(
                    "cannot be opened: a MACE with its settings and weights predicts other "
                    f"energies (by {energy:.3g} eV) and forces (by {forces:.3g} eV/Å), so it is of "
                    "another architecture."
                )
    except FoundationError as error:
        raise FoundationError(f"'{path}' {error}") from error
    return settings, weights


_SPACING, _RATTLE, _ATOMS = 1.8, 0.3, 8  # Å, Å and atoms of a structure


def difference(first: Potential, second: Potential) -> tuple[float, float, float]:
    """Return the largest difference of energies, eV, of forces, eV/Å, and 1 + the largest force."""
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
