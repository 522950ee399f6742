"""Write files completely or not at all: a kill at any moment leaves the previous version."""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


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
