"""The network of a SevenNet, from e3nn's layers, with sevenn's names of weights.

NequIP (Batzner et al., Nat. Commun. 13, 2453, 2022) with SevenNet's choices (Park et al.,
J. Chem. Theory Comput. 20, 4857, 2024).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import torch

from finetune.core.errors import FoundationError
from finetune.potentials.equivariant import REFUSALS, Patterns, default_dtype, quiet_import
from finetune.potentials.potential import Edges
from finetune.potentials.sevennet.settings import (
    HeadLayer,
    Interaction,
    Irreps,
    SevenNetSettings,
    interactions,
    parse,
    parts_of_gate,
    written,
)


def shifted_softplus(values: torch.Tensor) -> torch.Tensor:
    """Return the softplus, shifted to be zero at zero."""
    return torch.nn.functional.softplus(values) - math.log(2.0)


_FUNCTIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": torch.nn.functional.relu,
    "silu": torch.nn.functional.silu,
    "tanh": torch.tanh,
    "abs": torch.abs,
    "ssp": shifted_softplus,
    "sigmoid": torch.sigmoid,
    "elu": torch.nn.functional.elu,
}


class Bessel(torch.nn.Module):
    """Radial functions (2 / cutoff) sin(k r) / r with trained or fixed wave numbers k."""

    coeffs: torch.Tensor

    def __init__(self, cutoff: float, count: int, trained: bool) -> None:
        super().__init__()
        self.factor = 2.0 / cutoff
        wave_numbers = torch.arange(1, count + 1, dtype=torch.float64) * (math.pi / cutoff)
        if trained:
            self.coeffs = torch.nn.Parameter(wave_numbers.to(torch.get_default_dtype()))
        else:
            self.register_buffer(
                "coeffs", wave_numbers.to(torch.get_default_dtype()), persistent=False
            )

    def forward(self, lengths: torch.Tensor) -> torch.Tensor:
        """Return the functions ``[E, count]`` of lengths ``[E]``, Å."""
        column = lengths[:, None]
        return self.factor * torch.sin(self.coeffs * column) / column


class Polynomial(torch.nn.Module):
    """An envelope with as many vanishing derivatives as its power gives (arXiv 2003.03123)."""

    def __init__(self, cutoff: float, power: int) -> None:
        super().__init__()
        self.cutoff, self.power = cutoff, power

    def forward(self, lengths: torch.Tensor) -> torch.Tensor:
        """Return the envelope ``[E]`` of lengths ``[E]`` below the cutoff, Å."""
        x, p = lengths / self.cutoff, float(self.power)
        return (
            1.0
            - (p + 1) * (p + 2) / 2 * x.pow(p)
            + p * (p + 2) * x.pow(p + 1)
            - p * (p + 1) / 2 * x.pow(p + 2)
        )


class Xplor(torch.nn.Module):
    """An envelope that falls between two lengths; its first derivative alone is continuous."""

    def __init__(self, cutoff: float, onset: float) -> None:
        super().__init__()
        self.cutoff, self.onset = cutoff, onset

    def forward(self, lengths: torch.Tensor) -> torch.Tensor:
        """Return the envelope ``[E]`` of lengths ``[E]`` below the cutoff, Å."""
        square, end, start = lengths.square(), self.cutoff**2, self.onset**2
        falling = (end - square).square() * (end + 2 * square - 3 * start) / (end - start) ** 3
        return torch.where(lengths < self.onset, torch.ones_like(lengths), falling)


class Network(torch.nn.ModuleDict):
    """Interaction energies and node features from a graph.

    Reference energies are not part of it. ``scale`` and the denominators of the convolutions follow
    from the settings.
    """

    scale: torch.Tensor

    def __init__(self, settings: SevenNetSettings) -> None:
        super().__init__()
        self.settings = settings
        self.layers = interactions(settings)
        envelope: torch.nn.Module = Polynomial(settings.cutoff, settings.polynomial_power)
        if settings.cutoff_function == "XPLOR":
            envelope = Xplor(settings.cutoff, settings.xplor_onset)
        self["edge_embedding"] = torch.nn.ModuleDict(
            {
                "basis_function": Bessel(
                    settings.cutoff, settings.num_bessel, settings.trained_bessel
                ),
                "cutoff_function": envelope,
                "spherical": _harmonics(self.layers[0].harmonics, settings),
            }
        )
        species: Irreps = [(len(settings.atomic_numbers), (0, 1))]
        first, last = parse(settings.irreps[0]), parse(settings.irreps[-1])
        self["onehot_to_feature_x"] = _linear(species, first, settings, "embedding")
        for index, layer in enumerate(self.layers):
            self[f"{index}_self_connection_intro"] = _self_connection(index, layer, settings)
            self[f"{index}_self_interaction_1"] = _linear(
                layer.before, layer.before, settings, "before"
            )
            self[f"{index}_convolution"] = _convolution(layer, settings)
            self[f"{index}_self_interaction_2"] = _linear(
                layer.product, layer.gate, settings, "after"
            )
            self[f"{index}_equivariant_gate"] = _gate(layer, settings)
        width = sum(count * (2 * degree + 1) for count, (degree, _) in last)
        if settings.readout_MLP is None:
            hidden: Irreps = [(width // 2, (0, 1))]
            self["reduce_input_to_hidden"] = _linear(last, hidden, settings, "readout")
            self["reduce_hidden_to_energy"] = _linear(hidden, [(1, (0, 1))], settings, None)
        else:
            sizes = (width, *settings.readout_MLP, 1)
            net = _perceptron(sizes, settings.readout_activation)
            self["readout_FCN"] = torch.nn.ModuleDict({"fcn": net})
        scale = torch.tensor(settings.scale, dtype=torch.get_default_dtype())
        self.register_buffer("scale", scale, persistent=False)

    @property
    def node_irreps(self) -> Irreps:
        """Irreps of the node features of all layers."""
        return [part for layer in self.layers for part in layer.after]

    def forward(
        self, types: torch.Tensor, edges: Edges, head: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return interaction energies ``[N]``, eV, and node features ``[N, components]``.

        ``types`` are indices into the settings' ``atomic_numbers`` ``[N]``.
        """
        settings, dtype = self.settings, edges.positions.dtype
        species = torch.nn.functional.one_hot(types, len(settings.atomic_numbers)).to(dtype)
        channel = torch.zeros(len(types), len(settings.heads), dtype=dtype, device=types.device)
        channel[:, head] = 1.0

        def linear(name: str, features: torch.Tensor, layer: HeadLayer | None) -> torch.Tensor:
            if layer in settings.head_layers:
                features = torch.cat([features, channel], dim=1)
            result: torch.Tensor = self[name]["linear"](features)  # type: ignore[index]
            return result

        embedding: Any = self["edge_embedding"]
        radial = embedding["basis_function"](edges.lengths)
        radial = radial * embedding["cutoff_function"](edges.lengths)[:, None]
        harmonics = embedding["spherical"](edges.vectors)
        x = linear("onehot_to_feature_x", species, "embedding")
        found = []
        for index in range(len(self.layers)):
            connection: Any = self[f"{index}_self_connection_intro"]
            if settings.self_connections[index] == "linear":
                kept = connection["linear"](x)
            else:
                kept = connection["fc_tensor_product"](x, species)
            x = linear(f"{index}_self_interaction_1", x, "before")
            convolution: Any = self[f"{index}_convolution"]
            weights = convolution["weight_nn"](radial)
            messages = convolution["convolution"](x[edges.receiver], harmonics, weights)
            x = messages.new_zeros(len(types), messages.shape[1])
            x = x.index_add(0, edges.sender, messages) / settings.denominators[index]
            x = linear(f"{index}_self_interaction_2", x, "after") + kept
            x = self[f"{index}_equivariant_gate"]["gate"](x)  # type: ignore[index]
            found.append(x)
        if settings.readout_MLP is None:
            hidden = linear("reduce_input_to_hidden", x, "readout")
            energy = linear("reduce_hidden_to_energy", hidden, None)
        else:
            energy = self["readout_FCN"]["fcn"](x)  # type: ignore[index]
        return energy[:, 0] * self.scale[head, types], torch.cat(found, dim=1)


