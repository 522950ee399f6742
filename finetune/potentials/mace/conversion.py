"""Settings of a MACE model that was read as inert data, and whether they describe all of it.

What `read_settings` takes from the file distinguishes one MACE from another; `check_plausible`
limits the cost of building it. `check_same` then checks that the new model is the one in the file:
the new one is pickled in memory and read as inert data, too, and the two are walked together.
They must have the same modules, the same parameters in name and shape, the same buffers and the
same plain attributes. An attribute that the file lacks did not exist when it was written, and has
its default; one that only the file has is not understood. The walk follows the new model, so that
no file can make it long.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError

from finetune.core.errors import FoundationError
from finetune.potentials.archive import Content, Global, Record, describe, read_archive
from finetune.potentials.mace.potential import construct
from finetune.potentials.mace.settings import FURTHER_INPUTS, MaceSettings
from finetune.potentials.storage import first_fault

_PARITIES = {1: "e", -1: "o"}


class Part:
    """A `torch.nn.Module` in an inert tree; ``path`` is in dots from the model."""

    def __init__(self, record: object, path: str = "") -> None:
        state = record.state if isinstance(record, Record) else None
        if not isinstance(record, Record) or not isinstance(state, dict):
            raise FoundationError(f"holds {describe(record)} where {path or 'a model'} should be.")
        self.name = record.name
        self.path = path
        self.package = record.path.split(".")[0]
        self.state: dict[Any, Any] = state

    def table(self, which: str) -> dict[Any, Any]:
        """Return `_modules`, `_parameters` or `_buffers`."""
        found = self.state.get(which)
        if not isinstance(found, dict):
            raise FoundationError(f"has no {which} at '{self.path or 'the model'}'.")
        return found

    def place(self, name: object) -> str:
        """Return the dotted path of something inside."""
        text = ascii(str(name)[:60])[1:-1]
        return f"{self.path}.{text}" if self.path else text

    def has(self, name: str) -> bool:
        """Whether there is a submodule of this name."""
        return isinstance(self.table("_modules").get(name), Record)

    def child(self, *names: str) -> Part:
        """Return a submodule; raises a `FoundationError` that names it if there is none."""
        part = self
        for name in names:
            if name not in part.table("_modules"):
                raise FoundationError(f"has no module '{part.place(name)}'.")
            part = Part(part.table("_modules")[name], part.place(name))
        return part

    def children(self) -> list[Part]:
        """Return the submodules in order."""
        return [Part(record, self.place(name)) for name, record in self.table("_modules").items()]

    def tensor(self, name: str, table: str = "_buffers") -> torch.Tensor:
        """Return a buffer or parameter; a `FoundationError` if it is missing or not finite."""
        found = self.table(table).get(name)
        if not isinstance(found, torch.Tensor):
            raise FoundationError(f"has no tensor '{self.place(name)}'.")
        if not bool(torch.isfinite(found).all()):
            raise FoundationError(f"holds NaN or infinite numbers in '{self.place(name)}'.")
        return found

    def value(self, name: str, default: object = None) -> Any:
        """Return an attribute as a plain value, or the default if the file has none."""
        return plain(self.state[name]) if name in self.state else default


def plain(value: object) -> Any:
    """Return irreps as e3nn writes them; anything else as it is."""
    if not isinstance(value, Record) or value.name != "Irreps":
        return value
    terms = []
    try:
        args: Any = value.args
        for entry in args[0]:
            multiplicity, irrep = entry.args[0]
            degree, parity = irrep.args[0]
            if not all(type(number) is int for number in (multiplicity, degree, parity)):
                raise TypeError("irreps that are not numbers")
            terms.append(f"{multiplicity}x{degree}{_PARITIES[parity]}")
    except (TypeError, ValueError, AttributeError, LookupError) as error:
        raise FoundationError("holds irreps that cannot be understood.") from error
    return "+".join(terms)


_ARCHITECTURES = ("MACE", "ScaleShiftMACE")
_RADIAL = {"BesselBasis": "bessel", "GaussianBasis": "gaussian", "ChebychevBasis": "chebyshev"}
_FLAGS = (
    "use_so3",
    "use_reduced_cg",
    "use_agnostic_product",
    "use_last_readout_only",
    "use_edge_irreps_first",
)


def read_model(content: Content) -> tuple[MaceSettings, dict[str, torch.Tensor]]:
    """Return settings and weights of the MACE in a file; FoundationError if it is not understood.

    A model is built from the settings, and checked to be the one in the file.
    """
    settings, root = read_settings(content.root), Part(content.root)
    check_plausible(settings, root, content.numbers)
    model = construct(settings, torch.float64)
    check_same(content.root, model)
    return settings, read_weights(root, model)


def read_weights(root: Part, model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return the parameters that hold numbers, by the names that they have in ``model``."""
    weights = {}
    for name, _ in model.named_parameters():
        *path, last = name.split(".")
        tensor = root.child(*path).tensor(last, "_parameters")
        if tensor.numel():
            weights[name] = tensor
    return weights


