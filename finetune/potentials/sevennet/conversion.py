"""Read a checkpoint of sevenn that was read as inert data: settings, weights, and all checks.

A checkpoint holds ``config``, which describes the network, and ``model_state_dict``. The shapes of
all weights follow from the settings, so a file is checked completely before anything is built. Two
things differ between versions. Before 0.11, sevenn kept the weights of a convolution's paths in the
order in which they were found, later in that of their irreps. And e3nn's tables of couplings
(Wigner 3j symbols), which the file holds, changed their sign at times; as a path is proportional to
its weight, a sign is moved there.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from pydantic import ValidationError

from finetune.core.errors import FoundationError
from finetune.potentials.archive import Content, Record, describe
from finetune.potentials.equivariant import quiet_import
from finetune.potentials.sevennet.settings import (
    HeadLayer,
    Interaction,
    SevenNetSettings,
    inferred_irreps,
    interactions,
    weight_shapes,
)
from finetune.potentials.storage import first_fault

Tensors = dict[str, torch.Tensor]

OLDEST, NEWEST = (0, 9), (0, 13)
"""Of sevenn; the order of paths of earlier releases and options of later ones are not known."""
_SORTED = (0, 11)
"""Since when paths are kept in the order of their irreps."""
_MOST_PATHS = 4000
_MOST_LAYERS = 32
_ACCELERATORS = {
    "cuequivariance_config": "cuEquivariance",
    "use_flash_tp": "FlashTP",
    "use_oeq": "OpenEquivariance",
}
_HEAD_LAYERS: dict[str, HeadLayer] = {
    "use_modal_node_embedding": "embedding",
    "use_modal_self_inter_intro": "before",
    "use_modal_self_inter_outro": "after",
    "use_modal_output_block": "readout",
}
_OLD_NAMES = {
    "EdgeEmbedding": "edge_embedding",
    "reducing nn input to hidden": "reduce_input_to_hidden",
    "reducing nn hidden to energy": "reduce_hidden_to_energy",
}
"""Modules that do not become their later names when blanks turn into underscores."""
_FOLLOWS = re.compile(
    r".+\.output_mask"
    r"|.+\.linear\.bias|.+\.linear\.weight|.+\.fc_tensor_product\.weight"
    r"|\d+_convolution\.convolution\.weight"
    r"|\d+_convolution\.convolution\._compiled_main_left_right\._w3j_\d_\d_\d"
    r"|\d+_equivariant_gate\.gate\.mul\.weight"
)
"""Tensors that e3nn makes itself, and weights of which there are none."""
_ACCELERATED = re.compile(r"\d+_convolution\.convolution\..+|.+\.(linear|fc_tensor_product)\.f\..+")
"""Tensors of accelerated layers beside their weights."""


def read_checkpoint(content: Content) -> tuple[SevenNetSettings, Tensors]:
    """Return settings and weights of a checkpoint; see `Family.read`."""
    config, state = _parts(content.root)
    version = _version(config)
    accelerator = _accelerator(config, version)
    tensors = _renamed(state)
    settings = read_settings(config, tensors, version)
    layers = interactions(settings)
    shapes = weight_shapes(settings)
    _check_plausible(layers, shapes, content.numbers)
    _check_known(tensors, shapes, len(layers), accelerator is not None)
    weights = {name: _weight(tensors, name, shape) for name, shape in shapes.items()}
    for index, layer in enumerate(layers):
        name = f"{index}_convolution.weight_nn.layer{len(settings.radial_MLP)}.weight"
        order = list(range(len(layer.paths))) if version < _SORTED else layer.order
        signs = [1] * len(order) if accelerator else _signs(tensors, index, layer)
        weights[name] = _rearranged(weights[name], layer, order, signs)
    return settings, weights


def _parts(root: object) -> tuple[dict[Any, Any], dict[Any, Any]]:
    if isinstance(root, Record):
        raise FoundationError(
            f"holds a {root.name[:60]!r} of sevenn. Give the checkpoint (.pth) that it was made of."
        )
    found: list[dict[Any, Any]] = []
    for name in ("config", "model_state_dict"):
        part = root.get(name) if isinstance(root, dict) else None
        if not isinstance(part, dict) or not part:
            raise FoundationError(
                f"holds no {name}, as a checkpoint of sevenn does. Give the .pth file that the "
                "training wrote."
            )
        found.append(part)
    return found[0], found[1]


def _version(config: Mapping[Any, Any]) -> tuple[int, int]:
    found = config.get("version")
    match = (
        re.match(r"(\d{1,4})\.(\d{1,4})\b(\.0\.dev0$)?", found) if isinstance(found, str) else None
    )
    if match is None:
        raise FoundationError(f"names no version of sevenn: it has {describe(found)}.")
    version = (int(match[1]), int(match[2]))
    if version > NEWEST:
        raise FoundationError(
            f"was written by sevenn {version[0]}.{version[1]}; versions up to {NEWEST[0]}."
            f"{NEWEST[1]} are known. Update piwsl-finetune."
        )
    if version < OLDEST:
        raise FoundationError(
            f"was written by sevenn {version[0]}.{version[1]}; versions from {OLDEST[0]}."
            f"{OLDEST[1]} on are known. Train it further with a recent sevenn first."
        )
    if version == _SORTED and match[3]:
        return (0, 10)  # paths were sorted from the release on
    return version


def _accelerator(config: Mapping[Any, Any], version: tuple[int, int]) -> str | None:
    """Return whose convolutions the network had; their weights are those of sevenn's own."""
    for key, name in _ACCELERATORS.items():
        value = config.get(key, False)
        if isinstance(value, dict):
            value = value.get("use", False)
        if value is True and version < _SORTED:
            raise FoundationError(
                f"was trained with {name} by sevenn {version[0]}.{version[1]}, whose order of "
                "weights is not known. Continue it in sevenn without, and give that checkpoint."
            )
        if value is True:
            return name
        if value is not False and value is not None:
            raise FoundationError(f"has '{key}' = {describe(value)}, which is not understood.")
    return None


