"""Settings that rebuild a SevenNet, and the irreps and weights that follow from them.

Nothing here imports torch or e3nn, so a file can be checked before anything is built.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from ase.data import chemical_symbols
from pydantic import Field, model_validator

from finetune.potentials.settings import LONGEST, FamilySettings, elements_row

Activation = Literal["relu", "silu", "tanh", "abs", "ssp", "sigmoid", "elu"]
EvenActivation = Literal["silu", "ssp"]
OddActivation = Literal["tanh", "abs"]
HeadLayer = Literal["embedding", "before", "after", "readout"]
Irrep = tuple[int, int]
"""Degree and parity."""
Irreps = list[tuple[int, Irrep]]
"""Multiplicities and irreps, in order."""

HIGHEST_DEGREE = 6
_TERM = re.compile(r"(?:([1-9]\d{0,5})x)?(\d)([eo])")
_SIGNS = {"e": 1, "o": -1}
_MOST = {"irreps": 33, "radial_MLP": 16, "readout_MLP": 16, "heads": 1000}
_SCALAR: Irrep = (0, 1)


class SevenNetSettings(FamilySettings):
    """What rebuilds a SevenNet without its weights.

    A layer is a self-connection, a linear layer, a convolution, another linear layer and a gate.
    ``shift`` and ``scale`` (eV) have a row for each head with one entry for each of
    ``atomic_numbers``: the energy of an atom is scale · (network's output) + shift. Scales and
    denominators are fixed here, also where sevenn had trained them.
    """

    cutoff: float = Field(gt=0, le=LONGEST, description="Å")
    atomic_numbers: tuple[int, ...] = Field(
        min_length=1, description="in the order of the network's inputs; 0 for one without element"
    )
    irreps: tuple[str, ...] = Field(
        min_length=2, description="of the node features: embedded, and after each layer"
    )
    edge_degree: int = Field(2, ge=0, le=HIGHEST_DEGREE, description="of spherical harmonics")
    parity: bool = Field(True, description="O(3) if true; SO(3), without reflections, if false")
    unit_vectors: bool = Field(True, description="whether spherical harmonics ignore the length")
    num_bessel: int = Field(8, ge=1, le=10_000)
    trained_bessel: bool = Field(True, description="whether the wave numbers are weights")
    cutoff_function: Literal["polynomial", "XPLOR"] = "polynomial"
    polynomial_power: int = Field(6, ge=2, le=100)
    xplor_onset: float = Field(0.0, ge=0, description="Å; where XPLOR starts to fall off")
    radial_MLP: tuple[int, ...] = (64, 64)  # noqa: N815 (as MaceSettings has it)
    radial_activation: Activation = "silu"
    even_scalars: EvenActivation = "silu"
    odd_scalars: OddActivation = "tanh"
    even_gates: EvenActivation = "silu"
    odd_gates: OddActivation = "tanh"
    self_connections: tuple[Literal["nequip", "linear"], ...]
    denominators: tuple[float, ...] = Field(description="of the sums over neighbours")
    bias: bool = Field(False, description="whether linear layers have biases")
    readout_MLP: tuple[int, ...] | None = Field(  # noqa: N815
        None, description="hidden layers; without, the readout is two linear layers"
    )
    readout_activation: Activation = "relu"
    heads: tuple[str, ...] = Field(("Default",), min_length=1, description="channels, modalities")
    head_layers: tuple[HeadLayer, ...] = Field(
        (),
        description="linear layers that see the head: the embedding, those before and after each "
        "convolution, and the readout",
    )
    shift: tuple[tuple[float, ...], ...]
    scale: tuple[tuple[float, ...], ...]

    @model_validator(mode="after")
    def _consistent(self) -> SevenNetSettings:
        layers, species, heads = len(self.irreps) - 1, len(self.atomic_numbers), len(self.heads)
        for name, most in _MOST.items():
            if len(getattr(self, name) or ()) > most:
                raise ValueError(f"{name} has more than {most} entries")
        for name in ("self_connections", "denominators"):
            if len(getattr(self, name)) != layers:
                raise ValueError(f"{name} must have an entry for each of the {layers} layers")
        for name in ("shift", "scale"):
            if [len(row) for row in getattr(self, name)] != [species] * heads:
                raise ValueError(f"{name} must have {heads} rows of {species} numbers")
        for name in ("atomic_numbers", "heads", "head_layers"):
            if len(set(getattr(self, name))) != len(getattr(self, name)):
                raise ValueError(f"{name} has entries twice")
        if not all(0 <= number < len(chemical_symbols) for number in self.atomic_numbers):
            raise ValueError("atomic_numbers must be those of elements")
        if not self.elements_known():
            raise ValueError("atomic_numbers names no element")
        if 0.0 in self.denominators:
            raise ValueError("denominators must not be zero")
        if min((*self.radial_MLP, *(self.readout_MLP or ())), default=1) < 1:
            raise ValueError("radial_MLP and readout_MLP must be positive")
        if self.cutoff_function == "XPLOR" and self.xplor_onset >= self.cutoff:
            raise ValueError("xplor_onset must be below the cutoff")
        if heads == 1 and self.head_layers:
            raise ValueError("head_layers need several heads")
        for text in self.irreps:
            parse(text)
        for layer in interactions(self):
            if not layer.product:
                raise ValueError(f"no product of features and edges has irreps of '{layer.after}'")
        last = parse(self.irreps[-1])
        if dimension(last) < 2:
            raise ValueError("the last irreps must have two components or more")
        if self.readout_MLP is not None:
            if any(irrep != _SCALAR for _, irrep in last):
                raise ValueError("the last irreps must be even scalars where readout_MLP is given")
            if "readout" in self.head_layers:
                raise ValueError("a readout with readout_MLP does not see the head")
        return self

    def elements_known(self) -> tuple[int, ...]:
        """See `FamilySettings.elements_known`."""
        return tuple(number for number in self.atomic_numbers if number)

    def head_names(self) -> tuple[str, ...]:
        """See `FamilySettings.head_names`."""
        return self.heads

    def description(self) -> list[tuple[str, str]]:
        """See `FamilySettings.description`."""
        readout = "linear" if self.readout_MLP is None else " → ".join(map(str, self.readout_MLP))
        envelope = f"polynomial, power {self.polynomial_power}"
        if self.cutoff_function == "XPLOR":
            envelope = f"XPLOR from {self.xplor_onset:g} Å"
        several = len(self.heads) > 1
        rows = [
            ("architecture", "SevenNet"),
            ("cutoff", f"{self.cutoff:g} Å"),
            ("cutoff function", envelope),
            ("symmetry", "O(3)" if self.parity else "SO(3): reflections change energies slightly"),
            ("layers", str(len(self.irreps) - 1)),
            ("hidden irreps", _runs(self.irreps)),
            ("spherical harmonics", f"to degree {self.edge_degree}"),
            ("self-connections", _runs(self.self_connections)),
            ("radial basis", f"{self.num_bessel} bessel"),
            ("radial layers", " → ".join(map(str, self.radial_MLP))),
            ("readout", readout),
            ("heads", ", ".join(self.heads) if several else ""),
            ("heads act in", ", ".join(self.head_layers)),
            elements_row(self.elements_known()),
        ]
        return [(label, value) for label, value in rows if value]


def _runs(items: Iterable[str]) -> str:
    """Return items in a row, repeated ones once, with their number."""
    found: list[tuple[str, int]] = []
    for item in items:
        if found and found[-1][0] == item:
            found[-1] = (item, found[-1][1] + 1)
        else:
            found.append((item, 1))
    return ", ".join(item if count == 1 else f"{count} × {item}" for item, count in found)


def parse(text: str) -> Irreps:
    """Return irreps written as e3nn does; a ValueError for anything else."""
    matches = [_TERM.fullmatch(term) for term in text.replace(" ", "").split("+")]
    found: Irreps = []
    for match in matches:
        if match is None or int(match[2]) > HIGHEST_DEGREE or len(matches) > _MOST["irreps"]:
            raise ValueError(f"'{text[:60]}' is not understood as irreps such as 8x0e+4x1o")
        found.append((int(match[1] or 1), (int(match[2]), _SIGNS[match[3]])))
    return found


def written(irreps: Irreps) -> str:
    """Return irreps as e3nn writes them."""
    return "+".join(f"{count}x{degree}{'e' if p == 1 else 'o'}" for count, (degree, p) in irreps)


def dimension(irreps: Irreps) -> int:
    """Return the number of components."""
    return sum(count * (2 * degree + 1) for count, (degree, _) in irreps)


def gathered(irreps: Irreps) -> Irreps:
    """Return the same irreps sorted as e3nn does, each one once."""
    counts: dict[Irrep, int] = {}
    for count, irrep in irreps:
        counts[irrep] = counts.get(irrep, 0) + count
    return [(counts[irrep], irrep) for irrep in sorted(counts)]


@dataclass(frozen=True)
class Path:
    """A product of irrep ``node`` of the features and ``edge`` of the harmonics, by position."""

    node: int
    edge: int
    count: int
    irrep: Irrep


@dataclass(frozen=True)
class Interaction:
    """Irreps of one layer.

    Attributes:
        before, after: Of the node features.
        harmonics: Of the edges.
        product: Of the convolution, each irrep once.
        gate: What the gate takes in.
        paths: The convolution's products, in the order of sevenn before 0.11.
    """

    before: Irreps
    after: Irreps
    harmonics: Irreps
    product: Irreps
    gate: Irreps
    paths: tuple[Path, ...]

    @property
    def order(self) -> list[int]:
        """Positions of the paths in the order in which the network, and sevenn 0.11, has them."""
        return sorted(range(len(self.paths)), key=lambda index: (self.paths[index].irrep, index))


def harmonics_of(degree: int, parity: bool) -> Irreps:
    """Return the irreps of spherical harmonics up to a degree."""
    return [(1, (order, (-1) ** order if parity else 1)) for order in range(degree + 1)]


def products(features: Irreps, harmonics: Irreps, even: bool) -> Iterator[Path]:
    """Return the products of features and harmonics; of even parity alone if asked for."""
    for node, (count, (degree, parity)) in enumerate(features):
        for edge, (_, (order, sign)) in enumerate(harmonics):
            for total in range(abs(degree - order), degree + order + 1):
                if parity * sign == 1 or not even:
                    yield Path(node, edge, count, (total, parity * sign))


def interactions(settings: SevenNetSettings) -> list[Interaction]:
    """Return the irreps of each layer; the last one keeps even parity alone."""
    harmonics = harmonics_of(settings.edge_degree, settings.parity)
    found = []
    for index, (first, second) in enumerate(pairwise(settings.irreps)):
        before, after = parse(first), parse(second)
        last = index == len(settings.irreps) - 2
        highest = max(degree for _, (degree, _) in after)
        paths = tuple(p for p in products(before, harmonics, last) if p.irrep[0] <= highest)
        product = gathered([(path.count, path.irrep) for path in paths])
        found.append(Interaction(before, after, harmonics, product, _gate(after), paths))
    return found


def parts_of_gate(after: Irreps) -> tuple[Irreps, Irreps, Irreps]:
    """Return scalars, the gates of the others, and the others."""
    scalars = [item for item in after if item[1][0] == 0]
    gated = [item for item in after if item[1][0] > 0]
    parity = 1 if any(irrep == _SCALAR for _, irrep in scalars) else -1
    return scalars, [(count, (0, parity)) for count, _ in gated], gated


def _gate(after: Irreps) -> Irreps:
    scalars, gates, gated = parts_of_gate(after)
    return gathered([*scalars, *gates, *gated])


def inferred_irreps(
    channels: int, degree: int, edge_degree: int, parity: bool, layers: int
) -> tuple[str, ...]:
    """Return the node irreps of a SevenNet for which they are not listed.

    Every irrep up to ``degree`` that a layer reaches has ``channels`` copies; the last layer has
    even scalars alone.
    """
    harmonics = harmonics_of(edge_degree, parity)
    features: Irreps = [(channels, _SCALAR)]
    found = [written(features)]
    for layer in range(layers):
        last = layer == layers - 1
        reached = {path.irrep for path in products(features, harmonics, last)}
        kept = sorted(irrep for irrep in reached if irrep[0] <= (0 if last else degree))
        features = [(channels, irrep) for irrep in kept]
        found.append(written(features))
    return tuple(found)


def weight_shapes(settings: SevenNetSettings) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a network's parameters by name, as sevenn's checkpoints name them."""
    found: dict[str, tuple[int, ...]] = {}

    def linear(name: str, before: Irreps, after: Irreps, layer: HeadLayer | None) -> None:
        if layer in settings.head_layers:
            before = [*before, (len(settings.heads), _SCALAR)]
        size = sum(m * n for m, one in before for n, other in after if one == other)
        bias = sum(count for count, irrep in after if irrep == _SCALAR) if settings.bias else 0
        found[f"{name}.linear.weight"] = (size,)
        found[f"{name}.linear.bias"] = (bias,)

    def perceptron(name: str, *sizes: int) -> None:
        for index, shape in enumerate(pairwise(sizes)):
            found[f"{name}.layer{index}.weight"] = shape

    if settings.trained_bessel:
        found["edge_embedding.basis_function.coeffs"] = (settings.num_bessel,)
    species: Irreps = [(len(settings.atomic_numbers), _SCALAR)]
    linear("onehot_to_feature_x", species, parse(settings.irreps[0]), "embedding")
    for index, layer in enumerate(interactions(settings)):
        skip = f"{index}_self_connection_intro"
        if settings.self_connections[index] == "linear":
            linear(skip, layer.before, layer.gate, None)
            found.pop(f"{skip}.linear.bias")
        else:
            size = sum(m * n for m, one in layer.before for n, other in layer.gate if one == other)
            found[f"{skip}.fc_tensor_product.weight"] = (size * species[0][0],)
        linear(f"{index}_self_interaction_1", layer.before, layer.before, "before")
        numbers = sum(path.count for path in layer.paths)
        sizes = (settings.num_bessel, *settings.radial_MLP, numbers)
        perceptron(f"{index}_convolution.weight_nn", *sizes)
        linear(f"{index}_self_interaction_2", layer.product, layer.gate, "after")
    last = parse(settings.irreps[-1])
    if settings.readout_MLP is None:
        hidden: Irreps = [(dimension(last) // 2, _SCALAR)]
        linear("reduce_input_to_hidden", last, hidden, "readout")
        linear("reduce_hidden_to_energy", hidden, [(1, _SCALAR)], None)
    else:
        perceptron("readout_FCN.fcn", dimension(last), *settings.readout_MLP, 1)
    return {name: shape for name, shape in found.items() if math.prod(shape)}
