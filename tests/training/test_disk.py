"""Real disks: one that fills up while a run is at work, read-only ones, folders of others."""

import ctypes
import os
import shutil
import subprocess
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import finetune
from finetune.core.errors import RunFolderError, RunStoppedError
from finetune.training.records import Silent
from tests.training.test_resume import outcome, recipe_in

CLONE_NEWNS = 0x00020000
NOBODY = 65534
SIZE = 8 * 2**20


@pytest.fixture(scope="module")
def own_mounts() -> None:
    """Mounts that nobody else sees, and that go with this process."""
    library = ctypes.CDLL(None, use_errno=True)
    unshare = getattr(library, "unshare", None)
    if unshare is None or unshare(CLONE_NEWNS) or not mounted("--make-rprivate", "/"):
        pytest.skip("only who may mount file systems can try this")


@pytest.fixture
def disk(tmp_path: Path, own_mounts: None) -> Iterator[Path]:
    """A file system of its own in memory, of a few MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    assert mounted("-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder))
    yield folder
    subprocess.run(["umount", "--lazy", "--recursive", str(folder)], check=True)


def mounted(*arguments: str) -> bool:
    try:
        return subprocess.run(["mount", *arguments], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


def fill(folder: Path) -> None:
    with (folder / "filler").open("wb", buffering=0) as file:
        block = bytes(64 * 1024)
        try:
            while True:
                file.write(block)
        except OSError:
            return


class At(Silent):
    """Does something when an epoch is shown."""

    def __init__(self, epoch: int, act: Callable[[], Any]) -> None:
        self.at, self.act = epoch, act

    def epoch(self, record: dict[str, Any]) -> None:
        if record["epoch"] == self.at:
            self.act()


@pytest.fixture(scope="module")
def undisturbed(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    finetune.run(recipe_in(workspace, folder))
    return outcome(folder)


@pytest.mark.slow
@pytest.mark.parametrize("epoch", [1, 2, 4])
def test_a_disk_that_fills_up_leaves_the_last_whole_checkpoint(
    epoch: int, workspace: Path, disk: Path, undisturbed: Any
) -> None:
    recipe = recipe_in(workspace, disk / "run")
    with pytest.raises(RunStoppedError, match="No space left.*checkpoint of step .* is intact"):
        finetune.run(recipe, reporter=At(epoch, lambda: fill(disk)))
    names = [path.name for path in (disk / "run" / "checkpoints").iterdir()]
    assert names
    assert all(name.startswith("step-") for name in names)
    (disk / "filler").unlink()
    finetune.run(recipe, resume="must")
    assert outcome(disk / "run") == undisturbed


def test_a_full_disk_gets_nothing(workspace: Path, disk: Path) -> None:
    fill(disk)
    with pytest.raises(RunFolderError, match=r"disk/run' cannot be written: .*No space left"):
        finetune.run(recipe_in(workspace, disk / "run"))
    assert [path.name for path in disk.iterdir()] == ["filler"]


@pytest.mark.slow
def test_a_disk_that_becomes_read_only_is_resumed_when_it_is_not(
    workspace: Path, disk: Path, undisturbed: Any
) -> None:
    def lock() -> None:  # over the disk, some of whose files are open
        assert mounted("--bind", str(disk), str(disk))
        assert mounted("-o", "remount,bind,ro", str(disk))

    recipe = recipe_in(workspace, disk / "run")
    with pytest.raises(RunStoppedError, match="Read-only file system.*of step .* is intact"):
        finetune.run(recipe, reporter=At(2, lock))
    with pytest.raises(RunFolderError, match="cannot be written: .*Read-only file system"):
        finetune.run(recipe_in(workspace, disk / "another"))
    with pytest.raises(RunFolderError, match="cannot be written: .*Read-only file system"):
        finetune.run(recipe, resume="must")
    subprocess.run(["umount", str(disk)], check=True)
    finetune.run(recipe, resume="must")
    assert outcome(disk / "run") == undisturbed


def without_privileges(act: Callable[[], None]) -> None:
    """Do something as a user to whom the modes of folders apply, as they do not to root."""
    if os.geteuid() != 0:
        act()
        return
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            act()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


@pytest.fixture
def locked(workspace: Path, tmp_path: Path) -> Iterator[Path]:
    """A folder that may be read but not written, beside data, on a way that all may go."""
    shutil.copytree(workspace, tmp_path / "data")
    (tmp_path / "data").chmod(0o755)
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o555)
    modes = {parent: parent.stat().st_mode for parent in folder.parents}
    closed = {parent: mode for parent, mode in modes.items() if not mode & 0o001}
    for parent, mode in closed.items():
        parent.chmod(mode | 0o011)
    yield folder
    for parent, mode in closed.items():
        parent.chmod(mode)


def test_a_folder_that_may_not_be_written_is_named(tmp_path: Path, locked: Path) -> None:
    recipe = recipe_in(tmp_path / "data", locked / "run")

    def refused() -> None:
        with pytest.raises(RunFolderError, match="locked/run' cannot be written: .*denied"):
            finetune.run(recipe)

    without_privileges(refused)
    assert list(locked.iterdir()) == []
