"""Settings of a MACE model that was read as inert data.

What is read here is what tells one MACE from another; `finetune.foundation.comparison` then makes
certain that a model built from these settings has every part that the file has.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from pydantic import ValidationError

from finetune.errors import FoundationError
from finetune.foundation.inert import Global, Record
from finetune.foundation.parts import Part, describe
from finetune.foundation.settings import FURTHER_INPUTS, MaceSettings

_ARCHITECTURES = ("MACE", "ScaleShiftMACE")
_RADIAL = {"BesselBasis": "bessel", "GaussianBasis": "gaussian", "ChebychevBasis": "chebyshev"}
_TRANSFORMS = {"AgnesiTransform": "Agnesi", "SoftTransform": "Soft"}
_FLAGS = (
    "use_so3",
    "use_reduced_cg",
    "use_agnostic_product",
    "use_last_readout_only",
    "use_edge_irreps_first",
)


def read_settings(root: object) -> MaceSettings:
    """Return the settings of the MACE that a pickle holds.

    Raises:
        FoundationError: If it holds something else, or a MACE that this package does not know.
    """
    model = _model(root)
    interactions = model.child("interactions").children()
    if not interactions:
        raise FoundationError("has no interactions.")
    first, last = interactions[0], interactions[-1]
    energies = _rows(model.child("atomic_energies_fn").tensor("atomic_energies"))
    fields: dict[str, Any] = {
        "architecture": model.name,
        "max_ell": model.child("spherical_harmonics").value("_lmax"),
        "interaction_cls": last.name,
        "interaction_cls_first": first.name,
        "num_interactions": len(interactions),
        "hidden_irreps": first.value("hidden_irreps"),
        "avg_num_neighbors": _number(first.value("avg_num_neighbors")),
        "atomic_numbers": model.tensor("atomic_numbers").tolist(),
        "atomic_energies": energies,
        "correlation": _correlation(model),
        "radial_MLP": _radial_widths(first),
        "pair_repulsion": model.has("pair_repulsion_fn"),
        "edge_irreps": model.value("edge_irreps"),
        "keep_last_layer_irreps": _keeps_last(interactions),
        "heads": model.value("heads", ["Default"]),
        **{name: model.value(name, False) for name in _FLAGS},
        **_radial(model.child("radial_embedding")),
        **_readout(model),
        **_further_inputs(model),
    }
    if model.name == "ScaleShiftMACE":
        block = model.child("scale_shift")
        fields["atomic_inter_scale"] = _row(block.tensor("scale"))
        fields["atomic_inter_shift"] = _row(block.tensor("shift"))
    return _validated(fields)


def _model(root: object) -> Part:
    if isinstance(root, dict):
        values = list(root.values())
        if values and all(isinstance(value, torch.Tensor) for value in values):
            raise FoundationError(
                "holds weights alone (a state dict), without the model they belong to. "
                "Give the .model file that was saved with torch.save(model)."
            )
        raise FoundationError(
            "holds a dictionary, such as a training checkpoint, not a model. "
            "Give the .model file that the training left."
        )
    model = Part(root)
    if model.package != "mace" or model.name not in _ARCHITECTURES:
        raise FoundationError(
            f"holds {describe(root)}, but only {' and '.join(_ARCHITECTURES)} are known."
        )
    return model


def _further_inputs(model: Part) -> dict[str, Any]:
    """Return the embeddings of charge and spin; nothing if there are none."""
    specs = model.value("embedding_specs") if model.has("joint_embedding") else None
    if specs is None:
        return {}
    if not isinstance(specs, dict):
        raise FoundationError("has embeddings of further inputs that are not understood.")
    for name, spec in specs.items():
        if name not in FURTHER_INPUTS or not isinstance(spec, dict) or spec.get("per") != "graph":
            raise FoundationError(
                f"has a further input {describe(name)}; only {' and '.join(FURTHER_INPUTS)} of a "
                "whole structure are known."
            )
    return {"embedding_specs": specs, "use_embedding_readout": model.has("embedding_readout")}


def _radial(block: Part) -> dict[str, Any]:
    basis = block.child("bessel_fn").name
    if basis not in _RADIAL:
        raise FoundationError(f"has an unknown radial basis {basis[:60]!r}.")
    transform = "None"
    if block.has("distance_transform"):
        name = block.child("distance_transform").name
        if name not in _TRANSFORMS:
            raise FoundationError(f"has an unknown distance transform {name[:60]!r}.")
        transform = _TRANSFORMS[name]
    cutoff = block.child("cutoff_fn")
    return {
        "r_max": _decimal(cutoff.tensor("r_max")),
        "num_polynomial_cutoff": _number(cutoff.tensor("p")),
        "num_bessel": block.value("out_dim"),
        "radial_type": _RADIAL[basis],
        "distance_transform": transform,
        "apply_cutoff": block.value("apply_cutoff", True),
    }


def _radial_widths(interaction: Part) -> Any:
    widths = interaction.value("radial_MLP")
    if widths is not None:
        return widths
    layers = interaction.child("conv_tp_weights").value("hs")
    return layers[1:-1] if isinstance(layers, list) else None


def _readout(model: Part) -> dict[str, Any]:
    """Return what only the last, nonlinear readout tells; nothing if there is none."""
    readouts = model.child("readouts").children()
    if not readouts or "linear_1" not in readouts[-1].table("_modules"):
        return {}
    readout = readouts[-1]
    heads = readout.value("num_heads", 1)
    return {
        "readout_cls": readout.name,
        "MLP_irreps": _per_head(readout.value("hidden_irreps"), heads),
        "gate": _gate(readout.child("non_linearity", "acts").table("_modules").get("0")),
    }


def _per_head(irreps: Any, heads: Any) -> Any:
    if heads == 1:
        return irreps
    count, _, irrep = irreps.partition("x") if isinstance(irreps, str) else ("", "", "")
    if "+" in irrep or not count.isdigit() or type(heads) is not int or int(count) % heads:
        raise FoundationError("shares out the irreps of its readout in an unknown way.")
    return f"{int(count) // heads}x{irrep}"


def _gate(activation: object) -> str:
    if activation is None:
        return "None"
    function = Part(activation, "the gate").value("f")
    if isinstance(function, Global):
        return function.name
    if isinstance(function, Record) and function.path == "builtins.getattr":
        name = function.args[-1] if isinstance(function.args, tuple) and function.args else None
        if isinstance(name, str):
            return name
    raise FoundationError(f"has an unknown gate: {describe(function)}.")


def _keeps_last(interactions: list[Part]) -> bool:
    hidden = interactions[0].value("hidden_irreps")
    wide = isinstance(hidden, str) and "+" in hidden
    return len(interactions) > 1 and wide and interactions[-1].value("hidden_irreps") == hidden


def _correlation(model: Part) -> Any:
    found = [
        product.child("symmetric_contractions", "contractions", "0").value("correlation")
        for product in model.child("products").children()
    ]
    return found[0] if found and found.count(found[0]) == len(found) else found


def _number(value: Any) -> Any:
    return value.item() if isinstance(value, torch.Tensor) and value.numel() == 1 else value


def _decimal(tensor: torch.Tensor) -> Any:
    """Return a number; if it was kept in single precision, the shortest decimal that gives it."""
    value = _number(tensor)
    if isinstance(value, float) and tensor.float().item() == value:
        return float(str(np.float32(value)))
    return value


def _row(tensor: torch.Tensor) -> Any:
    return tensor.double().flatten().tolist() if tensor.dim() < 2 else None


def _rows(tensor: torch.Tensor) -> Any:
    rows = tensor.double()
    return rows.tolist() if rows.dim() == 2 else [rows.tolist()]


def _validated(fields: dict[str, Any]) -> MaceSettings:
    try:
        settings = MaceSettings.model_validate(fields)
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(map(str, fault["loc"]))
        raise FoundationError(
            f"has '{place}' = {describe(fault['input'])}, which is not understood: {fault['msg']}."
        ) from None
    _check_counts(settings)
    return settings


def _check_counts(settings: MaceSettings) -> None:
    heads, elements = len(settings.heads), len(settings.atomic_numbers)
    if [len(row) for row in settings.atomic_energies] != [elements] * heads:
        raise FoundationError(
            f"has reference energies that do not match its {elements} elements and {heads} heads."
        )
    if settings.architecture == "ScaleShiftMACE":
        for name in ("atomic_inter_scale", "atomic_inter_shift"):
            if len(getattr(settings, name)) != heads:
                raise FoundationError(f"has '{name}' that does not match its {heads} heads.")
    numbers = settings.atomic_numbers
    if len(set(numbers)) != elements or not all(1 <= number <= 118 for number in numbers):
        raise FoundationError("has atomic numbers that are not those of distinct elements.")