def read_settings(root: object) -> MaceSettings:
    """Return the settings of the MACE that a pickle holds; a `FoundationError` if it is unknown."""
    model = _model(root)
    interactions = model.child("interactions").children()
    if not interactions:
        raise FoundationError("has no interactions.")
    first, last = interactions[0], interactions[-1]
    hidden = first.value("hidden_irreps")
    wide = len(interactions) > 1 and isinstance(hidden, str) and "+" in hidden
    correlations = [
        product.child("symmetric_contractions", "contractions", "0").value("correlation")
        for product in model.child("products").children()
    ]
    alike = correlations and all(type(c) is int and c == correlations[0] for c in correlations)
    radial = first.value("radial_MLP")
    if radial is None:  # as older MACE keeps it: the layers with input and output
        layers = first.child("conv_tp_weights").value("hs")
        radial = layers[1:-1] if isinstance(layers, list) else None
    energies = model.child("atomic_energies_fn").tensor("atomic_energies").double()
    fields: dict[str, Any] = {
        "architecture": model.name,
        "max_ell": model.child("spherical_harmonics").value("_lmax"),
        "interaction_cls": last.name,
        "interaction_cls_first": first.name,
        "num_interactions": len(interactions),
        "hidden_irreps": hidden,
        "avg_num_neighbors": _number(first.value("avg_num_neighbors")),
        "atomic_numbers": model.tensor("atomic_numbers").tolist(),
        "atomic_energies": energies.tolist() if energies.dim() == 2 else [energies.tolist()],
        "correlation": correlations[0] if alike else correlations,
        "radial_MLP": radial,
        "pair_repulsion": model.has("pair_repulsion_fn"),
        "edge_irreps": model.value("edge_irreps"),
        "keep_last_layer_irreps": wide and last.value("hidden_irreps") == hidden,
        "heads": model.value("heads", ["Default"]),
        **{name: model.value(name, False) for name in _FLAGS},
        **_radial(model.child("radial_embedding")),
        **_readout(model),
        **_further_inputs(model),
    }
    if model.name == "ScaleShiftMACE":
        for name in ("scale", "shift"):
            row = model.child("scale_shift").tensor(name).double()
            fields[f"atomic_inter_{name}"] = row.flatten().tolist() if row.dim() < 2 else None
    return _validated(fields)


def _model(root: object) -> Part:
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
    transform = (
        block.child("distance_transform").name if block.has("distance_transform") else "None"
    )
    cutoff = block.child("cutoff_fn")
    length = cutoff.tensor("r_max")
    r_max = _number(length)
    if isinstance(r_max, float) and length.float().item() == r_max:
        r_max = float(str(np.float32(r_max)))  # the shortest decimal of a single-precision number
    return {
        "r_max": r_max,
        "num_polynomial_cutoff": _number(cutoff.tensor("p")),
        "num_bessel": block.value("out_dim"),
        "radial_type": _RADIAL.get(basis, basis),
        "distance_transform": transform.removesuffix("Transform"),
        "apply_cutoff": block.value("apply_cutoff", True),
    }


