"""What a run was computed with."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

PACKAGES = ("piwsl-finetune", "torch", "mace-torch", "e3nn", "ase", "torch-ema", "numpy")


def versions() -> dict[str, str]:
    """Return the versions of the packages that decide a result."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def environment(
    device: str, seed: int, foundation: str, fingerprint: str, data: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the content of a run's ``environment.json``."""
    return {
        "versions": versions(),
        "platform": platform.platform(),
        "device": device,
        "seed": seed,
        "foundation": {"name": foundation, "fingerprint": fingerprint},
        "data": dict(data),
    }
