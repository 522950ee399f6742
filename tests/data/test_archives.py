"""Archives and compressed files: read through, or refused in one line."""

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from finetune.core.errors import DataError
from finetune.data import archives
from finetune.data.reading import Reader, read_structures
from finetune.data.store import write_store

HEADER = "Properties=species:S:1:pos:R:3:REF_forces:R:3"


def xyz(energy: float) -> bytes:
    return f"1\n{HEADER} REF_energy={energy}\nHe 0 0 0 0 0 0.5\n".encode()


MEMBERS = {"set/a.xyz": xyz(-1.0), "set/b.xyz": xyz(-2.0) + xyz(-3.0), "set/notes.md": b"#"}


def packed(path: Path, members: dict[str, bytes]) -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        return path
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    path.write_bytes(compressed(path.suffix)(buffer.getvalue()))
    return path


def compressed(suffix: str) -> Callable[[bytes], bytes]:
    if suffix == ".zst":
        return pytest.importorskip("zstandard").ZstdCompressor().compress
    kinds = {".gz": gzip.compress, ".tgz": gzip.compress, ".bz2": bz2.compress}
    return kinds.get(suffix) or {".xz": lzma.compress}.get(suffix, bytes)


@pytest.mark.parametrize(
    "name", ["a.zip", "a.tar", "a.tar.gz", "a.tgz", "a.tar.bz2", "a.tar.xz", "a.tar.zst"]
)
def test_the_files_of_one_kind_in_an_archive_are_read(name: str, tmp_path: Path) -> None:
    path = packed(tmp_path / name, MEMBERS)
    reader = Reader()
    found = reader.read(path)
    assert [item.energy for item in found] == [-1.0, -2.0, -3.0]
    assert found[2].where == f"'{path}/set/b.xyz', structure 1"
    np.testing.assert_array_equal(found[2].forces, [[0, 0, 0.5]])
    assert "1 other files (notes.md)" in reader.notes()[0]
    assert [item.energy for item in read_structures(f"{path}@:1")] == [-1.0, -2.0]
    assert [item.energy for item in read_structures(f"{path}@*/b.*")] == [-2.0, -3.0]
    with pytest.raises(DataError, match=r"no file in the archive '.*' matches '\*\.cif'"):
        read_structures(f"{path}@*.cif")


@pytest.mark.parametrize("name", ["a.ZIP", "a.tar.GZ", "a.TGZ", "a.tar.ZST"])
def test_names_in_capitals_are_read(name: str, tmp_path: Path) -> None:
    path = packed(tmp_path / name.lower(), MEMBERS).rename(tmp_path / name)
    assert [item.energy for item in read_structures(path)] == [-1.0, -2.0, -3.0]


