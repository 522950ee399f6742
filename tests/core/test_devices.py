"""What control groups leave a process of memory."""

from pathlib import Path

import pytest
import torch

from finetune.core import devices
from finetune.core.devices import memory_left

CURRENT = ("memory.max", "memory.current", "inactive_file")
FORMER = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def group(folder: Path, names: tuple[str, str, str], limit: object, used: int, cache: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 5\n{names[2]} {cache}\nfile 77\n")


def left(root: Path, *lines: str) -> int | None:
    membership = root / "membership"
    membership.write_text("".join(f"{line}\n" for line in lines))
    return memory_left(membership, root)


@pytest.mark.parametrize(
    ("names", "top", "line", "without_limit"),
    [
        (CURRENT, "", "0::/slurm/job/step", "max"),
        (FORMER, "memory", "7:cpu,memory:/slurm/job/step", 9223372036854771712),
    ],
)
def test_the_narrowest_group_counts(
    tmp_path: Path, names: tuple[str, str, str], top: str, line: str, without_limit: object
) -> None:
    root = tmp_path / top
    group(root / "slurm/job/step", names, without_limit, 300, 50)
    found = left(tmp_path, line)
    assert found is None or found >= 10**18
    group(root / "slurm/job", names, 1000, 400, 150)
    group(root / "slurm", names, 5000, 900, 0)
    group(root / "slurm/other", names, 10, 0, 0)
    assert left(tmp_path, "1:name=systemd:/user", line) == 1000 - (400 - 150)
    group(root / "slurm", names, 5000, 4900, 10)
    assert left(tmp_path, line) == 110
    group(root / "slurm", names, 5000, 6000, 10)
    assert left(tmp_path, line) == 0


def test_a_container_sees_its_own_group_at_the_root(tmp_path: Path) -> None:
    group(tmp_path, CURRENT, 2000, 500, 100)
    assert left(tmp_path, "0::/docker/0123abcd") == 1600
    assert left(tmp_path, "0::/") == 1600


def test_without_groups_there_is_no_limit(tmp_path: Path) -> None:
    assert left(tmp_path, "0::/") is None
    assert memory_left(tmp_path / "none", tmp_path) is None
    (tmp_path / "memory.max").write_text("1000\n")
    assert left(tmp_path, "0::/") is None


def test_the_cpu_has_what_machine_and_groups_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setattr(devices, "memory_left", lambda: None)
    assert 2**20 < devices.free_memory(cpu) < 2**50
    monkeypatch.setattr(devices, "memory_left", lambda: 12345)
    assert devices.free_memory(cpu) == 12345


def test_memory_that_pytorch_holds_of_a_gpu_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, found in (
        ("mem_get_info", (1000, 9000)),
        ("memory_reserved", 700),
        ("memory_allocated", 300),
    ):
        monkeypatch.setattr(torch.cuda, name, lambda device, found=found: found)
    assert devices.free_memory(torch.device("cuda")) == 1400
