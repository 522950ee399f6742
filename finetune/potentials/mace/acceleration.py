"""Exchange a MACE's layers for those of cuEquivariance or OpenEquivariance, and back again.

MACE's own converters carry the weights over. Whether they do so faithfully is checked on structures
in which every element occurs, before anything is trained.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch

from finetune.core.errors import FoundationError
from finetune.potentials.mace.opening import difference
from finetune.potentials.mace.potential import (
    REFUSALS,
    MacePotential,
    construct,
    default_dtype,
    mace_module,
)

PACKAGES = {
    "cueq": ("cuequivariance_torch", "cuequivariance-torch cuequivariance-ops-torch-cu12"),
    "oeq": ("openequivariance", "openequivariance"),
}
_TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-3}


def choose(name: str, device: torch.device) -> str:
    """Return ``none``, ``cueq`` or ``oeq``.

    Args:
        name: One of these, or ``auto``: cuEquivariance on CUDA where it is installed, else none.
        device: Where the potential is to run.

    Raises:
        FoundationError: If the package that is asked for is not installed, saying what to install.
    """
    if name == "auto":
        installed = find_spec(PACKAGES["cueq"][0]) and find_spec("cuequivariance_ops_torch")
        return "cueq" if device.type == "cuda" and installed else "none"
    if name in PACKAGES and find_spec(PACKAGES[name][0]) is None:
        module, install = PACKAGES[name]
        raise FoundationError(
            f"train.acceleration={name} needs the package '{module}', which is not installed: "
            f"pip install {install}. Or set train.acceleration=none."
        )
    if name == "oeq" and device.type != "cuda":
        raise FoundationError(
            "train.acceleration=oeq needs a CUDA device. Set train.acceleration=none."
        )
    return name


def accelerate(potential: MacePotential, kind: str) -> MacePotential:
    """Return the potential with other layers and the same predictions.

    Args:
        potential: A plain MACE; not changed.
        kind: ``cueq`` or ``oeq``; see `choose`.

    Raises:
        FoundationError: If MACE cannot convert this architecture, or the converted model predicts
            something else.
    """
    device, dtype, settings = potential.device, potential.dtype, potential.settings
    wrapping = mace_module("mace.modules.wrapper_ops")
    config: dict[str, Any] = (
        {
            "cueq_config": wrapping.CuEquivarianceConfig(
                enabled=True,
                layout="ir_mul",
                group="O3_e3nn",
                optimize_all=True,
                conv_fusion=device.type == "cuda",
            )
        }
        if kind == "cueq"
        else {
            "oeq_config": wrapping.OEQConfig(enabled=True, optimize_all=True, conv_fusion="atomic")
        }
    )
    model = construct(settings, dtype, **config).to(device)
    _transfer(potential.model, model, potential, kind, "e3nn_cueq")
    head = settings.heads[potential.head]
    converted = MacePotential(settings, model, head, acceleration=kind).eval()
    _check(potential, converted, kind)
    return converted


def plain(potential: MacePotential) -> MacePotential:
    """Return an accelerated potential with MACE's own layers; a plain one as it is.

    Raises:
        FoundationError: If what comes back predicts something else.
    """
    if potential.acceleration == "none":
        return potential
    settings = potential.settings
    model = construct(settings, potential.dtype).to(potential.device)
    _transfer(potential.model, model, potential, potential.acceleration, "cueq_e3nn")
    converted = MacePotential(settings, model, settings.heads[potential.head]).eval()
    _check(potential, converted, "none")
    return converted


def _transfer(
    source: torch.nn.Module,
    target: torch.nn.Module,
    potential: MacePotential,
    kind: str,
    direction: str,
) -> None:
    """Give ``target`` the weights of ``source``."""
    if kind == "oeq":  # the exchanged convolutions have no weights of their own
        weights = dict(source.named_parameters())
        with torch.no_grad():
            for name, parameter in target.named_parameters():
                parameter.copy_(weights[name])
        return
    settings = potential.settings
    converter = mace_module(f"mace.cli.convert_{direction}")
    try:
        with default_dtype(potential.dtype):
            converter.transfer_weights(
                source,
                target,
                settings.hidden_irreps.count("+"),
                settings.correlation,
                settings.num_interactions,
                settings.use_reduced_cg,
                settings.keep_last_layer_irreps,
            )
    except (*REFUSALS, NotImplementedError) as error:
        raise FoundationError(
            f"MACE cannot convert this architecture ({type(error).__name__}: {error}). "
            "Set train.acceleration=none."
        ) from error


def _check(before: MacePotential, after: MacePotential, kind: str) -> None:
    energy, forces, scale = difference(before, after)
    if not max(energy, forces) < _TOLERANCE[before.dtype] * scale:
        raise FoundationError(
            f"the model converted by MACE (acceleration {kind}) predicts other energies (by "
            f"{energy:.3g} eV) and forces (by {forces:.3g} eV/Å). Set train.acceleration=none."
        )
