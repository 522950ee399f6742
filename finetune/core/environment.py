"""What a run was computed with."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

PACKAGES = ("piwsl-finetune", "torch", "mace-torch", "e3nn", "ase", "peft", "torch-ema", "numpy")


def versions() -> dict[str, str]:
    """Return the versions of the packages that decide a result."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def process_count() -> int:
    """Return how many processes train together (`torchrun`, `accelerate launch`); usually one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def process_rank() -> int:
    """Return which of them this is; 0 is the one that writes and reports."""
    return int(os.environ.get("RANK", "0"))


def run_environment(
    device: str,
    seed: int,
    foundation: str,
    fingerprint: str,
    data: Mapping[str, Any],
    lineage: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Return the content of a run's ``environment.json``."""
    return {
        "versions": versions(),
        "platform": platform.platform(),
        "device": device,
        "processes": process_count(),
        "seed": seed,
        "foundation": {"name": foundation, "fingerprint": fingerprint, "lineage": list(lineage)},
        "data": dict(data),
    }
