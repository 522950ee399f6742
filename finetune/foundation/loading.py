"""Open a foundation potential by name or by path."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from finetune.errors import FoundationError, suggestion
from finetune.foundation.catalog import embedded
from finetune.foundation.mace import MacePotential
from finetune.foundation.storage import CONFIG, load
from finetune.resources import find


@dataclass(frozen=True)
class Foundation:
    """An opened foundation potential.

    Attributes:
        name: What it was asked for by.
        location: What finds it again from any folder: its name if embedded, else its full path.
        potential: The potential, in evaluation mode.
        fingerprint: sha256 over settings and weights.
        metadata: What was stored beside the weights.
    """

    name: str
    location: str
    potential: MacePotential
    fingerprint: str
    metadata: dict[str, Any]


def load_foundation(
    name: str | Path,
    dtype: torch.dtype = torch.float64,
    device: str | torch.device = "cpu",
    beside: Path | None = None,
) -> Foundation:
    """Open an embedded foundation by name, or a stored potential by path.

    A path may be a folder with ``config.json`` and ``model.safetensors``, or a run folder, whose
    fine-tuned potential then is the foundation.

    Args:
        name: Name in the catalogue, or path.
        dtype: Type of the weights and of the computation.
        device: Where to put the potential.
        beside: Folder of the recipe, where relative paths are looked up too.

    Raises:
        FoundationError: For an unknown name, or files that are missing, damaged or of another kind.
    """
    known = embedded()
    folder = known.get(str(name)) or find(name, beside)
    if folder is None:
        nearest = suggestion(str(name), known)
        raise FoundationError(
            f"no foundation '{name}'.{nearest} Embedded: {', '.join(known) or 'none'}; "
            "or give the path of a stored potential."
        )
    if folder.is_file():
        raise FoundationError(
            f"'{folder}' is a file. A foundation is a folder with {CONFIG} and model.safetensors; "
            "pickled MACE files are not opened, because loading one can run any code it carries."
        )
    if not (folder / CONFIG).exists() and (folder / "model" / CONFIG).exists():
        folder = folder / "model"
    potential, config = load(folder, dtype)
    return Foundation(
        name=str(name),
        location=str(name) if str(name) in known else str(folder.resolve()),
        potential=potential.to(device),
        fingerprint=config.fingerprint,
        metadata=config.metadata,
    )