def _number(value: Any) -> Any:
    return value.item() if isinstance(value, torch.Tensor) and value.numel() == 1 else value


def _readout(model: Part) -> dict[str, Any]:
    """Return the settings of the last, nonlinear readout; nothing if there is none."""
    readouts = model.child("readouts").children()
    if not readouts or "linear_1" not in readouts[-1].table("_modules"):
        return {}
    readout = readouts[-1]
    irreps, heads = readout.value("hidden_irreps"), readout.value("num_heads", 1)
    if type(heads) is int and heads > 1 and isinstance(irreps, str):
        count, _, irrep = irreps.partition("x")
        if count.isdigit():
            irreps = f"{int(count) // heads}x{irrep}"
    activation = readout.child("non_linearity", "acts").table("_modules").get("0")
    gate: object = "None"
    if activation is not None:
        gate = Part(activation, "the gate").value("f")
        match gate:
            case Global():
                gate = gate.name
            case Record(path="builtins.getattr", args=(_, str(name))):
                gate = name
    return {"readout_cls": readout.name, "MLP_irreps": irreps, "gate": gate}


def _validated(fields: dict[str, Any]) -> MaceSettings:
    try:
        settings = MaceSettings.model_validate(fields)
    except ValidationError as error:
        place, reason, value = first_fault(error)
        raise FoundationError(
            f"has '{place}' = {describe(value)}, which is not understood: {reason}."
        ) from None
    heads, numbers = len(settings.heads), settings.atomic_numbers
    if [len(row) for row in settings.atomic_energies] != [len(numbers)] * heads:
        raise FoundationError(
            f"has reference energies that do not match its {len(numbers)} elements and {heads} "
            "heads."
        )
    if settings.architecture == "ScaleShiftMACE":
        for name in ("atomic_inter_scale", "atomic_inter_shift"):
            if len(getattr(settings, name)) != heads:
                raise FoundationError(f"has '{name}' that does not match its {heads} heads.")
    if len(set(numbers)) != len(numbers) or not all(1 <= number <= 118 for number in numbers):
        raise FoundationError("has atomic numbers that are not those of distinct elements.")
    return settings


_TERM = re.compile(r"(\d{1,6})x(\d)([eo])")
_MOST_TERMS = 32
_HIGHEST_DEGREE = 6
_LIMITS = {"max_ell": _HIGHEST_DEGREE, "num_interactions": 16, "radial_MLP": 16, "correlation": 6}


def check_plausible(settings: MaceSettings, model: Part, numbers: int) -> None:
    """Refuse settings for which building the model takes more than its file gives reason for.

    ``numbers`` is how many numbers the tensors of the file hold in all.
    """
    hidden = _terms(settings.hidden_irreps)
    edges = _terms(settings.edge_irreps) if settings.edge_irreps else hidden
    scalars = sum(count for count, degree, parity in hidden if (degree, parity) == (0, "e"))
    layers = (settings.num_bessel, *settings.radial_MLP)
    correlations = settings.correlation
    if isinstance(correlations, int):
        correlations = (correlations,) * settings.num_interactions
    sizes = (settings.max_ell, settings.num_interactions, len(layers), max(correlations, default=0))
    for (name, limit), size in zip(_LIMITS.items(), sizes, strict=True):
        if size > limit:
            raise FoundationError(f"has '{name}' of {size}, beyond the {limit} that is supported.")
    if min(*layers, *correlations) < 1:
        raise FoundationError("has a 'radial_MLP' or 'correlation' that is not positive.")
    if not scalars:
        raise FoundationError("has no scalars among its hidden irreps.")
    weights = scalars * len(settings.atomic_numbers)
    weights += sum(before * after for before, after in pairwise(layers))
    weights += layers[-1] * max(count for count, _, _ in edges)
    if settings.num_interactions > 1:
        weights += sum(count**2 for count, _, _ in hidden)
        weights += sum(count for count, _, _ in _terms(settings.MLP_irreps)) * scalars
    for spec in (settings.embedding_specs or {}).values():
        classes, inputs, width = (
            _positive(spec, name, absent)
            for name, absent in (("num_classes", 1), ("in_dim", 1), ("emb_dim", 0))
        )
        weights += width * (scalars + classes * inputs)
    if weights > numbers:
        raise FoundationError(
            f"describes a model of at least {weights} weights but holds {numbers} numbers."
        )
    products = model.child("products").children()
    if not len(correlations) == len(products) == settings.num_interactions:
        raise FoundationError("has different numbers of products and interactions.")
    for product, correlation in zip(products, correlations, strict=True):
        contraction = product.child("symmetric_contractions", "contractions", "0")
        table = contraction.tensor(f"U_matrix_{correlation}")
        if table.numel() < (settings.max_ell + 1) ** (2 * correlation):
            raise FoundationError(
                f"has a table of coupling coefficients at '{contraction.path}' that is too small."
            )


