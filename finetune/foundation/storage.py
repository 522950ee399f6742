"""Potentials on disk: ``config.json`` and ``model.safetensors`` in a folder, never a pickle.

Only the weights are stored and, where heads were added, the readouts as they were before. All else
in a MACE (Clebsch-Gordan tables, bases, buffers) follows from its settings and is rebuilt in the
precision asked for, so that a potential trained in single precision is exactly equivariant when it
is opened in double precision.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from finetune.errors import FoundationError
from finetune.files import write_atomically
from finetune.foundation import heads
from finetune.foundation.mace import MacePotential
from finetune.foundation.settings import MaceSettings
from finetune.options import Options

FORMAT = "piwsl-finetune/potential"
VERSION = 1
CONFIG, WEIGHTS = "config.json", "model.safetensors"


class StoredConfig(Options):
    """What ``config.json`` holds.

    ``fingerprint`` is the sha256 over settings and weights; it names the potential in run folders
    and adapters and reveals damage. ``metadata`` is free: level of theory, licence, figures.
    """

    format: str = FORMAT
    format_version: int = VERSION
    fingerprint: str
    head: str | None = None
    settings: MaceSettings
    metadata: dict[str, Any] = Field(default_factory=dict)


def save(
    potential: MacePotential,
    folder: Path,
    metadata: Mapping[str, Any],
    dtype: torch.dtype | None = None,
) -> StoredConfig:
    """Write a potential into ``folder``; each file appears whole or not at all.

    Args:
        potential: What to store.
        folder: Created if needed.
        metadata: JSON values to keep beside the weights.
        dtype: Type of the stored weights; that of the potential if None.
    """
    settings = potential.settings
    head = settings.heads[potential.head] if len(settings.heads) > 1 else None
    dtype = dtype or potential.dtype
    kept = {name: item.to("cpu", dtype) for name, item in heads.named(potential.kept_heads).items()}
    return write(folder, settings, {**_weights(potential, dtype), **kept}, head, metadata)


def write(
    folder: Path,
    settings: MaceSettings,
    weights: Mapping[str, torch.Tensor],
    head: str | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> StoredConfig:
    """Write settings and weights into ``folder``, the configuration last.

    Args:
        folder: Created if needed.
        settings: What the model is built from.
        weights: Parameters by name.
        head: Head that predicts unless another is named; None for no choice.
        metadata: JSON values to keep beside the weights.
    """
    config = StoredConfig(
        fingerprint=fingerprint(settings, weights),
        head=head,
        settings=settings,
        metadata=dict(metadata or {}),
    )
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items()}
    write_atomically(folder / WEIGHTS, save_tensors(tensors))
    write_atomically(folder / CONFIG, (config.model_dump_json(indent=2) + "\n").encode())
    return config


def load(
    folder: Path, dtype: torch.dtype = torch.float64, head: str | None = None
) -> tuple[MacePotential, StoredConfig]:
    """Open a stored potential, checking it against its fingerprint.

    Raises:
        FoundationError: For missing, damaged or foreign files, naming the file.
    """
    config, weights = read(folder)
    return assemble(config, weights, dtype, head, folder), config


def assemble(
    config: StoredConfig,
    weights: Mapping[str, torch.Tensor],
    dtype: torch.dtype,
    head: str | None,
    folder: Path,
) -> MacePotential:
    """Build the potential that `read` found in ``folder``.

    Raises:
        FoundationError: If the weights do not fit the settings, or the head is unknown.
    """
    head = head or config.head
    own, kept = heads.apart(weights)
    settings, own, kept = heads.as_it_was(config.settings, own, kept, head)
    potential = MacePotential.build(settings, dtype, head)
    _fill(potential, own, folder / WEIGHTS)
    potential.stored_heads = kept
    return potential.eval()


def read(folder: Path) -> tuple[StoredConfig, dict[str, torch.Tensor]]:
    """Read what `write` wrote, checking it against its fingerprint.

    Raises:
        FoundationError: For missing, damaged or foreign files, naming the file.
    """
    config = read_config(folder)
    path = folder / WEIGHTS
    try:
        weights = load_tensors(path.read_bytes())
    except (OSError, SafetensorError, ValueError) as error:
        raise FoundationError(f"'{path}' cannot be read: {error}. Get a fresh copy.") from error
    if fingerprint(config.settings, weights) != config.fingerprint:
        raise FoundationError(
            f"'{path}' and '{CONFIG}' do not belong together or are damaged (fingerprint differs). "
            "Get a fresh copy of the folder."
        )
    if not all(bool(torch.isfinite(tensor).all()) for tensor in weights.values()):
        raise FoundationError(f"'{path}' holds weights that are NaN or infinite.")
    return config, weights


def read_config(folder: Path) -> StoredConfig:
    """Read ``config.json`` alone, without opening the weights.

    Raises:
        FoundationError: For a missing, damaged or foreign file.
    """
    path = folder / CONFIG
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(raw, dict) or raw.get("format") != FORMAT:
            raise FoundationError(f"'{path}' does not describe a potential of this package.")
        if raw.get("format_version") != VERSION:
            raise FoundationError(
                f"'{path}' has format version {raw.get('format_version')}; this release reads "
                f"version {VERSION}. Update piwsl-finetune."
            )
        return StoredConfig.model_validate(raw)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise FoundationError(f"'{path}' cannot be read: {error}.") from error
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(map(str, fault["loc"]))
        raise FoundationError(f"'{path}' is damaged at '{place}': {fault['msg']}.") from None


def fingerprint(settings: MaceSettings, weights: Mapping[str, torch.Tensor]) -> str:
    """Return the sha256 (hex) over the settings and every weight.

    Settings of later releases count only where they are used, so that older fingerprints hold.
    """
    unset = {
        name for name in ("embedding_specs", "use_embedding_readout") if not getattr(settings, name)
    }
    digest = hashlib.sha256(settings.model_dump_json(exclude=unset).encode())
    for name in sorted(weights):
        tensor = weights[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _weights(potential: MacePotential, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    return {
        name: parameter.detach().to("cpu", dtype)
        for name, parameter in potential.model.named_parameters()
        if math.prod(parameter.shape) > 0
    }


def _fill(potential: MacePotential, weights: Mapping[str, torch.Tensor], path: Path) -> None:
    parameters = {
        name: parameter
        for name, parameter in potential.model.named_parameters()
        if math.prod(parameter.shape) > 0
    }
    shapes = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
    stored = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if shapes != stored:
        names = sorted({*shapes, *stored})
        faults = [name for name in names if shapes.get(name) != stored.get(name)]
        raise FoundationError(
            f"'{path}' does not fit its settings: {len(faults)} weight(s) are missing, superfluous "
            f"or of another shape, the first is '{faults[0]}'."
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])
