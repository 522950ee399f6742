"""Choose where and how precisely to compute."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from finetune.core.errors import RecipeError

_FILES = {
    "": ("memory.max", "memory.current", "inactive_file"),
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
"""Names of limit, usage and unused page cache by controller; version 2 has no controllers."""


def memory_left(
    membership: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")
) -> int | None:
    """Return the memory that the groups of a process leave it, bytes; None without a limit.

    That is the least of limit − usage in its own group and those above it; page cache that nobody
    uses counts as free.
    """
    left = []
    for group, (limit, usage, unused) in _groups(membership, root):
        with suppress(OSError, ValueError, KeyError):  # a limit may be "max"
            most, used = (int((group / name).read_text()) for name in (limit, usage))
            lines = (group / "memory.stat").read_text().splitlines()
            cache = int(dict(line.split(maxsplit=1) for line in lines)[unused])
            left.append(max(most - max(used - cache, 0), 0))
    return min(left, default=None)


def _groups(membership: Path, root: Path) -> Iterator[tuple[Path, tuple[str, str, str]]]:
    """Give the folders of a process's groups and those above, with the names of their files."""
    lines: list[str] = []
    with suppress(OSError, ValueError):
        lines = membership.read_text().splitlines()
    for line in lines:
        _, controllers, path = line.split(":", 2)
        for controller in set(controllers.split(",")) & set(_FILES):
            within = Path(path.strip("/"))
            for above in (within, *within.parents):
                yield root / controller / above, _FILES[controller]


DTYPES = {"float32": torch.float32, "float64": torch.float64}


def choose_device(name: str) -> torch.device:
    """Return the device called ``name``; ``auto`` is CUDA where there is one, else the CPU.

    Where several processes train together, ``auto`` is the GPU of this one's local rank.

    Raises:
        RecipeError: If there is no such device on this machine.
    """
    if name == "auto":
        own = f"cuda:{os.environ['LOCAL_RANK']}" if "LOCAL_RANK" in os.environ else "cuda"
        return torch.device(own if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(str(name))
    except RuntimeError:
        raise RecipeError(f"unknown device '{name}'; choose auto, cpu, cuda or cuda:0.") from None
    if device.type not in {"cpu", "cuda"}:
        raise RecipeError(f"device '{name}' is not supported; choose auto, cpu, cuda or cuda:0.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise RecipeError(
            f"there is no device '{name}' here (CUDA devices: {torch.cuda.device_count()}). "
            "Choose cpu (in a recipe train.device=cpu)."
        )
    return device


def choose_dtype(name: str) -> torch.dtype:
    """Return the torch type called ``name``.

    Raises:
        RecipeError: If it is neither ``float32`` nor ``float64``.
    """
    if str(name) not in DTYPES:
        raise RecipeError(f"unknown precision '{name}'; choose float32 or float64.")
    return DTYPES[name]


def training_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Return the torch type to train in: single precision for ``tf32``.

    Raises:
        RecipeError: If the device has no TF32, or the precision is unknown.
    """
    if precision != "tf32":
        return choose_dtype(precision)
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 0):
        raise RecipeError(
            "train.precision=tf32 needs the tensor cores of an NVIDIA GPU of compute capability "
            f"8.0 or later, and '{device}' has none. Set train.precision=float32."
        )
    return torch.float32


@contextmanager
def multiplication(precision: str) -> Iterator[None]:
    """Multiply matrices of single precision on tensor cores while the precision is ``tf32``."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def peak_memory(device: torch.device) -> int:
    """Return the largest memory in use so far, bytes: the GPU's, else the process's."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    with suppress(OSError), open("/proc/self/status", encoding="ascii") as file:
        for line in file:  # getrusage counts what the process that started this one used, too
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def free_memory(device: torch.device) -> int:
    """Return the memory that a device has left for this process, bytes.

    Of a GPU that counts what PyTorch holds and does not use; of the CPU it is what the machine has
    left, or the process's control groups if that is less.
    """
    if device.type == "cuda":
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + held
    limited = memory_left()
    return min(_available(), sys.maxsize if limited is None else limited)


def _available() -> int:
    """Return the memory that the machine has left, bytes."""
    with suppress(OSError), open("/proc/meminfo", encoding="ascii") as file:
        for line in file:
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
