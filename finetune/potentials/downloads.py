"""Download a file: an interrupted transfer is continued, and a wrong file is never kept."""

from __future__ import annotations

import hashlib
import http.client
import os
import urllib.error
import urllib.request
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from finetune.core.errors import FoundationError

CONVERSION = 1
"""Increase this when the same file may be converted to a different result."""


def mace_cache() -> Path:
    """Return the folder in which MACE keeps the models that it downloads."""
    return _root() / "mace"


def conversion(sha256: str) -> Path:
    """Return the folder for the conversion of the file with this sha256.

    Each release of MACE has one of its own: it may build another model from the same settings.
    """
    release = f"conversion-{CONVERSION}-mace-torch-{version('mace-torch')}"
    return _root() / "piwsl-finetune" / release / sha256


def _root() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


ATTEMPTS = 3
TIMEOUT = 60.0  # seconds without a byte
_BLOCK = 256 * 1024


def download(url: str, target: Path, sha256: str | None = None, size: int | None = None) -> None:
    """Fetch ``url`` into ``target``, with a progress bar on standard error.

    What has arrived is kept as ``TARGET.part``; a later call continues from there if the server
    still has the same file. ``target`` appears complete or not at all. ``size`` (bytes) is that
    which the server states if None; a ``sha256`` of None is not checked.

    Raises FoundationError without a network, if the server refuses, if the transfer is interrupted
    repeatedly, and for another digest; says what to fetch and where to put it.
    """
    by_hand = f"Or fetch {url} by other means and save it as '{target}'."
    part = target.with_name(f"{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        for attempt in range(1, ATTEMPTS + 1):
            try:
                _transfer(url, part, target.name, size)
                break
            except (_CutError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
                if attempt == ATTEMPTS:
                    raise FoundationError(
                        f"the download of {url} was interrupted {ATTEMPTS} times ({error}). Run "
                        f"the same command again: it continues from there. {by_hand}"
                    ) from error
        found = digest(part) if sha256 else None
        if found != sha256:
            _forget(part)
            raise FoundationError(
                f"the file downloaded from {url} has the sha256 {found} instead of {sha256}: it is "
                f"damaged or another file, and was not kept. Try again later. {by_hand}"
            )
        part.replace(target)
        _etag(part).unlink(missing_ok=True)
    except urllib.error.HTTPError as error:
        raise FoundationError(
            f"{url} cannot be downloaded: the server answers {error.code} {error.reason}. "
            f"Check the address for a newer release. {by_hand}"
        ) from error
    except urllib.error.URLError as error:
        raise FoundationError(
            f"{url} cannot be downloaded: {error.reason}. Is there a network? {by_hand}"
        ) from error
    except OSError as error:
        raise FoundationError(f"'{target}' cannot be written: {error}.") from error


def digest(path: Path) -> str:
    """Return the sha256 of a file (hex)."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            found.update(block)
    return found.hexdigest()


class _CutError(Exception):
    """A transfer that ended too early."""


def _etag(part: Path) -> Path:
    return part.with_name(f"{part.name}.etag")


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _etag(part).unlink(missing_ok=True)


def _transfer(url: str, part: Path, label: str, size: int | None) -> None:
    request = urllib.request.Request(url)
    have = part.stat().st_size if part.exists() and _etag(part).exists() else 0
    if have:
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", _etag(part).read_text(encoding="utf-8"))
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and have:  # the part is longer than the file: start again
            _forget(part)
            raise _CutError("the part that had arrived did not fit the file") from error
        raise
    with response:
        if response.headers.get_content_type() == "text/html":
            raise FoundationError(
                f"{url} is a web page, not a model. Check the address for a newer release."
            )
        if response.status != 206:
            _forget(part)
            have = 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length and length.isdigit() else size
        if not have and (tag := response.headers.get("ETag")):
            _etag(part).write_text(tag, encoding="utf-8")
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
        bar = Progress(*columns, TransferSpeedColumn(), console=Console(stderr=True))
        with bar, part.open("ab" if have else "wb") as file:
            task = bar.add_task(label, total=total, completed=have)
            while block := response.read(_BLOCK):
                file.write(block)
                have += len(block)
                bar.update(task, completed=have)
    if total is not None and have != total:
        if have > total:
            _forget(part)
        raise _CutError(f"{have:,} of {total:,} bytes arrived")
