"""The ``config.json`` of a stored potential, and the fingerprint over it and the weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from finetune.errors import FoundationError
from finetune.foundation.metadata import Metadata
from finetune.foundation.record import read_record
from finetune.foundation.settings import MaceSettings
from finetune.options import Options

FORMAT = "piwsl-finetune/potential"
VERSION = 1
CONFIG = "config.json"


class StoredConfig(Options):
    """What ``config.json`` holds.

    ``fingerprint`` is the sha256 over settings and weights; it names the potential in run folders
    and adapters and reveals damage. ``adapters`` are those that the weights need beyond a plain
    MACE, in the order in which they were attached: ``kind`` and options of each. ``metadata`` is
    free: level of theory, licence, figures.
    """

    format: str = FORMAT
    format_version: int = VERSION
    fingerprint: str
    head: str | None = None
    settings: MaceSettings
    adapters: tuple[dict[str, Any], ...] = ()
    metadata: Metadata = Field(default_factory=dict)


def read_config(folder: Path) -> StoredConfig:
    """Read ``config.json`` alone, without opening the weights.

    Raises:
        FoundationError: For a missing, damaged or foreign file.
    """
    path = folder / CONFIG

    def check(raw: Any) -> None:
        if not isinstance(raw, dict) or raw.get("format") != FORMAT:
            raise FoundationError(f"'{path}' does not describe a potential of this package.")
        if raw.get("format_version") != VERSION:
            raise FoundationError(
                f"'{path}' has format version {raw.get('format_version')}; this release reads "
                f"version {VERSION}. Update piwsl-finetune."
            )

    return read_record(path, StoredConfig, check)


def fingerprint(
    settings: MaceSettings,
    weights: Mapping[str, torch.Tensor],
    adapters: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Return the sha256 (hex) over the settings, every weight and the adapters they need.

    Settings of later releases count only where they are used, so that older fingerprints hold.
    """
    unset = {
        name for name in ("embedding_specs", "use_embedding_readout") if not getattr(settings, name)
    }
    digest = hashlib.sha256(settings.model_dump_json(exclude=unset).encode())
    if adapters:
        digest.update(json.dumps([dict(item) for item in adapters], sort_keys=True).encode())
    for name in sorted(weights):
        tensor = weights[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