def _renamed(state: Mapping[Any, Any]) -> Tensors:
    """Return the tensors by the names that they have since sevenn 0.10."""
    found: Tensors = {}
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise FoundationError(
                f"has {describe(tensor)} under {describe(name)} in model_state_dict, not a tensor."
            )
        module, dot, rest = name.partition(".")
        module = _OLD_NAMES.get(module, module.replace(" ", "_"))
        found[module + dot + rest.replace("denumerator", "denominator")] = tensor
    return found


def read_settings(
    config: Mapping[Any, Any], tensors: Tensors, version: tuple[int, int]
) -> SevenNetSettings:
    """Return what the configuration describes, with shift, scale and denominators as trained."""
    _expect(config, "_model_type", "E3_equivariant_model")
    _expect(config, "interaction_type", "nequip")
    _expect(config, "optimize_by_reduce", True)
    numbers, heads = _numbers(config), _heads(config)
    layers = _whole(config, "num_convolution_layer", 1, _MOST_LAYERS)
    fields: dict[str, Any] = {
        "cutoff": config.get("cutoff"),
        "atomic_numbers": numbers,
        "irreps": _irreps(config, layers),
        "edge_degree": _degree(config, "lmax_edge"),
        "parity": _flag(config, "is_parity", None),
        "unit_vectors": _flag(config, "_normalize_sph", version >= (0, 10)),
        "radial_MLP": config.get("weight_nn_hidden_neurons"),
        "radial_activation": config.get("act_radial", "silu"),
        "self_connections": _per_layer(config.get("self_connection_type", "nequip"), layers),
        "denominators": [
            _single(tensors, f"{index}_convolution.denominator") for index in range(layers)
        ],
        "bias": _flag(config, "use_bias_in_linear"),
        "heads": heads or ("Default",),
        **_radial(config),
        **_activations(config),
        **_readout(config),
        "shift": _rows(tensors, "shift", len(heads) or 1, len(numbers)),
        "scale": _rows(tensors, "scale", len(heads) or 1, len(numbers)),
    }
    if heads:
        told = [layer for key, layer in _HEAD_LAYERS.items() if _flag(config, key)]
        if "readout_MLP" in fields and "readout" in told:
            told.remove("readout")  # such a readout is never told
        if len(heads) == 1 and told:
            raise FoundationError("has layers for channels, but only one: sevenn cannot run it.")
        fields["head_layers"] = told
    try:
        return SevenNetSettings.model_validate(fields)
    except ValidationError as error:
        place, reason, value = first_fault(error)
        given = f"has '{place}' = {describe(value)}" if place else "has settings"
        raise FoundationError(f"{given} that is not understood: {reason}.") from None


def _expect(config: Mapping[Any, Any], key: str, value: object) -> None:
    found = config.get(key, value)
    if type(found) is not type(value) or found != value:
        raise FoundationError(f"has '{key}' = {describe(found)}; only {value!r} is known.")


def _flag(config: Mapping[Any, Any], key: str, absent: bool | None = False) -> bool:
    found = config.get(key, absent)
    if not isinstance(found, bool):
        raise FoundationError(f"has '{key}' = {describe(found)}, not true or false.")
    return found