def _harmonics(harmonics: Irreps, settings: SevenNetSettings) -> torch.nn.Module:
    layer: torch.nn.Module = quiet_import("e3nn.o3").SphericalHarmonics(
        _irreps(harmonics),
        normalize=settings.unit_vectors,
        normalization="component",
        irreps_in=f"1x1{'o' if settings.parity else 'e'}",
    )
    return layer


def _irreps(irreps: Irreps) -> Any:
    return quiet_import("e3nn.o3").Irreps(written(irreps))


def _linear(
    before: Irreps, after: Irreps, settings: SevenNetSettings, layer: HeadLayer | None
) -> torch.nn.ModuleDict:
    """Return a linear layer, whose last inputs are the head where the layer sees it."""
    if layer in settings.head_layers:
        before = [*before, (len(settings.heads), (0, 1))]
    built = quiet_import("e3nn.o3").Linear(_irreps(before), _irreps(after), biases=settings.bias)
    return torch.nn.ModuleDict({"linear": built})


def _self_connection(
    index: int, layer: Interaction, settings: SevenNetSettings
) -> torch.nn.ModuleDict:
    o3 = quiet_import("e3nn.o3")
    before, gate = _irreps(layer.before), _irreps(layer.gate)
    if settings.self_connections[index] == "linear":
        return torch.nn.ModuleDict({"linear": o3.Linear(before, gate)})
    species = f"{len(settings.atomic_numbers)}x0e"
    product = o3.FullyConnectedTensorProduct(before, species, gate)
    return torch.nn.ModuleDict({"fc_tensor_product": product})


