"""Open a MACE model that was saved with ``torch.save``.

Nothing in the file is executed, unless the user trusts it: a new model is built from the settings
that the file describes, checked to be the same, and given the weights. Settings and weights are
kept in the cache, so that a file is converted once.
"""

from __future__ import annotations

import copy
import shutil
import warnings
from contextlib import suppress
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import torch

from finetune.core.errors import FoundationError
from finetune.data.graphs import GraphBatch, concatenate, graph
from finetune.data.structures import Structure
from finetune.potentials import storage
from finetune.potentials.archive import read_archive
from finetune.potentials.downloads import conversion, digest
from finetune.potentials.mace.conversion import (
    Part,
    check_plausible,
    check_same,
    inert,
    read_settings,
)
from finetune.potentials.mace.potential import MacePotential, construct, mace_modules
from finetune.potentials.potential import Potential
from finetune.potentials.storage import StoredConfig, fingerprint


def open_model(
    path: Path,
    dtype: torch.dtype = torch.float64,
    head: str | None = None,
    sha256: str | None = None,
) -> tuple[Potential, StoredConfig]:
    """Open a MACE model that ``torch.save(model, path)`` wrote.

    The configuration has the sha256 over settings and weights. ``head`` may be left out where there
    is one; a ``sha256`` of None allows any file. Raises FoundationError if the file is damaged or
    of another kind, or holds an unknown architecture or weights that are not finite, naming the
    file.
    """
    folder = _folder(path, sha256)
    stored = _converted(folder)
    if stored is not None:
        return storage.assemble(*stored, dtype, head, folder), stored[0]
    model, config, _ = _convert(path, dtype, folder)
    return MacePotential(config.settings, model, head).eval(), config


def read_model(
    path: Path, sha256: str | None = None
) -> tuple[StoredConfig, dict[str, torch.Tensor]]:
    """Read settings and weights of a pickled MACE model; arguments and errors of `open_model`."""
    folder = _folder(path, sha256)
    return _converted(folder) or _convert(path, torch.float64, folder)[1:]


def _folder(path: Path, sha256: str | None) -> Path:
    """Return where the conversion of a file is kept, once its digest has been checked."""
    try:
        found = digest(path)
    except OSError as error:
        raise FoundationError(f"'{path}' cannot be read: {error}.") from error
    if sha256 is not None and found != sha256:
        raise FoundationError(
            f"'{path}' has the sha256 {found}, not {sha256} as the published file: it is damaged "
            "or another file. Delete it to download it again, or name it by its path to open it "
            "as it is."
        )
    return conversion(found)


def _converted(folder: Path) -> tuple[StoredConfig, dict[str, torch.Tensor]] | None:
    """Return an earlier conversion, if there is a complete one."""
    if not folder.is_dir():
        return None
    try:
        return storage.read(folder)
    except FoundationError:
        shutil.rmtree(folder, ignore_errors=True)
        return None


def _convert(
    path: Path, dtype: torch.dtype, folder: Path
) -> tuple[torch.nn.Module, StoredConfig, dict[str, torch.Tensor]]:
    """Build the model that a file describes; write its settings and weights to the cache."""
    try:
        with path.open("rb") as file:
            content = read_archive(file)
        settings, root = read_settings(content.root), Part(content.root)
        check_plausible(settings, root, content.numbers)
        model = construct(settings, dtype)
        check_same(content.root, model)
        weights = _read_weights(root, model)
    except OSError as error:
        raise FoundationError(f"'{path}' cannot be read: {error}.") from error
    except FoundationError as error:
        raise FoundationError(f"'{path}' {error}") from error
    with torch.no_grad():
        for name, tensor in weights.items():
            model.get_parameter(name).copy_(tensor)
    config = StoredConfig(
        fingerprint=fingerprint(settings, weights), settings=settings, metadata=content.metadata
    )
    with suppress(OSError):  # without a cache, the next opening only takes longer
        storage.write(folder, config, weights)
    return model, config, weights


def _read_weights(root: Part, model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return the parameters that hold numbers, by the names that they have in ``model``."""
    weights = {}
    for name, _ in model.named_parameters():
        *path, last = name.split(".")
        tensor = root.child(*path).tensor(last, "_parameters")
        if tensor.numel():
            weights[name] = tensor
    return weights


_TOLERANCE = 1e-4  # eV and eV/Å, of a file in single precision


def open_trusted(
    path: Path, dtype: torch.dtype = torch.float64, head: str | None = None
) -> tuple[Potential, StoredConfig]:
    """Open a pickled MACE model by `torch.load`, which runs whatever code it contains.

    Only settings and weights are kept: a new model is built from them, and must predict what the
    loaded one does. Raises FoundationError if it does not, or if the file does not load or is no
    MACE.
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
        weights = _read_weights(Part(root), construct(settings, torch.float64))
        config = StoredConfig(fingerprint=fingerprint(settings, weights), settings=settings)
        opened = storage.assemble(config, weights, torch.float64, settings.heads[0], path)
        fresh = storage.mace_inside(opened).model
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
    return storage.assemble(config, weights, dtype, head, path), config


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