def _whole(config: Mapping[Any, Any], key: str, least: int, most: int) -> int:
    found = config.get(key)
    if type(found) is not int or not least <= found <= most:
        raise FoundationError(
            f"has '{key}' = {describe(found)}; a number from {least} to {most} is expected."
        )
    return found


def _numbers(config: Mapping[Any, Any]) -> list[int]:
    """Return the atomic numbers in the order of the network's inputs."""
    return _numbered(config, "_type_map", int, "elements")


def _heads(config: Mapping[Any, Any]) -> list[str]:
    """Return the channels by their number; none for a network of one fidelity."""
    if not _flag(config, "use_modality"):
        return []
    return _numbered(config, "_modal_map", str, "channels")


def _numbered(config: Mapping[Any, Any], key: str, kind: type, what: str) -> list[Any]:
    """Return the keys of a table that numbers them from zero, in that order."""
    table = config.get(key)
    if isinstance(table, dict) and table:
        places = list(table.values())
        plain = all(type(item) is kind for item in table) and all(type(p) is int for p in places)
        if plain and sorted(places) == list(range(len(places))):
            return sorted(table, key=lambda item: table[item])
    raise FoundationError(f"has a '{key}' that does not number its {what}.")


def _degree(config: Mapping[Any, Any], key: str) -> int:
    """Return a degree of its own, or else that of the whole network."""
    own = config.get(key, -1)
    if type(own) is int and own > 0:
        return own
    return _whole(config, "lmax", 0, 6)


def _irreps(config: Mapping[Any, Any], layers: int) -> object:
    given = config.get("irreps_manual", False)
    if given is not False:
        if not isinstance(given, (list, tuple)) or len(given) != layers + 1:
            raise FoundationError(f"has 'irreps_manual' that is not {layers + 1} irreps.")
        return given
    return inferred_irreps(
        _whole(config, "channel", 1, 100_000),
        min(_degree(config, "lmax_node"), 6),
        min(_degree(config, "lmax_edge"), 6),
        _flag(config, "is_parity", None),
        layers,
    )


def _per_layer(given: object, layers: int) -> object:
    return [given] * layers if isinstance(given, str) else given


def _radial(config: Mapping[Any, Any]) -> dict[str, Any]:
    """Return the settings of radial functions and envelope."""
    basis = _options(config, "radial_basis", "radial_basis_name", {"bessel"})
    known = {"radial_basis_name", "bessel_basis_num", "trainable_coeff"}
    cutoff = _options(config, "cutoff_function", "cutoff_function_name", {"poly_cut", "XPLOR"})
    polynomial = cutoff["cutoff_function_name"] == "poly_cut"
    allowed = {"cutoff_function_name", "poly_cut_p_value"} | (
        set() if polynomial else {"cutoff_on"}
    )
    for key in [*(basis.keys() - known), *(cutoff.keys() - allowed)]:
        raise FoundationError(f"has a radial option {describe(key)}, which is not known.")
    found = {
        "num_bessel": basis.get("bessel_basis_num", 8),
        "trained_bessel": basis.get("trainable_coeff", True),
    }
    if polynomial:
        return {**found, "polynomial_power": cutoff.get("poly_cut_p_value", 6)}
    return {**found, "cutoff_function": "XPLOR", "xplor_onset": cutoff.get("cutoff_on")}


def _options(config: Mapping[Any, Any], key: str, name: str, known: set[str]) -> dict[Any, Any]:
    found = config.get(key)
    given = found.get(name) if isinstance(found, dict) else found
    if not isinstance(found, dict) or not isinstance(given, str) or given not in known:
        raise FoundationError(
            f"has '{key}' = {describe(given)}; known are {', '.join(sorted(known))}."
        )
    return found


def _activations(config: Mapping[Any, Any]) -> dict[str, Any]:
    found = {}
    for key, field in (("act_scalar", "scalars"), ("act_gate", "gates")):
        given = config.get(key, {})
        if not isinstance(given, dict):
            raise FoundationError(f"has '{key}' = {describe(given)}, which is not understood.")
        found[f"even_{field}"] = given.get("e", "silu")
        found[f"odd_{field}"] = given.get("o", "tanh")
    return found


def _readout(config: Mapping[Any, Any]) -> dict[str, Any]:
    if not _flag(config, "readout_as_fcn"):
        return {}
    return {
        "readout_MLP": config.get("readout_fcn_hidden_neurons"),
        "readout_activation": config.get("readout_fcn_activation"),
    }


