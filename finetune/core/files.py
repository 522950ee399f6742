"""Files and the one output folder: written completely or not at all, never over foreign files.

Every command asks here where its folder is (`place`), what lies there already (`check_free`), and
who else is at work there (`alone`). A kill at any moment leaves the previous version of a file; the
previous version of a folder may be left under its temporary name.
"""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from finetune.core.errors import RunFolderError
from finetune.core.resources import expanded


@contextmanager
def appearing(path: Path) -> Iterator[int]:
    """Yield the descriptor of a temporary file that is renamed to ``path`` at the end.

    The caller closes the descriptor. An existing file is replaced; after an exception the temporary
    file is removed.
    """
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        yield descriptor
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_atomically(path: Path, content: bytes) -> None:
    """Write ``content`` under a temporary name in the same folder, sync it and rename it."""
    with _in_the_name_of(path), appearing(path) as descriptor:
        _write(descriptor, content)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file completely or not at all."""
    write_atomically(path, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def finite(value: Any) -> Any:
    """Return nested values with None for numbers that JSON cannot express."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: Path) -> dict[str, Any]:
    """Return the mapping in a JSON file.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it contains anything else, saying what is wrong.
    """
    try:
        found = json.loads(path.read_bytes())
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON: line {error.lineno}: {error.msg}") from error
    except UnicodeDecodeError as error:
        raise ValueError("it is not text") from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(found, dict):
        raise ValueError("it has no mapping at its top level")
    return found


def write_folder(path: Path, contents: Mapping[str, bytes]) -> None:
    """Write a folder of files, by relative path, completely or not at all.

    An existing folder of the same name is replaced.
    """
    with _in_the_name_of(path):
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
        _fill(temporary, path, contents)


def _fill(temporary: Path, path: Path, contents: Mapping[str, bytes]) -> None:
    """Write files to a temporary folder, and put it in the place of another."""
    try:
        for name, content in contents.items():
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            _write(os.open(temporary / name, os.O_WRONLY | os.O_CREAT, 0o666), content)
        temporary.chmod(0o777 & ~_umask())
        _sync(temporary)
        earlier = temporary.with_name(f"{temporary.name}.earlier")
        if path.exists():
            path.rename(earlier)
        temporary.rename(path)
        _sync(path.parent)
        shutil.rmtree(earlier, ignore_errors=True)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


@contextmanager
def _in_the_name_of(path: Path) -> Iterator[None]:
    """Make an error of the system name the target, not the temporary file."""
    try:
        yield
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise


def _write(descriptor: int, content: bytes) -> None:
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


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
