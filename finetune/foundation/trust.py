"""Open a MACE file the ordinary way, which runs whatever code it carries, because the user says so.

Still nothing but settings and weights is kept: a fresh model is built from them and must predict
what the loaded one does.
"""

from __future__ import annotations

import copy
import io
import warnings
from pathlib import Path

import torch

from finetune.errors import FoundationError
from finetune.foundation import storage
from finetune.foundation.archive import read_archive
from finetune.foundation.conversion import read_settings
from finetune.foundation.importing import mace_modules
from finetune.foundation.mace import MacePotential, construct
from finetune.foundation.opening import read_weights
from finetune.foundation.parts import Part
from finetune.foundation.potential import Potential
from finetune.foundation.probing import difference
from finetune.foundation.settings import MaceSettings
from finetune.foundation.stored_config import StoredConfig, fingerprint

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
