"""What a run was computed with."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

ALWAYS = ("piwsl-finetune", "torch", "e3nn", "ase", "peft", "torch-ema", "numpy")
"""Distributions that decide every result."""
ABSENT = "not installed"


def versions(packages: Sequence[str] = ()) -> dict[str, str]:
    """Return the versions of what decides a result, ``packages`` of a family among it."""
    found = {name: release(name) for name in dict.fromkeys((*ALWAYS, *packages))}
    absent = [name for name in found if found[name] == ABSENT and name not in ALWAYS]
    kept = {name: value for name, value in found.items() if name not in absent}
    return {"python": platform.python_version(), **kept}


def release(package: str) -> str:
    """Return the installed version of a distribution."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ABSENT


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
    versions: Mapping[str, str],
) -> dict[str, Any]:
    """Return the content of a run's ``environment.json``."""
    return {
        "versions": dict(versions),
        "platform": platform.platform(),
        "device": device,
        "processes": process_count(),
        "seed": seed,
        "foundation": {"name": foundation, "fingerprint": fingerprint, "lineage": list(lineage)},
        "data": dict(data),
    }
