"""The packages of MACE, imported without what nothing here uses."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any

from finetune.potentials.equivariant import quiet_import

_LIGHT = {"mace.tools": "mace.tools.torch_tools", "e3nn.io": "e3nn.io._cartesian_tensor"}
"""Packages of which MACE's models need one module, and that module.

The other modules import torchmetrics, transformers, pandas and scipy.signal, which takes seconds.
"""


def mace_modules() -> ModuleType:
    """Return `mace.modules`. The packages of `_LIGHT` are executed when more of them is used."""
    for name in _LIGHT:
        if name not in sys.modules:
            _import_later(name)
    return quiet_import("mace.modules")


def _import_later(name: str) -> None:
    parent, _, last = name.rpartition(".")
    quiet_import(parent)
    spec = find_spec(name)
    if spec is not None and spec.loader is not None:
        package = module_from_spec(spec)
        package.__class__ = _Later
        sys.modules[name] = package
        setattr(sys.modules[parent], last, package)


class _Later(ModuleType):
    """A package that is executed when a name is asked for that its light module does not have."""

    __spec__: ModuleSpec

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        light = import_module(_LIGHT[self.__name__])
        if hasattr(light, name):
            return getattr(light, name)
        self.__class__ = ModuleType  # type: ignore[assignment]
        assert self.__spec__.loader is not None
        self.__spec__.loader.exec_module(self)
        return getattr(self, name)
