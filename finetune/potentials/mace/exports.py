"""A MACE for other programs, through MACE's own classes: a model file, and two for LAMMPS."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Mapping
from typing import Any

import torch

from finetune.core.errors import FoundationError
from finetune.potentials.archive import METADATA, write_archive
from finetune.potentials.equivariant import quiet_import
from finetune.potentials.mace.potential import MacePotential


def model(potential: MacePotential, dtype: torch.dtype, metadata: Mapping[str, Any]) -> bytes:
    """Return a ``.model`` file, as `mace.calculators.MACECalculator` loads it.

    ``metadata`` are in an entry of the file that torch and MACE ignore.
    """
    return write_archive(potential.plain_model(dtype), metadata)


def torchscript(potential: MacePotential, dtype: torch.dtype, metadata: Mapping[str, Any]) -> bytes:
    """Return the file that ``pair_style mace`` reads: MACE's `LAMMPS_MACE`, compiled.

    ``dtype`` is that of weights and computation. ``metadata``, JSON values, become an extra file
    that LAMMPS ignores. Raises FoundationError if the potential reads charge or spin, which the
    pair style does not pass, or has layers that TorchScript does not take.
    """
    if potential.further_inputs:
        raise FoundationError(
            f"the potential reads {' and '.join(sorted(potential.further_inputs))}, which LAMMPS' "
            "pair_style mace does not pass on: it cannot be written for it. Nothing was written. "
            "Use --format lammps-mliap (charge 0, spin 1) or ASE."
        )
    wrapped = quiet_import("mace.calculators").LAMMPS_MACE(
        potential.plain_model(dtype), head=_head(potential)
    )
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's notices on TorchScript are not for the user
        try:
            compiled = quiet_import("e3nn.util.jit").compile(wrapped)
        except RuntimeError:
            settings = potential.settings
            raise FoundationError(
                f"the potential has layers ({settings.interaction_cls}, {settings.readout_cls}) "
                "that TorchScript, and so LAMMPS' pair_style mace, does not take. Nothing was "
                "written. Use --format lammps-mliap."
            ) from None
        extra = {METADATA: json.dumps(dict(metadata), ensure_ascii=False)}
        torch.jit.save(compiled, buffer, _extra_files=extra)
    return buffer.getvalue()


def mliap(potential: MacePotential, dtype: torch.dtype, metadata: Mapping[str, Any]) -> bytes:
    """Return the file that ``pair_style mliap unified`` reads: MACE's `LAMMPS_MLIAP_MACE`, pickled.

    MACE stores the permission to compute on CPUs (``MACE_ALLOW_CPU``) from the environment in which
    the file is written; here it is always given. ``dtype`` is that of weights and computation;
    ``metadata`` have no place in the file.
    """
    plain = potential.plain_model(dtype)
    plain.lammps_mliap = True  # type: ignore[assignment]
    known = quiet_import("mace.calculators.lammps_mliap_mace")
    buffer = io.BytesIO()
    wrapped = known.LAMMPS_MLIAP_MACE(plain, head=_head(potential))
    wrapped.config.allow_cpu = True
    torch.save(wrapped, buffer)
    return buffer.getvalue()


def _head(potential: MacePotential) -> str:
    return potential.settings.heads[potential.head]
