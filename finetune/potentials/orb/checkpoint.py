"""Checkpoints of orb-models: a state dict, read as inert data, and written.

The sizes of the layers follow from the shapes of the weights.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from pydantic import ValidationError

from finetune.core.errors import FoundationError
from finetune.potentials.archive import Content, describe, write_archive
from finetune.potentials.orb.potential import OrbPotential, construct, take_unused
from finetune.potentials.orb.published import OMOL
from finetune.potentials.orb.settings import DEGREE, EMBEDDED, RADIAL, OrbSettings
from finetune.potentials.potential import UNUSED, refuse_further
from finetune.potentials.published import MPTRJ
from finetune.potentials.storage import first_fault

_LAYERS = re.compile(r"(model\.)*(gnn_stacks|_encoder)\.")
_REFERENCES = "heads.energy.reference.linear.weight"
_MEAN, _VARIANCE = "heads.{}.normalizer.bn.running_mean", "heads.{}.normalizer.bn.running_var"
_NODES, _EDGES = "model._encoder._node_fn.mlp", "model._encoder._edge_fn.mlp"
_CHARGE = "model.conditioner.charge_embedding.W"
_EARLIER = ("node_head.", "graph_head.", "model._encoder._node_fn.layer_norm.bias")
"""How weights of ORB v1 and v2 are named."""


def is_orb(root: object) -> bool:
    """Whether a file holds an ORB, of any version."""
    return isinstance(root, dict) and any(
        isinstance(name, str) and _LAYERS.match(name) for name in root
    )


def read_checkpoint(content: Content) -> tuple[OrbSettings, dict[str, torch.Tensor]]:
    """Return settings and weights of a file for which `is_orb` is true.

    The weights have the names of `OrbPotential.model`, or begin with ``unused/``. Raises
    FoundationError for a file that is damaged or not understood; its text continues "'FILE' …".
    """
    root: Any = content.root
    weights = {_name(name): _tensor(name, item) for name, item in root.items()}
    if any(name.startswith(_EARLIER) for name in weights):
        raise FoundationError("holds an ORB before v3, which is not supported. Give an ORB v3.")
    if sum(item.numel() for item in weights.values()) > content.numbers:
        raise FoundationError("has weights that share their numbers.")
    settings = _settings(weights)
    network = construct(settings)
    take_unused(network)
    for name, buffer in network.named_buffers():
        if name in weights and not torch.allclose(weights.pop(name).to(buffer), buffer):
            raise FoundationError(f"has other numbers in '{name}' than an ORB v3.")
    own = {
        name: _of_shape(weights, name, tuple(parameter.shape))
        for name, parameter in network.named_parameters()
    }
    rest = weights.keys() - own.keys() - _scales(settings).keys()
    return settings, {**own, **{f"{UNUSED}{name}": weights[name] for name in sorted(rest)}}


def _name(name: object) -> str:
    if not isinstance(name, str):
        raise FoundationError(f"has a weight named {describe(name)}.")
    return name


def _tensor(name: str, value: object) -> torch.Tensor:
    if not isinstance(value, torch.Tensor) or value.is_complex():
        raise FoundationError(f"has no real numbers at {describe(name)} but {describe(value)}.")
    if not bool(torch.isfinite(value).all()):
        raise FoundationError(f"holds NaN or infinite numbers in {describe(name)}.")
    return value if value.is_floating_point() else value.double()


def _of_shape(
    weights: Mapping[str, torch.Tensor], name: str, shape: tuple[int, ...]
) -> torch.Tensor:
    if name not in weights:
        raise FoundationError(f"has no weight '{name}', which an ORB v3 needs.")
    if weights[name].shape != shape:
        found = tuple(weights[name].shape)
        raise FoundationError(f"has a weight '{name}' of the shape {found}, not {shape}.")
    return weights[name]


def _layers(weights: Mapping[str, torch.Tensor], perceptron: str) -> list[tuple[int, int]]:
    """Return how many outputs and inputs each layer of a perceptron has."""
    found: list[tuple[int, int]] = []
    while (name := f"{perceptron}.NN-{len(found)}.weight") in weights:
        if weights[name].ndim != 2:
            raise FoundationError(f"has a weight '{name}' that is no matrix.")
        found.append((weights[name].shape[0], weights[name].shape[1]))
    if len(found) < 2:
        raise FoundationError(f"has no perceptron '{perceptron}' of two layers or more.")
    return found


def _settings(weights: Mapping[str, torch.Tensor]) -> OrbSettings:
    """Return what the shapes of the weights, the normalisers and the references say."""
    nodes, head = _layers(weights, _NODES), _layers(weights, "heads.energy.mlp")
    if (inputs := _layers(weights, _EDGES)[0][1]) != RADIAL * (DEGREE + 1) ** 2:
        raise FoundationError(f"has {inputs} features of an edge, which is not an ORB v3.")
    steps = {int(name.split(".")[2]) for name in weights if name.startswith("model.gnn_stacks.")}
    direct, conditioned = "heads.forces.mlp.NN-0.weight" in weights, _CHARGE in weights
    references = weights.get(_REFERENCES, torch.zeros(0)).flatten().double().tolist()
    if len(references) != EMBEDDED + 1:
        raise FoundationError(f"has no reference energies of {EMBEDDED} elements.")
    known = [number for number in (OMOL if conditioned else MPTRJ) if references[number]]
    fields: dict[str, Any] = {
        "atomic_numbers": known,
        "atomic_energies": [references[number] for number in known],
        "direct": direct,
        "charge_and_spin": conditioned,
        "latent_dim": nodes[-1][0],
        "message_passing_steps": len(steps),
        "base_mlp_hidden_dim": nodes[0][0],
        "base_mlp_depth": len(nodes) - 1,
        "head_mlp_hidden_dim": head[0][0],
        "head_mlp_depth": len(head) - 1,
    }
    for name in ("energy", *(["forces"] if direct else [])):
        mean, variance = (
            float(_of_shape(weights, key.format(name), (1,))) for key in (_MEAN, _VARIANCE)
        )
        fields |= {f"{name}_mean": mean, f"{name}_std": math.sqrt(max(variance, 0.0))}
    try:
        return OrbSettings.model_validate(fields)
    except ValidationError as error:
        place, reason, value = first_fault(error)
        raise FoundationError(f"gives {place} = {describe(value)}: {reason}.") from None


def _scales(settings: OrbSettings) -> dict[str, torch.Tensor]:
    """Return the tensors of a checkpoint that stand in the settings here."""
    references = torch.zeros(EMBEDDED + 1, dtype=torch.float64)
    references[list(settings.atomic_numbers)] = torch.tensor(
        settings.atomic_energies, dtype=torch.float64
    )
    found = {
        _REFERENCES: references,
        _MEAN.format("energy"): torch.tensor([settings.energy_mean], dtype=torch.float64),
        _VARIANCE.format("energy"): torch.tensor([settings.energy_std**2], dtype=torch.float64),
    }
    if settings.direct:
        found |= {
            _MEAN.format("forces"): torch.tensor([settings.forces_mean], dtype=torch.float64),
            _VARIANCE.format("forces"): torch.tensor([settings.forces_std**2], dtype=torch.float64),
        }
    return found


def write_checkpoint(
    potential: OrbPotential, dtype: torch.dtype, metadata: Mapping[str, Any]
) -> bytes:
    """Return a checkpoint that the models of orb-models load; ``dtype`` is that of its weights.

    The ``metadata`` are in an entry of the archive that torch does not read. Raises FoundationError
    for weights that an ORB has no place for.
    """
    own = dict(potential.model.named_parameters())
    network = construct(potential.settings)
    take_unused(network)
    refuse_further(own, dict(network.named_parameters()))
    basis = {n: item for n, item in network.named_buffers() if n.startswith("model.rbf_")}
    state = {**potential.unused, **basis, **own, **_scales(potential.settings)}
    weights = {name: item.detach().to("cpu", dtype, copy=True) for name, item in state.items()}
    return write_archive(weights, metadata)
