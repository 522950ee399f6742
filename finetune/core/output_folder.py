"""The folder that a command writes to: which one an output means, and who may write there."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from finetune.core.errors import RunFolderError
from finetune.core.files import check_writable
from finetune.core.resources import expanded


def place(output: str) -> Path:
    """Return the folder that an output means: ``~`` expanded, symbolic links followed.

    Raises:
        RunFolderError: If a link leads back to itself.
    """
    folder = expanded(output)
    try:
        folder.stat()
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise RunFolderError(
                f"'{folder}' cannot be followed: a symbolic link in it leads back to itself. "
                "Choose another output."
            ) from None
    return folder.resolve() if folder.is_symlink() else folder


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep others out of the folder; a kill leaves the lock file, but not the lock.

    Raises:
        RunFolderError: If another run is at work there, or the folder cannot be written to.
    """
    folder = folder.resolve()
    lock = FileLock(folder.parent / f".{folder.name}.lock")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout:
        if not Path(lock.lock_file).exists():  # as where no file can be made
            check_writable(folder)
        raise RunFolderError(
            f"another run is at work in '{folder}'; wait for it or choose another output."
        ) from None
    except OSError as error:
        raise RunFolderError(f"'{folder}' cannot be written: {error}.") from error
    try:
        yield
    finally:
        with suppress(OSError):  # on a disk that has become read-only
            Path(lock.lock_file).unlink()
        lock.release()
