"""Make certain that a freshly built model is the one that a file describes.

The fresh model is pickled in memory and read as inert data like the file. Then the two are walked
side by side: the same modules, the same parameters in name and shape, the same buffers and the same
plain attributes. What the file does not have was not there when it was written, and has its
default; what only the file has is not understood. The walk follows the fresh model, so that no file
can make it long.
"""

from __future__ import annotations

import io
import math
import warnings
from typing import Any

import torch

from finetune.core.errors import FoundationError
from finetune.potentials.archive import read_archive
from finetune.potentials.mace.conversion import Part, describe, plain
from finetune.potentials.unpickling import Record

_CODE = frozenset({"reduce_graph_module", "Tracer"})  # products of MACE that it writes anew
_DERIVED = frozenset({"training", "__codegen__", "_profiling_str"})
_TABLES = frozenset({"_modules", "_parameters", "_buffers"})
_OF_TORCH = frozenset(torch.nn.Module().__dict__) - _TABLES
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
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's notices about TorchScript are not for the user
        torch.save(model, buffer)
    fresh = read_archive(buffer).root
    dtype = next(model.parameters()).dtype
    coarse = dtype != torch.float64 or _is_single(root)
    _Comparison(_SINGLE if coarse else _DOUBLE).modules(Part(root), Part(fresh))


def _is_single(root: object) -> bool:
    """Whether a file was written, or once was kept, in single precision."""
    weight = Part(root).child("node_embedding", "linear").tensor("weight", "_parameters")
    return bool(torch.equal(weight.float().to(weight.dtype), weight))


class _Comparison:
    def __init__(self, tolerance: float) -> None:
        self._tolerance = tolerance

    def modules(self, found: Part, fresh: Part) -> None:
        if (found.package, found.name) != (fresh.package, fresh.name):
            raise _difference(found.path, f"a {found.name[:60]!r}", f"a {fresh.name!r}")
        self._names(found, fresh, "_parameters")
        self._names(found, fresh, "_modules")
        for name, parameter in fresh.table("_parameters").items():
            if parameter is not None:
                tensor = found.tensor(name, "_parameters")
                if tensor.shape != parameter.shape:
                    raise _difference(found.place(name), describe(tensor), describe(parameter))
        self._buffers(found, fresh)
        self._attributes(found, fresh)
        for name, module in fresh.table("_modules").items():
            mine, place = found.table("_modules")[name], found.place(name)
            if isinstance(module, Record) and module.name in _CODE:
                if not isinstance(mine, Record) or mine.name != module.name:
                    raise _difference(place, describe(mine), describe(module))
            elif isinstance(module, Record):
                self.modules(Part(mine, place), Part(module, place))
            elif mine is not None:
                raise _difference(place, describe(mine), "nothing")

    def _names(self, found: Part, fresh: Part, table: str) -> None:
        mine, expected = found.table(table), fresh.table(table)
        for name in expected:
            if name not in mine:
                raise _difference(found.place(name), "nothing", describe(expected[name]))
        constants = fresh.table("_buffers") if table == "_parameters" else {}
        for name in mine:
            if name not in expected and name not in constants:
                raise _difference(found.place(name), describe(mine[name]), "nothing")

    def _buffers(self, found: Part, fresh: Part) -> None:
        expected = fresh.table("_buffers")
        # MACE's fine-tuning turns the frequencies of the Bessel functions, a buffer, into a
        # parameter that it does not train.
        for table in ("_buffers", "_parameters"):
            for name, value in found.table(table).items():
                if table == "_parameters" and name not in expected:
                    continue
                if value is None and expected.get(name) is None:
                    continue
                place, mine = found.place(name), found.tensor(name, table)
                if name not in expected:
                    raise _difference(place, describe(value), "nothing")
                self.values(mine, expected[name], place)

    def _attributes(self, found: Part, fresh: Part) -> None:
        for name, value in found.state.items():
            place = found.place(name)
            if isinstance(name, str) and name.endswith("_hooks"):
                if value:
                    raise _difference(place, "functions", "none")
            elif name in fresh.state and name not in _TABLES | _DERIVED | _OF_TORCH:
                self.values(value, fresh.state[name], place)
            elif name not in fresh.state and value is not None and value is not False:
                raise _difference(place, describe(value), "no such attribute")

    def values(self, found: object, fresh: object, place: str) -> None:
        """Check that two attributes are equal; goes no deeper than the fresh one."""
        mine, expected = plain(found), plain(fresh)
        if not self._equal(mine, expected, place):
            raise _difference(place, describe(mine), describe(expected))

    def _equal(self, mine: Any, expected: Any, place: str) -> bool:
        if isinstance(expected, torch.Tensor):
            return isinstance(mine, torch.Tensor) and self._close(mine, expected)
        if isinstance(expected, Record):
            if not isinstance(mine, Record) or mine.path != expected.path:
                return False
            for part in ("args", "state", "items", "pairs"):
                self.values(getattr(mine, part), getattr(expected, part), place)
            return True
        if isinstance(expected, (list, tuple)):
            if not isinstance(mine, (list, tuple)) or len(mine) != len(expected):
                return False
            for index, pair in enumerate(zip(mine, expected, strict=True)):
                self.values(*pair, f"{place}[{index}]")
            return True
        if isinstance(expected, dict):
            if not isinstance(mine, dict) or mine.keys() != expected.keys():
                return False
            for key in expected:
                self.values(mine[key], expected[key], f"{place}[{key!r}]")
            return True
        if isinstance(expected, (int, float)) and not isinstance(expected, bool):
            number = isinstance(mine, (int, float)) and not isinstance(mine, bool)
            return number and abs(mine) < _LARGEST and self._near(mine, expected)
        return type(mine) is type(expected) and bool(mine == expected)

    def _near(self, mine: float, expected: float) -> bool:
        return math.isclose(mine, expected, rel_tol=self._tolerance)

    def _close(self, mine: torch.Tensor, expected: torch.Tensor) -> bool:
        mine, expected = mine.squeeze().double(), expected.squeeze().double()
        if mine.shape != expected.shape:  # older MACE keeps one head's numbers without an axis
            return False
        if not mine.numel():
            return True
        scale = float(expected.abs().max())
        return bool(
            torch.allclose(mine, expected, rtol=self._tolerance, atol=self._tolerance * scale)
        )


def _difference(place: str, found: str, expected: str) -> FoundationError:
    return FoundationError(
        f"has {found} at '{place or 'the model'}' where {expected} is expected: "
        f"this architecture is not understood. {TRUST}"
    )
