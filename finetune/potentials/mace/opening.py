"""Open a MACE model that was saved with ``torch.save``, without executing anything it contains.

Nothing of the file but numbers and names comes into use: a new model is built from the settings
that the file describes, checked to be the same, and given the weights. Settings and weights are
kept in the cache, so that a file is converted once.
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from finetune.core.errors import FoundationError
from finetune.potentials import storage
from finetune.potentials.archive import read_archive
from finetune.potentials.downloads import conversion, digest
from finetune.potentials.mace.comparison import check_same
from finetune.potentials.mace.conversion import Part, check_plausible, read_settings
from finetune.potentials.mace.potential import MacePotential, construct
from finetune.potentials.mace.settings import MaceSettings
from finetune.potentials.potential import Potential
from finetune.potentials.storage import StoredConfig, fingerprint


def open_model(
    path: Path,
    dtype: torch.dtype = torch.float64,
    head: str | None = None,
    sha256: str | None = None,
) -> tuple[Potential, StoredConfig]:
    """Open a pickled MACE model.

    Args:
        path: A file that ``torch.save(model, path)`` wrote.
        dtype: Type of the weights and of the computation.
        head: Name of the head that predicts; may be left out where there is one.
        sha256: Digest that the file must have; any if None.

    Returns:
        The potential, in evaluation mode, and its configuration with the sha256 over settings and
        weights.

    Raises:
        FoundationError: If the file is damaged or of another kind, holds an architecture that is
            not known or weights that are not finite, naming the file.
    """
    folder = _folder(path, sha256)
    stored = _converted(folder)
    if stored is not None:
        return storage.assemble(*stored, dtype, head, folder), stored[0]
    model, settings, weights, metadata = _convert(path, dtype)
    config = _keep(settings, weights, folder, metadata)
    return MacePotential(settings, model, head).eval(), config


def read_model(
    path: Path, sha256: str | None = None
) -> tuple[StoredConfig, dict[str, torch.Tensor]]:
    """Read settings and weights of a pickled MACE model; arguments and errors of `open_model`."""
    folder = _folder(path, sha256)
    stored = _converted(folder)
    if stored is not None:
        return stored
    _, settings, weights, metadata = _convert(path, torch.float64)
    return _keep(settings, weights, folder, metadata), weights


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
    """Return an earlier conversion, if there is a whole one."""
    if not folder.is_dir():
        return None
    try:
        return storage.read(folder)
    except FoundationError:
        shutil.rmtree(folder, ignore_errors=True)
        return None


def _convert(
    path: Path, dtype: torch.dtype
) -> tuple[torch.nn.Module, MaceSettings, dict[str, torch.Tensor], dict[str, Any]]:
    try:
        with path.open("rb") as file:
            content = read_archive(file)
        settings = read_settings(content.root)
        root = Part(content.root)
        check_plausible(settings, root, content.numbers)
        model = construct(settings, dtype)
        check_same(content.root, model)
        weights = read_weights(root, model)
        with torch.no_grad():
            for name, tensor in weights.items():
                model.get_parameter(name).copy_(tensor)
        return model, settings, weights, content.metadata
    except OSError as error:
        raise FoundationError(f"'{path}' cannot be read: {error}.") from error
    except FoundationError as error:
        raise FoundationError(f"'{path}' {error}") from error


def _keep(
    settings: MaceSettings,
    weights: dict[str, torch.Tensor],
    folder: Path,
    metadata: dict[str, Any],
) -> StoredConfig:
    with suppress(OSError):  # a cache that cannot be written costs time, nothing else
        return storage.write(folder, settings, weights, metadata=metadata)
    return StoredConfig(
        fingerprint=fingerprint(settings, weights), settings=settings, metadata=metadata
    )


def read_weights(root: Part, model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return the parameters that hold numbers, by the names that they have in ``model``.

    Raises:
        FoundationError: If one is missing or not finite.
    """
    weights = {}
    for name, _ in model.named_parameters():
        *path, last = name.split(".")
        tensor = root.child(*path).tensor(last, "_parameters")
        if tensor.numel():
            weights[name] = tensor
    return weights
