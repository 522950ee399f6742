"""A MACE small enough to test with, untrained but with every part in place."""

from __future__ import annotations

import torch

from finetune.foundation.mace import MacePotential
from finetune.foundation.settings import MaceSettings


def tiny_settings(**changes: object) -> MaceSettings:
    """Return settings of a two-interaction MACE for H, C, N, O; ``changes`` replace fields."""
    fields: dict[str, object] = {
        "r_max": 4.0,
        "num_bessel": 4,
        "num_polynomial_cutoff": 5,
        "max_ell": 2,
        "hidden_irreps": "4x0e + 4x1o",
        "MLP_irreps": "4x0e",
        "radial_MLP": (8, 8),
        "correlation": 2,
        "avg_num_neighbors": 6.0,
        "atomic_numbers": (1, 6, 7, 8),
        "atomic_energies": ((-13.0, -1030.0, -1480.0, -2040.0),),
        "atomic_inter_scale": (1.5,),
        "atomic_inter_shift": (-0.2,),
    }
    return MaceSettings.model_validate({**fields, **changes})


def tiny_mace(
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    head: str | None = None,
    **changes: object,
) -> MacePotential:
    """Return an untrained `MacePotential` with seeded weights, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MacePotential.build(tiny_settings(**changes), dtype, head).eval()
