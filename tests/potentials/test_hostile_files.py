"""Files that are damaged, of another kind or hostile are refused, and never executed."""

import io
import os
import pickle
import random
import subprocess
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune.core.errors import FoundationError
from finetune.potentials import storage
from finetune.potentials.archive import METADATA, read_archive
from finetune.potentials.loading import load_foundation
from finetune.potentials.mace.potential import MacePotential
from finetune.potentials.storage import CONFIG, WEIGHTS, save

SLOW = pytest.mark.slow


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def archived(path: Path, pickled: bytes, **storages: bytes) -> Path:
    """Write an archive as torch does, with any pickle in it."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", pickled)
        archive.writestr("model/byteorder", "little")
        for key, content in storages.items():
            archive.writestr(f"model/data/{key.removeprefix('s')}", content)
    return path


def exchanged(source: bytes, path: Path, edit: Callable[[bytes], bytes]) -> Path:
    """Write a copy of an archive with an edited pickle and right checksums."""
    with zipfile.ZipFile(io.BytesIO(source)) as old, zipfile.ZipFile(path, "w") as new:
        for info in old.infolist():
            content = old.read(info)
            new.writestr(info.filename, edit(content) if "data.pkl" in info.filename else content)
    return path


class Numbers(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)


OTHERS: dict[str, tuple[object, str]] = {
    "weights alone": (Numbers().state_dict(), "state dict"),
    "a checkpoint": ({"model": {}, "epoch": 3}, "training checkpoint"),
    "another module": (Numbers(), "holds a 'Numbers', which is of no known family"),
    "a tensor": (torch.zeros(3), r"holds a tensor \(3,\), which is of no known family"),
    "a list": ([1, 2], "holds a list"),
}


@pytest.mark.parametrize("what", OTHERS)
def test_files_of_something_else_are_named(what: str, tmp_path: Path) -> None:
    content, message = OTHERS[what]
    torch.save(content, tmp_path / "other.model")
    with pytest.raises(FoundationError, match=rf"other\.model' .*{message}"):
        load_foundation(tmp_path / "other.model")


def test_files_of_another_kind_are_named(saved: bytes, tmp_path: Path) -> None:
    path = tmp_path / "other.model"
    kinds = {
        b"": "is empty",
        b"# a text": "is not a file that torch.save writes",
        pickle.dumps([1]): "is a bare pickle",
        saved[: len(saved) // 2]: "is truncated: its end is missing",
        saved[:-1]: "is truncated: its end is missing",
        saved[:1000] + saved[3000:]: "is damaged",
    }
    for content, message in kinds.items():
        with pytest.raises(FoundationError, match=rf"other\.model' (is )?{message}"):
            load_foundation(write(path, content))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "nothing")
    with pytest.raises(FoundationError, match="not one that torch.save writes"):
        load_foundation(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/data.pkl", b"0" * 10_000_000)
    with pytest.raises(FoundationError, match="compressed"):
        load_foundation(path)
    torch.jit.script(torch.nn.Linear(2, 2)).save(path)
    with pytest.raises(FoundationError, match="TorchScript"):
        load_foundation(path)


class Evil:
    def __init__(self, function: Callable[..., Any], *args: object) -> None:
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


TRACE = "print(open('trace', 'w').write('ran'))"
HOSTILE = {
    "os.system": Evil(os.system, "touch trace"),
    "subprocess": Evil(subprocess.run, ["touch", "trace"]),
    "eval": Evil(eval, TRACE),
    "exec": Evil(exec, TRACE),
    "open": Evil(open, "trace", "w"),
    "a huge array of bytes": Evil(bytearray, 2**50),
    "a huge tensor": Evil(torch.zeros, 2**50),
    "a graph module": Evil(
        torch.fx.graph_module.reduce_graph_module,
        {"_code": f"def forward(self):\n    {TRACE}"},
        f"import os\n{TRACE}",
    ),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_code_in_a_file_is_not_executed(
    what: str,
    saved: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    built_before: None,
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evil.model"
    inside = torch.load(io.BytesIO(saved), weights_only=False)
    inside.extra = HOSTILE[what]
    for content in (HOSTILE[what], [HOSTILE[what]], {"model": HOSTILE[what]}, inside):
        torch.save(content, path)
        with pytest.raises(FoundationError, match=r"evil\.model'"):
            load_foundation(path)
    assert not (tmp_path / "trace").exists()


class Storage:
    def __init__(self, count: int, key: str = "0") -> None:
        self.reference = ("storage", torch.FloatStorage, key, "cpu", count)


class Forger(pickle.Pickler):
    def persistent_id(self, obj: Any) -> Any:
        return obj.reference if isinstance(obj, Storage) else None


def _forged(count: int, *arguments: object, key: str = "0") -> bytes:
    buffer = io.BytesIO()
    rebuild = Evil(torch._utils._rebuild_tensor_v2, Storage(count, key), *arguments, False, {})
    Forger(buffer, 2).dump(rebuild)
    return buffer.getvalue()


FORGED = {
    "a huge shape": _forged(4, 0, (2**40,), (1,)),
    "a shape that overflows": _forged(4, 0, (2**32, 2**32, 0, 3), (1, 1, 1, -1)),
    "an expanded shape": _forged(4, 0, (2**50,), (0,)),
    "a huge stride": _forged(4, 0, (2,), (2**40,)),
    "an offset beyond the end": _forged(4, 4, (1,), (1,)),
    "a negative offset": _forged(4, -1, (1,), (1,)),
    "a negative size": _forged(4, 0, (-1,), (1,)),
    "sizes that are not numbers": _forged(4, 0, ("a",), (1,)),
    "a huge storage": _forged(2**40, 0, (4,), (1,)),
    "a storage elsewhere": _forged(4, 0, (4,), (1,), key="../../etc/passwd"),
    "deep lists": b"\x80\x02" + b"]" * 300_000 + b"a" * 299_999 + b".",
    "deep tuples": b"\x80\x02)" + b"\x85" * 300_000 + b".",
    "deep calls": b"\x80\x02" + b"cos\nsystem\n" * 100_000 + b")" + b"R" * 100_000 + b".",
    "tuples that double": b"\x80\x02})" + b"2\x86" * 5_000 + b"Ns.",
    "a far place in the memo": b"\x80\x02]r\xff\xff\xff\xff.",
    "text longer than the file": b"\x80\x04\x8d" + b"\xff" * 7 + b"\x7fabc.",
    "an empty stack": b"\x80\x02R.",
    "no end": b"\x80\x02]",
    "nothing": b"",
    "an extension": b"\x80\x02\x82\x01.",
}


@pytest.mark.parametrize("what", FORGED)
def test_forged_pickles_are_refused_at_once(what: str, tmp_path: Path) -> None:
    path = archived(tmp_path / "forged.model", FORGED[what], s0=bytes(16))
    start = time.process_time()
    with pytest.raises(FoundationError, match=r"forged\.model'"):
        load_foundation(path)
    assert time.process_time() - start < 5.0


def flipped(content: bytes, draw: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(draw.choice((1, 3, 30))):
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def mutated(source: bytes, path: Path, seed: int) -> None:
    """Write a copy of an archive that is damaged in one of five ways."""
    draw = random.Random(seed)
    if seed % 5 == 0:
        write(path, source[: draw.randrange(len(source))])
    elif seed % 5 == 1:
        write(path, flipped(source, draw))
    elif seed % 5 == 2:
        exchanged(source, path, lambda pickled: flipped(pickled, draw))
    elif seed % 5 == 3:
        exchanged(source, path, lambda pickled: pickled[: draw.randrange(len(pickled))])
    else:
        swapped(source, path, draw)


def swapped(source: bytes, path: Path, draw: random.Random) -> None:
    """Write a copy of an archive in which two members have exchanged their contents."""
    with zipfile.ZipFile(io.BytesIO(source)) as old, zipfile.ZipFile(path, "w") as new:
        members = {info.filename: old.read(info) for info in old.infolist()}
        one, other = draw.sample(sorted(members), 2)
        members[one], members[other] = members[other], members[one]
        for name, content in members.items():
            new.writestr(name, content)


MUTATIONS = [pytest.param(range(60), id="60"), pytest.param(range(60, 560), id="500", marks=SLOW)]


@pytest.mark.parametrize("seeds", MUTATIONS)
def test_mutated_files_open_or_are_refused(
    seeds: range,
    saved: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    built_before: None,
) -> None:
    monkeypatch.chdir(tmp_path)
    path, refused = tmp_path / "mutated.model", 0
    for seed in seeds:
        mutated(saved, path, seed)
        refused += is_refused(path, "mutated.model'")
    assert refused > len(seeds) // 2
    assert names_in(tmp_path) == ["mutated.model"]


@pytest.mark.parametrize("seeds", MUTATIONS)
def test_mutated_folders_are_refused(
    seeds: range, tmp_path: Path, potential: MacePotential, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "stored"
    save(potential, folder, {})
    content = {name: (folder / name).read_bytes() for name in (WEIGHTS, CONFIG)}
    monkeypatch.setattr(storage, "assemble", lambda *_: potential)
    refused = 0
    for seed in seeds:
        draw = random.Random(seed)
        name = draw.choice((WEIGHTS, CONFIG))
        for other, original in content.items():
            write(folder / other, original)
        if seed % 5:
            write(folder / name, flipped(content[name], draw))
        elif seed % 2:
            write(folder / name, content[name][: draw.randrange(len(content[name]))])
        else:
            write(folder / WEIGHTS, content[CONFIG])
            write(folder / CONFIG, content[WEIGHTS])
        refused += is_refused(folder, "stored")
    assert refused > 0.9 * len(seeds)  # white space and free text of config.json may change
    assert names_in(folder) == sorted([CONFIG, WEIGHTS])


def is_refused(path: Path, named: str) -> bool:
    start = time.process_time()
    try:
        load_foundation(path)
        return False
    except FoundationError as error:
        assert named in str(error)
        return True
    finally:
        assert time.process_time() - start < 10.0


def names_in(folder: Path) -> list[str]:
    return sorted(item.name for item in folder.iterdir())


def test_tensors_are_read_as_torch_reads_them(tmp_path: Path) -> None:
    base = torch.arange(24.0).reshape(4, 6)
    tensors = [
        base,
        base.t()[1:, ::2],
        torch.zeros(0, 3),
        torch.tensor(2, dtype=torch.int32),
        base.half(),
        base.bfloat16(),
        base > 3,
    ]
    torch.save(tensors, tmp_path / "tensors.pt")
    with (tmp_path / "tensors.pt").open("rb") as file:
        found = read_archive(file).root
    assert isinstance(found, list)
    for tensor, expected in zip(found, tensors, strict=True):
        assert tensor.dtype == expected.dtype
        assert torch.equal(tensor, expected)


def test_a_file_saved_on_a_gpu_opens_on_the_cpu(
    saved: bytes, tmp_path: Path, built_before: None
) -> None:
    path = exchanged(
        saved, tmp_path / "gpu.model", lambda p: p.replace(*_place("cpu", "cuda:0"), 1)
    )
    assert load_foundation(path).potential.device == torch.device("cpu")


def _place(before: str, after: str) -> tuple[bytes, bytes]:
    old, new = (b"X" + len(text).to_bytes(4, "little") + text.encode() for text in (before, after))
    return old, new


@pytest.mark.parametrize("content", [b"{", b"[1]", b'{"name": "\\ud800"}', b"[" * 100_000])
def test_provenance_that_is_none_is_damage(content: bytes, tmp_path: Path) -> None:
    path = archived(tmp_path / "told.model", pickle.dumps({}, protocol=2))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"model/{METADATA}", content)
    with path.open("rb") as file, pytest.raises(FoundationError, match="is damaged"):
        read_archive(file)
