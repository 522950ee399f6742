"""Files that `CHGNet.from_file` opens: read as inert data, and written.

Such a file is a dictionary with the network's weights and the arguments of its class, alone or
under ``model``, as CHGNet's trainer saves it.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from pydantic import ValidationError

from finetune.core.errors import FoundationError
from finetune.potentials.archive import Content, Record, describe, write_archive
from finetune.potentials.chgnet.potential import ChgnetPotential, construct, take_unused
from finetune.potentials.chgnet.settings import EMBEDDED, ChgnetSettings, Widths
from finetune.potentials.potential import UNUSED, refuse_further
from finetune.potentials.storage import first_fault

WEIGHTS, ARGUMENTS = "state_dict", "model_args"
ENERGIES = "composition_model.fc.weight"
ELEMENTS = "elements"
"""An argument that this package adds, and CHGNet ignores: the atomic numbers known."""
_FIRST = ("atom_embedding.", "atom_conv_layers.")
_NEVER_USED = frozenset(
    {"skip_connection", "cutofff_coeff", "graph_converter_algorithm", "converter_verbose"}
    | {"read_out", "num_heads"}  # of networks without mlp_first
)
_FIXED: dict[str, tuple[object, ...]] = {"mlp_first": (True,), "final_mlp": ("MLP", "normal")}
_LEFT_OVER = {
    84: (-0.1221, -0.016934),
    85: (-0.3448, -0.036191),
    86: (-0.4364, -0.010842),
    87: (-0.1661, 0.01317),
    88: (-0.3680, -0.065371),
}
"""What the energies of MPtrj and of MPF hold for elements that their data lack: Po to Ra."""
_NOTHING = 1e-6  # eV: a fit leaves this, or less, to elements that its data lack
_LIKE = 1e-4  # eV
_LIMITS = {"n_conv": 16, "layers": 16}


def is_chgnet(root: object) -> bool:
    """Whether a file holds a CHGNet, in a form that is supported or not."""
    if isinstance(root, Record):
        return root.path.startswith("chgnet.")
    return isinstance(root, dict) and any(_holds_weights(item) for item in _places(root))


def _places(root: dict[Any, Any]) -> list[object]:
    """Return where a dictionary may hold the weights of a network."""
    inner = root.get("model")
    below = [inner.get(WEIGHTS), inner] if isinstance(inner, dict) else []
    return [root.get(WEIGHTS), root, *below]


def _holds_weights(found: object) -> bool:
    return isinstance(found, dict) and any(
        isinstance(name, str) and name.startswith(_FIRST) for name in found
    )


def read_checkpoint(content: Content) -> tuple[ChgnetSettings, dict[str, torch.Tensor]]:
    """Return settings and weights of a file for which `is_chgnet` is true.

    The weights have the names of `ChgnetPotential.model`, or begin with ``unused/``. Raises
    FoundationError for a file that is damaged or not understood; its text continues "'FILE' …".
    """
    arguments, stored = _parts(content.root)
    if sum(item.numel() for item in stored.values() if torch.is_tensor(item)) > content.numbers:
        raise FoundationError("has weights that share their numbers.")
    weights = {_name(name): _tensor(name, tensor) for name, tensor in stored.items()}
    settings = _settings(arguments, weights)
    _check_plausible(settings, content.numbers)
    weights.pop(ENERGIES, None)
    network = construct(settings)
    _check_fit(network, weights)
    for name, _ in network.named_buffers():
        del weights[name]
    unused = take_unused(settings, network)
    own = {f"{UNUSED}{name}" if name in unused else name: item for name, item in weights.items()}
    return settings, own


def _parts(root: object) -> tuple[dict[Any, Any], dict[Any, Any]]:
    """Return the arguments of the network's class, and its weights."""
    advice = "Save {'model': chgnet.as_dict()} with torch.save, and give that file."
    if isinstance(root, Record):
        raise FoundationError(f"holds a pickled {root.name[:60]!r} object. {advice}")
    assert isinstance(root, dict)
    holder = root if _holds_weights(root.get(WEIGHTS)) else root.get("model")
    if not isinstance(holder, dict) or not _holds_weights(holder.get(WEIGHTS)):
        raise FoundationError(
            "holds the weights of a CHGNet (a state dict) without the arguments of its class, "
            f"model_args. {advice}"
        )
    arguments = holder.get(ARGUMENTS)
    if not isinstance(arguments, dict):
        raise FoundationError(
            f"holds a CHGNet without the arguments of its class, model_args. {advice}"
        )
    return arguments, holder[WEIGHTS]


