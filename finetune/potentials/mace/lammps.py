"""A MACE for LAMMPS, through MACE's own classes: TorchScript, or ML-IAP."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Mapping
from typing import Any

import torch

from finetune.core.errors import FoundationError
from finetune.potentials.archive import METADATA
from finetune.potentials.mace.potential import MacePotential, mace_module


def torchscript(
    potential: MacePotential, dtype: torch.dtype, metadata: Mapping[str, Any] | None = None
) -> bytes:
    """Return the file that ``pair_style mace`` reads: MACE's `LAMMPS_MACE`, compiled.

    ``dtype`` is that of weights and computation. ``metadata``, JSON values, become an extra file
    that LAMMPS ignores. Raises FoundationError if the potential reads charge or spin, which the
    pair style does not pass.
    """
    if potential.further_inputs:
        raise FoundationError(
            f"the potential reads {' and '.join(sorted(potential.further_inputs))}, which LAMMPS' "
            "pair_style mace does not pass on: it cannot be written for it. Nothing was written. "
            "Use --format lammps-mliap (charge 0, spin 1) or ASE."
        )
    wrapped = mace_module("mace.calculators").LAMMPS_MACE(
        potential.plain_model(dtype), head=_head(potential)
    )
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's notices on TorchScript are not for the user
        compiled = mace_module("e3nn.util.jit").compile(wrapped)
        extra = {METADATA: json.dumps(dict(metadata or {}), ensure_ascii=False)}
        torch.jit.save(compiled, buffer, _extra_files=extra)
    return buffer.getvalue()


def mliap(potential: MacePotential, dtype: torch.dtype) -> bytes:
    """Return the file that ``pair_style mliap unified`` reads: MACE's `LAMMPS_MLIAP_MACE`, pickled.

    MACE stores the permission to compute on CPUs (``MACE_ALLOW_CPU``) from the environment in which
    the file is written; here it is always given. ``dtype`` is that of weights and computation.
    """
    model = potential.plain_model(dtype)
    model.lammps_mliap = True  # type: ignore[assignment]
    known = mace_module("mace.calculators.lammps_mliap_mace")
    buffer = io.BytesIO()
    wrapped = known.LAMMPS_MLIAP_MACE(model, head=_head(potential))
    wrapped.config.allow_cpu = True
    torch.save(wrapped, buffer)
    return buffer.getvalue()


def _head(potential: MacePotential) -> str:
    return potential.settings.heads[potential.head]
