"""Replace a MACE's layers by those of cuEquivariance or OpenEquivariance, and back.

MACE's own converters transfer the weights. The result is checked on structures in which every
element occurs, before anything is trained.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch

from finetune.core.errors import FoundationError
from finetune.potentials.equivariant import REFUSALS, default_dtype, quiet_import
from finetune.potentials.mace.potential import MacePotential, construct
from finetune.potentials.mace.trusted import difference

PACKAGES = {
    "cueq": ("cuequivariance_torch", "cuequivariance-torch cuequivariance-ops-torch-cu12"),
    "oeq": ("openequivariance", "openequivariance"),
}
_TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-3}


def choose(name: str, device: torch.device) -> str:
    """Return ``none``, ``cueq`` or ``oeq``; ``auto`` is cuEquivariance on CUDA where installed.

    Raises FoundationError if the package that is asked for is missing, saying what to install.
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
    """Return a plain MACE with the layers of a ``kind`` other than none, and the same predictions.

    Raises FoundationError if MACE cannot convert it, or the converted model predicts otherwise.
    """
    wrapping = quiet_import("mace.modules.wrapper_ops")
    if kind == "oeq":
        oeq = wrapping.OEQConfig(enabled=True, optimize_all=True, conv_fusion="atomic")
        return _converted(potential, kind, "oeq", oeq_config=oeq)
    cueq = wrapping.CuEquivarianceConfig(
        enabled=True,
        layout="ir_mul",
        group="O3_e3nn",
        optimize_all=True,
        conv_fusion=potential.device.type == "cuda",
    )
    return _converted(potential, kind, "e3nn_cueq", cueq_config=cueq)


def plain(potential: MacePotential) -> MacePotential:
    """Return an accelerated potential with MACE's own layers; a plain one as it is."""
    if potential.acceleration == "none":
        return potential
    return _converted(potential, "none", "oeq" if potential.acceleration == "oeq" else "cueq_e3nn")


def _converted(
    potential: MacePotential, acceleration: str, converter: str, **config: Any
) -> MacePotential:
    """Return a potential with the same weights in other layers, once it predicts the same."""
    settings = potential.settings
    model = construct(settings, potential.dtype, **config).to(potential.device)
    _transfer(potential, model, converter)
    head = settings.heads[potential.head]
    converted = MacePotential(settings, model, head, acceleration=acceleration).eval()
    energy, forces, scale = difference(potential, converted)
    if not max(energy, forces) < _TOLERANCE[potential.dtype] * scale:
        raise FoundationError(
            f"the model converted by MACE (acceleration {acceleration}) predicts other energies "
            f"(by {energy:.3g} eV) and forces (by {forces:.3g} eV/Å). Set train.acceleration=none."
        )
    return converted


def _transfer(potential: MacePotential, model: torch.nn.Module, converter: str) -> None:
    """Give a model the weights of a potential."""
    if converter == "oeq":  # the layers of OpenEquivariance have no weights of their own
        weights = dict(potential.model.named_parameters())
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(weights[name])
        return
    settings = potential.settings
    try:
        with default_dtype(potential.dtype):
            quiet_import(f"mace.cli.convert_{converter}").transfer_weights(
                potential.model,
                model,
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