def _positive(spec: Mapping[str, object], name: str, absent: int) -> int:
    value = spec.get(name, absent)
    if type(value) is not int or value < 1:
        raise FoundationError(f"has an embedding of which '{name}' is not a positive number.")
    return value


def _terms(irreps: str) -> list[tuple[int, int, str]]:
    """Return multiplicity, degree and parity of each term."""
    found = [_TERM.fullmatch(term) for term in irreps.split("+")]
    terms = [(int(m[1]), int(m[2]), m[3]) for m in found if m is not None]
    if len(terms) != len(found) or len(terms) > _MOST_TERMS:
        raise FoundationError(f"has unusual irreps {irreps[:60]!r}.")
    if max(degree for _, degree, _ in terms) > _HIGHEST_DEGREE:
        raise FoundationError(f"has irreps of a degree beyond {_HIGHEST_DEGREE}: {irreps[:60]!r}.")
    return terms


_CODE = frozenset({"reduce_graph_module", "Tracer"})  # code that MACE generates again
_DERIVED = frozenset({"training", "__codegen__", "_profiling_str"})
_IGNORED = frozenset(torch.nn.Module().__dict__) | _DERIVED
_SINGLE, _DOUBLE = 1e-5, 1e-10
_LARGEST = 1e300
TRUST = "If you trust where it comes from, trust=true loads it as torch does, code included."


def check_same(root: object, model: torch.nn.Module) -> None:
    """Check that a file holds what the model holds, up to the values of the parameters.

    ``model`` is built from the settings that were read from ``root``, the content of the file.
    Raises FoundationError that names the first difference.
    """
    fresh, found = Part(inert(model)), Part(root)
    weight = found.child("node_embedding", "linear").tensor("weight", "_parameters")
    single = torch.equal(weight.float().to(weight.dtype), weight)  # now, or when it was trained
    coarse = single or next(model.parameters()).dtype != torch.float64
    _compare(found, fresh, _SINGLE if coarse else _DOUBLE)