@pytest.mark.parametrize("suffix", [".GZ", ".BZ2", ".XZ", ".ZST"])
def test_compressed_files_in_capitals_are_read(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.xyz{suffix}"
    path.write_bytes(compressed(suffix.lower())(xyz(-1.0)))
    assert read_structures(path)[0].energy == -1.0


def test_a_name_that_is_twice_in_an_archive_is_refused(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.tar", {"a.xyz": xyz(-1.0), "./a.xyz": xyz(-2.0)})
    with pytest.raises(DataError, match=r"a\.tar' has the member '\./a\.xyz' twice"):
        read_structures(path)


def test_an_archive_of_several_kinds_is_asked_about(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.zip", {"a.xyz": xyz(-1.0), "b.cif": b"data_x"})
    with pytest.raises(DataError, match=r"several kinds \(1 \.cif, 1 \.xyz\).*a\.zip@\*\.cif'"):
        read_structures(path)
    with pytest.raises(DataError, match="contains no file with a suffix of a structure file"):
        read_structures(packed(tmp_path / "b.zip", {"README": b"x"}))


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zst"])
def test_compressed_files(suffix: str, tmp_path: Path) -> None:
    text = tmp_path / f"a.xyz{suffix}"
    text.write_bytes(compressed(suffix)(xyz(-1.0) + xyz(-2.0)))
    assert [item.energy for item in read_structures(text)] == [-1.0, -2.0]
    assert [item.energy for item in read_structures(f"{text}@1")] == [-2.0]
    with h5py.File(tmp_path / "plain.h5", "w") as file:
        arrays = {"atXYZ": np.zeros((1, 3)), "atNUM": [2], "totFOR": np.ones((1, 3))}
        for name, values in (arrays | {"ePBE0+MBD": [-5.0]}).items():
            file[f"1/x/{name}"] = values
    binary = tmp_path / f"1000{suffix}"
    binary.write_bytes(compressed(suffix)((tmp_path / "plain.h5").read_bytes()))
    (found,) = read_structures(binary)
    assert found.energy == -5.0
    inside = packed(tmp_path / "b.tar", {f"1000.h5{suffix}": binary.read_bytes()})
    assert read_structures(inside)[0].energy == -5.0


@pytest.mark.parametrize("name", ["../a.xyz", "/a.xyz", "set/../../a.xyz", "C:\\a.xyz"])
@pytest.mark.parametrize("archive", ["a.zip", "a.tar.gz"])
def test_names_that_lead_out_are_refused(archive: str, name: str, tmp_path: Path) -> None:
    path = packed(tmp_path / archive, {"good.xyz": xyz(-1.0), name: xyz(-2.0)})
    with pytest.raises(DataError, match="whose name leads out of it. It is not read"):
        read_structures(path)


def test_links_and_secrets_are_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        link = tarfile.TarInfo("a.xyz")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with pytest.raises(DataError, match="has the link or device 'a.xyz'"):
        read_structures(tmp_path / "a.tar")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        info = zipfile.ZipInfo("a.xyz")
        info.create_system, info.external_attr = 3, 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(DataError, match="has the link 'a.xyz'"):
        read_structures(tmp_path / "a.zip")
    path = packed(tmp_path / "b.zip", {"a.xyz": xyz(-1.0)})
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1  # marked as encrypted
    path.write_bytes(content)
    with pytest.raises(DataError, match="is encrypted"):
        read_structures(path)


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz", "a.xyz.zst"])
def test_bombs_are_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = xyz(-1.0) + b"\n" * 10_000
    path = tmp_path / name
    if name.endswith(".zst"):
        path.write_bytes(compressed(".zst")(content))
    else:
        packed(path, {"a.xyz": content})
    assert len(read_structures(path)) == 1
    monkeypatch.setattr(archives, "SMALL", 5000)
    monkeypatch.setattr(archives, "LARGEST_RATIO", 10)
    with pytest.raises(DataError, match="unpacks to more than .*10 times its size"):
        read_structures(path)


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz", "a.tar", "a.xyz.zst"])
def test_damage_is_told(name: str, tmp_path: Path) -> None:
    rest = {f"{n}.xyz": np.random.default_rng(n).bytes(3000) for n in range(9)}
    path = tmp_path / name
    if name.endswith(".zst"):
        path.write_bytes(compressed(".zst")(b"".join(rest.values())))
    else:
        packed(path, rest)
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(DataError, match=r"'.*' cannot be unpacked \(.+\)\. Is it complete"):
        read_structures(path)


def test_a_damaged_member_is_told(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.zip", {"a.xyz": xyz(-1.0), "b.xyz": xyz(-2.0)})
    content = bytearray(path.read_bytes())
    content[content.rindex(b"PK\x03\x04")] = 0  # the head of the second member
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.zip' cannot be unpacked \(BadZipFile"):
        read_structures(path)


def test_stores_and_archives_within_an_archive_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.xyz").write_bytes(xyz(-1.0))
    write_store(tmp_path / "a.h5", [list(read_structures(tmp_path / "a.xyz"))])
    inner = packed(tmp_path / "inner.zip", {"a.xyz": xyz(-1.0)})
    for member in (tmp_path / "a.h5", inner):
        path = packed(tmp_path / "outer.tar", {member.name: member.read_bytes()})
        with pytest.raises(DataError, match=rf"has '{member.name}' in it: stores, and archives"):
            read_structures(path)
