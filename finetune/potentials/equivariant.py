"""e3nn and what is built on it, imported and constructed without side effects."""

from __future__ import annotations

import io
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from copy import deepcopy
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any

import torch

REFUSALS = (
    *(LookupError, ValueError, ArithmeticError, AssertionError, AttributeError, TypeError),
    RuntimeError,
)
"""What a network's constructor raises for settings that it cannot use."""

_SWITCH = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"


def quiet_import(name: str) -> ModuleType:
    """Return a module that is, or imports, e3nn; torch's safe loading stays as it was.

    e3nn 0.4.4 reads a table of its own that recent torch refuses to load safely, and some packages
    switch safe loading off for the complete process. Lines about accelerators that are not
    installed are dropped.
    """
    before = os.environ.get(_SWITCH)
    try:
        os.environ[_SWITCH] = "1"
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            return import_module(name)
    finally:
        if before is None:
            os.environ.pop(_SWITCH, None)
        else:
            os.environ[_SWITCH] = before


def import_later(package: str, light: str) -> None:
    """Import a package of which one module is needed, ``light``, without executing it.

    It is executed when a name is asked for that the module does not have.
    """
    if package in sys.modules:
        return
    parent, _, last = package.rpartition(".")
    around, spec = quiet_import(parent), find_spec(package)
    if spec is not None:
        sys.modules[package] = module = module_from_spec(spec)
        module.__class__, module.__dict__["_light"] = _Later, light
        setattr(around, last, module)


class _Later(ModuleType):
    """A package that has not been executed yet."""

    __spec__: ModuleSpec
    _light: str

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        light = import_module(self._light)
        if hasattr(light, name):
            return getattr(light, name)
        self.__class__ = ModuleType  # type: ignore[assignment]
        assert self.__spec__.loader is not None
        self.__spec__.loader.exec_module(self)
        return getattr(self, name)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Construct modules in ``dtype``: e3nn reads torch's global default."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


class Patterns:
    """Networks without weights, each built once in a process and copied.

    TorchScript never frees what it compiles, nor its execution plans; what a copy compiles is freed
    with it. ``construct`` builds a network from settings, as JSON, and a dtype.
    """

    def __init__(
        self, construct: Callable[[str, torch.dtype], torch.nn.Module], most: int = 2
    ) -> None:
        self._construct, self._most = construct, most
        self._known: dict[tuple[str, torch.dtype], torch.nn.Module] = {}

    def copy(self, settings: str, dtype: torch.dtype) -> torch.nn.Module:
        """Return a network with weights that must be filled in; random generators are left."""
        key = (settings, dtype)
        if key not in self._known:
            with torch.random.fork_rng(devices=[]):
                model = self._construct(settings, dtype)
            for parameter in model.parameters():
                parameter.data = parameter.new_zeros(()).expand(parameter.shape)
            while len(self._known) >= self._most:
                self._known.pop(next(iter(self._known)))
            self._known[key] = model
        return deepcopy(self._known[key])


def path_weights(linear: Any) -> list[tuple[float, torch.Tensor]]:
    """Return factor and weights ``[in, out]`` of each path of an `e3nn.o3.Linear`."""
    paths = [path for path in linear.instructions if path.i_in >= 0]  # the others are biases
    sizes = [math.prod(path.path_shape) for path in paths]
    return [
        (path.path_weight, weight.view(path.path_shape))
        for path, weight in zip(paths, linear.weight.split(sizes), strict=True)
    ]
