"""Open a foundation potential by name or by path."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from finetune.errors import FoundationError, suggestion, system_errors
from finetune.foundation.catalog import embedded
from finetune.foundation.mace import MacePotential
from finetune.foundation.opening import open_model
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
        metadata: What was stored beside the weights; nothing for a ``.model`` file.
    """

    name: str
    location: str
    potential: MacePotential
    fingerprint: str
    metadata: dict[str, Any]


@system_errors()
def load_foundation(
    name: str | Path,
    dtype: torch.dtype = torch.float64,
    device: str | torch.device = "cpu",
    beside: Path | None = None,
    head: str | None = None,
) -> Foundation:
    """Open an embedded foundation by name, or a stored potential by path.

    A path may be a folder with ``config.json`` and ``model.safetensors``, a run folder, whose
    fine-tuned potential then is the foundation, or a file that holds a whole MACE model as MACE
    saves it. Nothing in such a file is executed.

    Args:
        name: Name in the catalogue, or path.
        dtype: Type of the weights and of the computation.
        device: Where to put the potential.
        beside: Folder of the recipe, where relative paths are looked up too.
        head: Name of the head that predicts; may be left out where there is one, or where the
            stored potential names it.

    Raises:
        FoundationError: For an unknown name or head, or files that are missing, damaged or of
            another kind.
    """
    known = embedded()
    place = known.get(str(name)) or find(name, beside)
    if place is None:
        nearest = suggestion(str(name), known)
        raise FoundationError(
            f"no foundation '{name}'.{nearest} Embedded: {', '.join(known) or 'none'}; "
            "or give the path of a stored potential or a MACE file."
        )
    metadata: dict[str, Any] = {}
    if place.is_file():
        potential, fingerprint = open_model(place, dtype, head)
    else:
        if not (place / CONFIG).exists() and (place / "model" / CONFIG).exists():
            place = place / "model"
        potential, config = load(place, dtype, head)
        fingerprint, metadata = config.fingerprint, config.metadata
    return Foundation(
        name=str(name),
        location=str(name) if str(name) in known else str(place.resolve()),
        potential=potential.to(device),
        fingerprint=fingerprint,
        metadata=metadata,
    )