def _tensor(tensors: Tensors, name: str) -> torch.Tensor:
    found = tensors.get(name)
    if found is None:
        raise FoundationError(f"has no tensor '{name}'.")
    if not found.is_floating_point() or not bool(torch.isfinite(found).all()):
        raise FoundationError(f"holds NaN, infinite or other than real numbers in '{name}'.")
    return found


def _single(tensors: Tensors, name: str) -> float:
    found = _tensor(tensors, name)
    if found.numel() != 1:
        raise _misshaped(name, found, (1,))
    return float(found.double().item())


def _rows(tensors: Tensors, which: str, heads: int, species: int) -> list[list[float]]:
    """Return shift or scale for each head and element, from as few numbers as the file has."""
    name = f"rescale_atomic_energy.{which}"
    found = _tensor(tensors, name)
    if found.numel() == 1:
        found = found.reshape(1)
    elif tuple(found.shape) not in {(species,), (heads, species)}:
        raise _misshaped(name, found, (heads, species))
    rows: list[list[float]] = found.double().expand(heads, species).tolist()
    return rows


def _misshaped(name: str, found: torch.Tensor, expected: tuple[int, ...]) -> FoundationError:
    return FoundationError(
        f"has a tensor of shape {tuple(found.shape)} at '{name}', where {expected} is expected."
    )


def _check_plausible(
    layers: list[Interaction], shapes: Mapping[str, tuple[int, ...]], numbers: int
) -> None:
    """Refuse settings for which building takes more than the file gives reason for."""
    paths = sum(len(layer.paths) for layer in layers)
    if paths > _MOST_PATHS:
        raise FoundationError(
            f"has {paths} products of irreps, beyond the {_MOST_PATHS} that are supported."
        )
    weights = sum(math.prod(shape) for shape in shapes.values())
    if weights > numbers:
        raise FoundationError(
            f"describes a network of {weights} weights but holds {numbers} numbers."
        )


def _check_known(
    tensors: Tensors, shapes: Mapping[str, tuple[int, ...]], layers: int, accelerated: bool
) -> None:
    """Refuse tensors that a network of these settings does not have."""
    fixed = {f"{index}_convolution.denominator" for index in range(layers)}
    fixed |= {"rescale_atomic_energy.shift", "rescale_atomic_energy.scale"}
    for name, tensor in tensors.items():
        if name in shapes or name in fixed or (accelerated and _ACCELERATED.fullmatch(name)):
            continue
        if not _FOLLOWS.fullmatch(name) or (name.endswith(("weight", "bias")) and tensor.numel()):
            raise FoundationError(
                f"holds a tensor {tuple(tensor.shape)} at {describe(name)}, which no "
                "SevenNet of its settings has: this architecture is not understood."
            )


def _weight(tensors: Tensors, name: str, shape: tuple[int, ...]) -> torch.Tensor:
    found = _tensor(tensors, name)
    if tuple(found.shape) != shape:
        raise _misshaped(name, found, shape)
    return found.contiguous()


def _signs(tensors: Tensors, index: int, layer: Interaction) -> list[int]:
    """Return, for each path, by which sign the file's couplings differ from e3nn's here."""
    o3 = quiet_import("e3nn.o3")
    compared: dict[tuple[int, int, int], int] = {}
    found = []
    for path in layer.paths:
        degrees = (
            layer.before[path.node][1][0],
            layer.harmonics[path.edge][1][0],
            path.irrep[0],
        )
        if 0 in degrees:  # e3nn takes no table
            found.append(1)
            continue
        if degrees not in compared:
            name = "_w3j_{}_{}_{}".format(*degrees)
            name = f"{index}_convolution.convolution._compiled_main_left_right.{name}"
            mine = o3.wigner_3j(*degrees, dtype=torch.float64)
            file = _tensor(tensors, name).double()
            if file.shape != mine.shape:
                raise _misshaped(name, file, tuple(mine.shape))
            match = [s for s in (1, -1) if torch.allclose(s * file, mine, rtol=0, atol=1e-5)]
            if not match:
                raise FoundationError(f"has couplings at '{name}' that are not e3nn's.")
            compared[degrees] = match[0]
        found.append(compared[degrees])
    return found


def _rearranged(
    weight: torch.Tensor, layer: Interaction, order: list[int], signs: list[int]
) -> torch.Tensor:
    """Return the last radial weights ``[hidden, paths' channels]`` in the network's order.

    ``order`` says which path each part of the file's columns belongs to.
    """
    parts = torch.split(weight, [layer.paths[index].count for index in order], dim=1)
    by_path = dict(zip(order, parts, strict=True))
    return torch.cat([signs[index] * by_path[index] for index in layer.order], dim=1)
