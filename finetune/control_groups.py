"""What a process may still use of memory, as control groups of Linux limit it.

SLURM, Docker and systemd put processes into such groups; ``/proc/meminfo`` knows nothing of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

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

    Args:
        membership: The file that names its groups.
        root: Where the file system of control groups is mounted.
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
