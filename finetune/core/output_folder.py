"""The one output folder: where it is, what lies there already, who may write, temporary names."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from finetune.core.errors import RunFolderError
from finetune.core.resources import expanded

OTHER_OUTPUT = "Choose another output."
OTHER_TO = "Choose another folder with --to."


def place(output: str | Path, advice: str = OTHER_OUTPUT) -> Path:
    """Return the folder that an output means: ``~`` expanded, symbolic links followed."""
    folder = expanded(output)
    try:
        folder.stat()
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise RunFolderError(
                f"'{folder}' cannot be followed: a symbolic link in it leads back to itself. "
                f"{advice}"
            ) from None
    return folder.resolve() if folder.is_symlink() else folder


def check_free(
    folder: Path, foreign: Callable[[Path], str | None], writer: str, advice: str = OTHER_TO
) -> None:
    """Refuse a folder that a command may not write to.

    Args:
        folder: To be written.
        foreign: Returns the relative name of something in a folder that the command never writes.
        writer: What messages call the command's result: ``run``, ``evaluation``, …
        advice: How to name another folder.

    Raises:
        RunFolderError: For a file in its place, for foreign files, or if nothing can be written.
    """
    held = next((item for item in (folder, *folder.parents) if item.exists()), folder)
    if held.exists() and not held.is_dir():
        what = "" if held == folder else f", so '{folder}' cannot be made"
        raise RunFolderError(f"'{held}' is a file{what}. {advice}")
    other = foreign(folder) if folder.is_dir() else None
    if other:
        raise RunFolderError(
            f"'{folder}' contains files ('{other}') that no {writer} writes. {advice}"
        )
    check_writable(folder)


def refuse_working_folder(folder: Path, advice: str = OTHER_TO) -> None:
    """Refuse a folder that is or contains the working folder; raises RunFolderError."""
    if Path.cwd().is_relative_to(folder.resolve()):
        raise RunFolderError(f"'{folder}' is or contains the working folder. {advice}")


def check_writable(folder: Path) -> None:
    """Check that the folder can be made or written to, by a temporary file without a name."""
    existing = next(parent for parent in folder.absolute().parents if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise RunFolderError(
            f"'{folder}' cannot be written: nothing can be made in '{existing}' "
            f"({error.strerror}). Name another folder."
        ) from error


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


def is_unfinished(name: str, names: Collection[str]) -> bool:
    """Return whether a kill in the middle of `write_atomically` left this of one of the names."""
    return name.startswith(".") and name[1:].rpartition(".")[0] in names


def remove_unfinished(folder: Path, names: Collection[str]) -> None:
    """Remove what kills in the middle of `write_atomically` left of files of these names."""
    for path in folder.rglob(".*"):
        if is_unfinished(path.name, names) and path.is_file():
            path.unlink(missing_ok=True)
