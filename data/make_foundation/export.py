"""Trained models as stored potentials of the package."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from mace.modules.models import ScaleShiftMACE
from mace.tools.compile import disable_e3nn_codegen

from finetune.potentials.direct.potential import DirectPotential
from finetune.potentials.mace.potential import MacePotential
from finetune.potentials.mace.settings import MaceSettings
from finetune.potentials.storage import save

if TYPE_CHECKING:
    from .direct import DirectModel

ONE_HEAD = ("atomic_energies", "atomic_inter_scale", "atomic_inter_shift")
"""Arguments of which settings have one for each head."""


def export_mace(
    model: ScaleShiftMACE, kwargs: dict[str, Any], out: Path, metadata: dict[str, Any]
) -> str:
    """Store a MACE in single precision; return its fingerprint."""
    potential = MacePotential(settings_of(kwargs), model)
    return save(potential, out, metadata, dtype=torch.float32).fingerprint


def export_direct(
    model: DirectModel, kwargs: dict[str, Any], out: Path, metadata: dict[str, Any]
) -> str:
    """Store a potential with a head in single precision; return its fingerprint."""
    with disable_e3nn_codegen():
        potential = DirectPotential(MacePotential(settings_of(kwargs), model.base), model.channels)
    potential.model.force_head.load_state_dict(model.force_head.state_dict())
    return save(potential, out, metadata, dtype=torch.float32).fingerprint


def settings_of(kwargs: dict[str, Any]) -> MaceSettings:
    """Return the settings of a MACE with one head from its keyword arguments."""
    values = {key: value for key, value in kwargs.items() if key != "num_elements"}
    return MaceSettings.model_validate(values | {key: [kwargs[key]] for key in ONE_HEAD})