def _convolution(layer: Interaction, settings: SevenNetSettings) -> torch.nn.ModuleDict:
    """Return a product of features and harmonics, and the network that gives its weights."""
    order = layer.order
    middle: Irreps = [(layer.paths[index].count, layer.paths[index].irrep) for index in order]
    instructions = [
        (layer.paths[index].node, layer.paths[index].edge, place, "uvu", True)
        for place, index in enumerate(order)
    ]
    product = quiet_import("e3nn.o3").TensorProduct(
        _irreps(layer.before),
        _irreps(layer.harmonics),
        _irreps(middle),
        instructions,
        shared_weights=False,
        internal_weights=False,
    )
    sizes = (settings.num_bessel, *settings.radial_MLP, product.weight_numel)
    return torch.nn.ModuleDict(
        {"convolution": product, "weight_nn": _perceptron(sizes, settings.radial_activation)}
    )


def _perceptron(sizes: tuple[int, ...], activation: str) -> torch.nn.Module:
    nn = quiet_import("e3nn.nn")
    built: torch.nn.Module = nn.FullyConnectedNet(list(sizes), _FUNCTIONS[activation])
    return built


def _gate(layer: Interaction, settings: SevenNetSettings) -> torch.nn.ModuleDict:
    scalars, gates, gated = parts_of_gate(layer.after)
    by_scalar = {1: settings.even_scalars, -1: settings.odd_scalars}
    by_gate = {1: settings.even_gates, -1: settings.odd_gates}
    built = quiet_import("e3nn.nn").Gate(
        _irreps(scalars),
        [_FUNCTIONS[by_scalar[parity]] for _, (_, parity) in scalars],
        _irreps(gates),
        [_FUNCTIONS[by_gate[parity]] for _, (_, parity) in gates],
        _irreps(gated),
    )
    return torch.nn.ModuleDict({"gate": built})


def construct(settings: SevenNetSettings, dtype: torch.dtype) -> Network:
    """Return a network with fresh weights; a `FoundationError` if e3nn refuses the settings."""
    quiet_import("e3nn.o3")
    try:
        with default_dtype(dtype), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # e3nn's TorchScript notices are not for the user
            return Network(settings)
    except REFUSALS as error:
        raise FoundationError(
            f"e3nn cannot build a SevenNet from these settings: {type(error).__name__}: {error}"
        ) from error


def _from_json(settings: str, dtype: torch.dtype) -> torch.nn.Module:
    return construct(SevenNetSettings.model_validate_json(settings), dtype)


_PATTERNS = Patterns(_from_json)


def unfilled(settings: SevenNetSettings, dtype: torch.dtype) -> Network:
    """Return a network with weights that must be filled in; see `Patterns`."""
    zeros = tuple((0.0,) * len(row) for row in settings.shift)  # no part of the network
    alike = settings.model_copy(update={"shift": zeros})
    network = _PATTERNS.copy(alike.model_dump_json(), dtype)
    assert isinstance(network, Network)
    return network