def _name(name: object) -> str:
    if not isinstance(name, str):
        raise FoundationError(f"has a weight named {describe(name)}.")
    return name


def _tensor(name: str, value: object) -> torch.Tensor:
    if not isinstance(value, torch.Tensor) or not value.is_floating_point():
        raise FoundationError(f"has no real numbers at {describe(name)} but {describe(value)}.")
    if not bool(torch.isfinite(value).all()):
        raise FoundationError(f"holds NaN or infinite numbers in {describe(name)}.")
    return value


def _settings(arguments: dict[Any, Any], weights: Mapping[str, torch.Tensor]) -> ChgnetSettings:
    """Return settings from the arguments of CHGNet and its weights."""
    fields: dict[str, Any] = {}
    for name, value in arguments.items():
        if name in _FIXED:
            if not any(type(value) is type(item) and value == item for item in _FIXED[name]):
                raise FoundationError(
                    f"has '{name}' = {describe(value)}, which is not supported: only "
                    f"{_FIXED[name][0]!r} is."
                )
        elif name in ChgnetSettings.model_fields and name not in _OURS:
            fields[name] = value
        elif name not in _NEVER_USED and name != ELEMENTS:
            raise FoundationError(f"has an option {describe(name)} of CHGNet that is not known.")
    for name in _WIDTHS & fields.keys():
        fields[name] = 0 if fields[name] is None else fields[name]
    skipped = arguments.get("skip_connection")
    if skipped is not None and skipped is not False:
        raise FoundationError(f"has 'skip_connection' = {describe(skipped)}, not supported.")
    fields["composition_model"] = _composition(
        arguments.get("composition_model", "MPtrj"), fields.get("is_intensive", True)
    )
    fields["mlp_out_bias"] = "atom_conv_layers.0.mlp_out.layers.1.bias" in weights
    energies = _energies(arguments, weights)
    known = _elements(arguments.get(ELEMENTS), energies, arguments)
    fields["atomic_numbers"] = known
    fields["atomic_energies"] = [energies[number - 1] for number in known]
    try:
        return ChgnetSettings.model_validate(fields)
    except ValidationError as error:
        place, reason, value = first_fault(error)
        what = f"'{place}' = {describe(value)}" if place else "options"
        raise FoundationError(f"has {what} that cannot be used: {reason}.") from None


_OURS = frozenset({"atomic_numbers", "atomic_energies"})
_WIDTHS = frozenset(
    {"atom_conv_hidden_dim", "bond_conv_hidden_dim", "angle_layer_hidden_dim", "mlp_hidden_dims"}
)


def _composition(found: object, is_intensive: object) -> object:
    """Return the name of the energies that a file was made with, if they are AtomRef's."""
    if found is None:
        return "MPF" if is_intensive is False else "MPtrj"
    if isinstance(found, Record):
        if found.name != "AtomRef" or not isinstance(found.state, dict):
            raise FoundationError(
                f"has a composition model {found.name[:60]!r}; only AtomRef is supported."
            )
        return "MPtrj" if found.state.get("is_intensive") is True else "MPF"
    return found


def _energies(arguments: dict[Any, Any], weights: Mapping[str, torch.Tensor]) -> list[float]:
    """Return the energies of all elements, eV; zero without a composition model."""
    others = [name for name in weights if name.startswith("composition_model.")]
    if arguments.get("composition_model", "MPtrj") is None:
        if others:
            raise FoundationError(f"has a weight {describe(others[0])} but no composition model.")
        return [0.0] * EMBEDDED
    if others != [ENERGIES] or weights[ENERGIES].shape != (1, EMBEDDED):
        raise FoundationError(
            f"has no energies of {EMBEDDED} elements at '{ENERGIES}', the composition model."
        )
    energies: list[float] = weights[ENERGIES][0].double().tolist()
    return energies


