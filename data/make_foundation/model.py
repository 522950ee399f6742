"""The architecture of ``tiny-xtb-hcno`` as JSON-able keyword arguments, and its builder."""

from __future__ import annotations

from typing import Any

import mace  # noqa: F401  (has to come before e3nn)
import numpy as np
import torch
from e3nn import o3
from mace.modules import blocks
from mace.modules.models import ScaleShiftMACE
from mace.tools.compile import disable_e3nn_codegen

from .dataset import ELEMENTS, Configurations

R_MAX = 4.5  # Å


def fit_atomic_energies(data: Configurations, indices: np.ndarray) -> list[float]:
    """Least-squares energies (eV) of H, C, N, O over the configurations ``indices``."""
    solution, *_ = np.linalg.lstsq(data.composition()[indices], data.energy[indices], rcond=None)
    return [float(e) for e in solution]


def architecture(atomic_energies: list[float], scale: float) -> dict[str, Any]:
    """Keyword arguments of ``ScaleShiftMACE`` with class names and irreps as strings.

    ``atomic_energies`` in eV in the order of :data:`ELEMENTS`; ``scale`` in eV.
    """
    return {
        "r_max": R_MAX,
        "num_bessel": 8,
        "num_polynomial_cutoff": 5,
        "max_ell": 2,
        "interaction_cls": "RealAgnosticResidualInteractionBlock",
        "interaction_cls_first": "RealAgnosticResidualInteractionBlock",
        "num_interactions": 2,
        "num_elements": len(ELEMENTS),
        "hidden_irreps": "64x0e+64x1o",
        "edge_irreps": "48x0e+48x1o",
        "use_edge_irreps_first": True,
        "MLP_irreps": "16x0e",
        "atomic_energies": atomic_energies,
        "avg_num_neighbors": 10.0,
        "atomic_numbers": list(ELEMENTS),
        "correlation": 2,
        "gate": "silu",
        "radial_MLP": [64, 64],
        "radial_type": "bessel",
        "atomic_inter_scale": scale,
        "atomic_inter_shift": 0.0,
    }


def build(kwargs: dict[str, Any], codegen: bool = True) -> ScaleShiftMACE:
    """A ``ScaleShiftMACE`` with fresh weights in the default dtype.

    ``codegen=False`` leaves out the TorchScript of e3nn, which cannot be traced.
    """
    objects = kwargs | {
        "interaction_cls": getattr(blocks, kwargs["interaction_cls"]),
        "interaction_cls_first": getattr(blocks, kwargs["interaction_cls_first"]),
        "hidden_irreps": o3.Irreps(kwargs["hidden_irreps"]),
        "edge_irreps": o3.Irreps(kwargs["edge_irreps"]),
        "MLP_irreps": o3.Irreps(kwargs["MLP_irreps"]),
        "atomic_energies": np.array(kwargs["atomic_energies"]),
        "gate": getattr(torch.nn.functional, kwargs["gate"]),
    }
    if codegen:
        return ScaleShiftMACE(**objects)
    with disable_e3nn_codegen():
        return ScaleShiftMACE(**objects)


def parameter_count(model: torch.nn.Module) -> int:
    """Number of trainable numbers."""
    return sum(p.numel() for p in model.parameters())