def inert(model: torch.nn.Module) -> object:
    """Return a model as `finetune.potentials.archive` reads it from a file."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's notices about TorchScript are not for the user
        torch.save(model, buffer)
    return read_archive(buffer).root


def _compare(found: Part, fresh: Part, tolerance: float) -> None:
    """Check that two modules are the same."""
    if (found.package, found.name) != (fresh.package, fresh.name):
        raise _difference(found.path, f"a {found.name[:60]!r}", f"a {fresh.name!r}")
    constants = fresh.table("_buffers")
    # MACE's fine-tuning turns the frequencies of the Bessel functions, a buffer, into a parameter
    # that it does not train.
    moved = {name for name in found.table("_parameters") if name in constants}
    for table, allowed in (("_parameters", constants), ("_modules", {})):
        mine, expected = found.table(table), fresh.table(table)
        for name in (*expected, *mine):
            if (name in mine) != (name in expected) and name not in allowed:
                held = (
                    describe(part[name]) if name in part else "nothing" for part in (mine, expected)
                )
                raise _difference(found.place(name), *held)
    for name, parameter in fresh.table("_parameters").items():
        if parameter is not None:
            tensor = found.tensor(name, "_parameters")
            if tensor.shape != parameter.shape:
                raise _difference(found.place(name), describe(tensor), describe(parameter))
    for name in (*found.table("_buffers"), *moved):
        table = "_parameters" if name in moved else "_buffers"
        if found.table(table)[name] is not None or constants.get(name) is not None:
            value = found.tensor(name, table)
            if name not in constants:
                raise _difference(found.place(name), describe(value), "nothing")
            _compare_values(value, constants[name], found.place(name), tolerance)
    for name, value in found.state.items():
        place = found.place(name)
        if isinstance(name, str) and name.endswith("_hooks"):
            if value:
                raise _difference(place, "functions", "none")
        elif name in fresh.state and name not in _IGNORED:
            _compare_values(value, fresh.state[name], place, tolerance)
        elif name not in fresh.state and value is not None and value is not False:
            raise _difference(place, describe(value), "no such attribute")
    for name, module in fresh.table("_modules").items():
        mine, place = found.table("_modules")[name], found.place(name)
        if isinstance(module, Record) and module.name in _CODE:
            if not isinstance(mine, Record) or mine.name != module.name:
                raise _difference(place, describe(mine), describe(module))
        elif isinstance(module, Record):
            _compare(Part(mine, place), Part(module, place), tolerance)
        elif mine is not None:
            raise _difference(place, describe(mine), "nothing")


def _compare_values(found: object, fresh: object, place: str, tolerance: float) -> None:
    """Check that two attributes are equal; goes no deeper than the fresh one."""
    mine: Any = plain(found)
    expected: Any = plain(fresh)
    pairs: list[tuple[object, object, str]] = []
    match expected:
        case torch.Tensor():
            same = isinstance(mine, torch.Tensor) and _close(mine, expected, tolerance)
        case np.ndarray():
            same = isinstance(mine, np.ndarray) and np.array_equal(mine, expected)
        case Record():
            same = isinstance(mine, Record) and mine.path == expected.path
            parts = ("args", "state", "items", "pairs") if same else ()
            pairs = [(getattr(mine, part), getattr(expected, part), place) for part in parts]
        case list() | tuple():
            same = isinstance(mine, (list, tuple)) and len(mine) == len(expected)
            if same:
                pairs = [(mine[i], item, f"{place}[{i}]") for i, item in enumerate(expected)]
        case dict():
            same = isinstance(mine, dict) and mine.keys() == expected.keys()
            if same:
                pairs = [(mine[key], expected[key], f"{place}[{key!r}]") for key in expected]
        case int() | float() if not isinstance(expected, bool):
            number = isinstance(mine, (int, float)) and not isinstance(mine, bool)
            near = number and abs(mine) < _LARGEST
            same = near and math.isclose(mine, expected, rel_tol=tolerance)
        case _:
            same = type(mine) is type(expected) and bool(mine == expected)
    if not same:
        raise _difference(place, describe(mine), describe(expected))
    for one, other, inside in pairs:
        _compare_values(one, other, inside, tolerance)


def _close(mine: torch.Tensor, expected: torch.Tensor, tolerance: float) -> bool:
    mine, expected = mine.squeeze().double(), expected.squeeze().double()
    if mine.shape != expected.shape:  # older MACE keeps one head's numbers without an axis
        return False
    scale = float(expected.abs().max()) if expected.numel() else 0.0
    return bool(torch.allclose(mine, expected, rtol=tolerance, atol=tolerance * scale))


def _difference(place: str, found: str, expected: str) -> FoundationError:
    return FoundationError(
        f"has {found} at '{place or 'the model'}' where {expected} is expected: "
        f"this architecture is not understood. {TRUST}"
    )
