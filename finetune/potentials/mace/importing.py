"""Import mace without its side effects on the process."""

from __future__ import annotations

import io
import os
import warnings
from contextlib import redirect_stdout
from importlib import import_module
from types import ModuleType

_SWITCH = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"


def mace_modules() -> ModuleType:
    """Return `mace.modules`, imported before e3nn as e3nn 0.4.4 needs under recent torch."""
    return mace_module("mace.modules")


def mace_module(name: str) -> ModuleType:
    """Return a module of mace.

    Importing mace switches off torch's safe loading for the whole process and prints a line about
    accelerators that are not there; the switch is put back and the line is dropped.
    """
    before = os.environ.get(_SWITCH)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            return import_module(name)
    finally:
        if before is None:
            os.environ.pop(_SWITCH, None)
        else:
            os.environ[_SWITCH] = before
