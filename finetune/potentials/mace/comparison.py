"""Check that a freshly built model is the one that a file describes.

The fresh model is pickled in memory and read as inert data like the file. Then the two are walked
together: the same modules, the same parameters in name and shape, the same buffers and the same
plain attributes. An attribute that the file lacks did not exist when it was written, and has its
default; one that only the file has is not understood. The walk follows the fresh model, so that no
file can make it long.
"""

from __future__ import annotations

import io
import math
import warnings
from typing import Any

import numpy as np
import torch

from finetune.core.errors import FoundationError
from finetune.potentials.archive import Record, read_archive
from finetune.potentials.mace.conversion import Part, describe, plain

_CODE = frozenset({"reduce_graph_module", "Tracer"})  # code that MACE generates again
_DERIVED = frozenset({"training", "__codegen__", "_profiling_str"})
_IGNORED = frozenset(torch.nn.Module().__dict__) | _DERIVED
_SINGLE, _DOUBLE = 1e-5, 1e-10
_LARGEST = 1e300
TRUST = "If you trust where it comes from, trust=true loads it as torch does, code included."


def check_same(root: object, model: torch.nn.Module) -> None:
    """Check that a file holds what the model holds, up to the values of the parameters.

    Args:
        root: What was read from the file.
        model: A model built from the settings that were read from it.

    Raises:
        FoundationError: If they differ, naming the first difference.
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