def _elements(found: object, energies: list[float], arguments: dict[Any, Any]) -> list[int]:
    """Return the elements that the network was trained on, as far as the file tells."""
    everything = list(range(1, EMBEDDED + 1))
    if found is not None:
        numbers: list[Any] = found if isinstance(found, list) else [None]
        if not all(type(number) is int and 1 <= number <= EMBEDDED for number in numbers):
            raise FoundationError(f"has '{ELEMENTS}' that are no list of atomic numbers.")
        return numbers
    if arguments.get("composition_model", "MPtrj") is None:
        return everything
    return [
        number
        for number, energy in zip(everything, energies, strict=True)
        if abs(energy) > _NOTHING
        and not any(abs(energy - rest) < _LIKE for rest in _LEFT_OVER.get(number, ()))
    ]


def _check_plausible(settings: ChgnetSettings, numbers: int) -> None:
    """Refuse settings whose network is larger than its file, before it is built."""
    if settings.n_conv > _LIMITS["n_conv"]:
        raise FoundationError(
            f"has 'n_conv' = {describe(settings.n_conv)}, above the {_LIMITS['n_conv']} supported."
        )
    atom, bond, angle = settings.atom_fea_dim, settings.bond_fea_dim, settings.angle_fea_dim
    joined = atom + 2 * bond + angle
    bonds, angles = settings.bond_conv_hidden_dim, settings.angle_layer_hidden_dim
    later = (settings.n_conv - 1) * 2
    weights = EMBEDDED * atom + settings.num_radial * (atom + 2 * bond)
    weights += settings.num_angular * angle
    weights += settings.n_conv * 2 * _size(2 * atom + bond, settings.atom_conv_hidden_dim, atom)
    weights += later * _size(joined, bonds, bond) * settings.update_bond
    weights += later * _size(joined, angles, angle) * settings.update_angle
    weights += _size(atom, settings.mlp_hidden_dims, 1)
    if weights > numbers:
        raise FoundationError(
            f"describes a network of at least {describe(weights)} weights but holds {numbers} "
            "numbers."
        )


def _size(inputs: int, hidden: Widths, outputs: int) -> int:
    """Return how many weights a perceptron has, without biases."""
    widths = hidden if isinstance(hidden, tuple) else (hidden,) * bool(hidden)
    if len(widths) > _LIMITS["layers"]:
        raise FoundationError(f"has perceptrons of more than {_LIMITS['layers']} layers.")
    return sum(before * after for before, after in pairwise((inputs, *widths, outputs)))


def _check_fit(network: torch.nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Refuse weights that are missing, superfluous or of another shape than the network's."""
    expected = network.state_dict()
    for name, tensor in expected.items():
        if name not in weights:
            raise FoundationError(f"has no weight '{name}', which its settings ask for.")
        if weights[name].shape != tensor.shape:
            raise FoundationError(
                f"has a weight '{name}' of the shape {tuple(weights[name].shape)}, where its "
                f"settings ask for {tuple(tensor.shape)}."
            )
    superfluous = [name for name in weights if name not in expected]
    if superfluous:
        raise FoundationError(f"has a weight {describe(superfluous[0])} that no layer takes.")
    for name, buffer in network.named_buffers():
        if not torch.allclose(weights[name].to(buffer), buffer):
            raise FoundationError(f"has other numbers in '{name}' than its settings give.")


def write_checkpoint(
    potential: ChgnetPotential, dtype: torch.dtype, metadata: Mapping[str, Any]
) -> bytes:
    """Return a file that `CHGNet.from_file` opens; ``dtype`` is that of its weights.

    The reference energies are its composition model, in float64. The ``metadata`` are in an entry
    of the archive that torch does not read. Raises FoundationError for weights that a CHGNet has
    no place for.
    """
    settings = potential.settings
    own = {**dict(potential.model.named_parameters()), **potential.unused}
    state = construct(settings).state_dict()
    refuse_further(own, state)
    weights = {
        name: own.get(name, item).detach().to("cpu", dtype, copy=True)
        for name, item in state.items()
    }
    energies = torch.zeros(1, EMBEDDED, dtype=torch.float64)
    for number, energy in potential.references().items():
        energies[0, number - 1] = energy
    own_names = {*_OURS, "composition_model", "version"}
    arguments = {
        "composition_model": settings.composition_model,
        "version": settings.version,
        **settings.model_dump(mode="json", exclude=own_names),
        "mlp_first": True,
        "read_out": "ave",
        "graph_converter_algorithm": "fast",
        ELEMENTS: list(settings.atomic_numbers),
    }
    model = {WEIGHTS: {ENERGIES: energies, **weights}, ARGUMENTS: arguments}
    return write_archive({"model": model}, metadata)
