"""Potentials out of wheels: real pip, on an index that is a folder."""

import hashlib
import os
import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from finetune.core.errors import FoundationError
from finetune.potentials import downloads
from finetune.potentials.downloads import download_wheel
from finetune.potentials.published import Wheel

CONTENT = bytes(range(256)) * 512
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MEMBER, OTHER = "piwsl_fakemodels/model.pth", "piwsl_fakemodels/other.pth"
RECORDS = {
    "METADATA": "Metadata-Version: 2.1\nName: piwsl-fakemodels\nVersion: 1.0\n",
    "WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    "RECORD": "",
}


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one wheel, which is all that pip looks into."""
    folder = tmp_path / "index"
    folder.mkdir()
    with zipfile.ZipFile(folder / "piwsl_fakemodels-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr(MEMBER, CONTENT)
        archive.writestr(OTHER, b"other")
        for name, text in RECORDS.items():
            archive.writestr(f"piwsl_fakemodels-1.0.dist-info/{name}", text)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


@pytest.fixture
def wheel(index: Path) -> Wheel:
    (path,) = index.iterdir()
    found = Wheel(
        distribution="piwsl-fakemodels",
        version="1.0",
        member=MEMBER,
        name="fake.pth",
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
    )
    found.file.parent.mkdir(parents=True)
    return found


def left(wheel: Wheel) -> list[str]:
    return sorted(path.name for path in wheel.file.parent.rglob("*"))


def test_a_member_arrives_whole_and_nothing_else(wheel: Wheel) -> None:
    download_wheel(wheel, SHA256)
    assert wheel.file.read_bytes() == CONTENT
    assert left(wheel) == ["fake.pth"]


def test_the_wheel_is_fetched_once_and_quietly(
    wheel: Wheel, capfd: pytest.CaptureFixture[str]
) -> None:
    right, wrong, absent = (
        replace(wheel, name=f"{name}.pth", member=member)
        for name, member in (("right", OTHER), ("wrong", OTHER), ("absent", "absent"))
    )
    digest = hashlib.sha256(b"other").hexdigest()
    download_wheel(wheel, SHA256, {right: digest, wrong: "0" * 64, absent: digest})
    assert left(wheel) == ["fake.pth", "right.pth"]
    shown = capfd.readouterr()
    assert shown.out == "" and len(shown.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("changes", "sha256", "message"),
    [
        ({"sha256": "0" * 64}, SHA256, "wheel of piwsl-fakemodels==1.0 has the sha256 .* instead"),
        ({}, "0" * 64, "model.pth in piwsl-fakemodels 1.0 .* has the sha256 .* instead of 0000"),
        ({"member": "none.pth"}, SHA256, "no readable member none.pth"),
        ({"version": "2.0"}, SHA256, "no wheel of that version.*Or run: pip download"),
    ],
)
def test_what_cannot_be_used_is_not_kept(
    wheel: Wheel, changes: dict[str, str], sha256: str, message: str
) -> None:
    asked = replace(wheel, **changes)
    asked.file.parent.mkdir(parents=True, exist_ok=True)
    with pytest.raises(FoundationError, match=message):
        download_wheel(asked, sha256)
    assert left(asked) == []


def test_a_truncated_wheel_is_told(wheel: Wheel, index: Path) -> None:
    (path,) = index.iterdir()
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(FoundationError, match="pip cannot download|no readable member"):
        download_wheel(replace(wheel, sha256=None), SHA256)
    assert left(wheel) == []


def test_without_a_network_there_is_one_message(
    wheel: Wheel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(
        FoundationError, match="index cannot be reached .no network.., or lacks it. Or run"
    ):
        download_wheel(wheel, SHA256)
    assert left(wheel) == []


def test_a_file_pip_py_of_the_working_folder_is_not_run(
    wheel: Wheel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pip.py").write_text(f"open({str(tmp_path / 'run')!r}, 'w').close()")
    monkeypatch.chdir(tmp_path)
    download_wheel(wheel, SHA256)
    assert wheel.file.is_file() and not (tmp_path / "run").exists()


def test_what_a_killed_download_left_is_removed(wheel: Wheel) -> None:
    (wheel.file.parent / ".download-fake.pth-killed").mkdir()
    download_wheel(wheel, SHA256)
    assert left(wheel) == ["fake.pth"]


def test_a_full_disk_is_told(wheel: Wheel, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device"
    failed = subprocess.CompletedProcess([], 1, stderr=said)
    monkeypatch.setattr(downloads.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(FoundationError, match="there is no space left on the device"):
        download_wheel(wheel, SHA256)
    assert left(wheel) == []


def test_an_installed_copy_is_used(
    wheel: Wheel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "installed.pth").write_bytes(CONTENT)
    monkeypatch.setattr(downloads, "_installed", lambda _: tmp_path / "installed.pth")
    monkeypatch.setattr(downloads, "_pip_download", None)  # which is not asked
    download_wheel(wheel, SHA256)
    assert wheel.file.read_bytes() == CONTENT
