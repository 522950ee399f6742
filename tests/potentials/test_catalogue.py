"""The catalogue: MACE's own addresses and cache, and downloads that are whole or not at all."""

import hashlib
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from finetune.commands import app
from finetune.core.errors import FoundationError
from finetune.core.resources import cache
from finetune.potentials import catalogue, description, opening
from finetune.potentials.catalogue import entries, fetch, published
from finetune.potentials.description import describe
from finetune.potentials.downloads import download
from finetune.potentials.loading import load_foundation
from finetune.potentials.mace import published as mace_published
from finetune.potentials.mace.potential import mace_modules
from finetune.potentials.published import ASL, Address

runner = CliRunner()
CONTENT = bytes(range(256)) * 4096
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves one content, and does to it what a test asks for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.etag = CONTENT, '"1"'
        self.cut_at: list[int] = []  # lengths after which the next transfers break off
        self.ranges: list[str | None] = []  # what was asked for

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:  # noqa: N802
        asked = self.headers.get("Range")
        self.server.ranges.append(asked)
        if self.path == "/missing":
            self.send_error(404)
            return
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        if self.headers.get("If-Range") not in {None, self.server.etag}:
            start = 0
        if asked and start >= len(self.server.content):
            self.send_error(416)
            return
        body = self.server.content[start:]
        self.send_response(206 if start else 200)
        page = self.path == "/page"
        self.send_header("Content-Type", "text/html" if page else "application/octet-stream")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", self.server.etag)
        self.end_headers()
        self.wfile.write(body[: self.server.cut_at.pop(0)] if self.server.cut_at else body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as served:
        thread = threading.Thread(target=served.serve_forever, daemon=True)
        thread.start()
        yield served
        served.shutdown()
        thread.join()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def names_in(folder: Path) -> list[str]:
    return sorted(item.name for item in folder.iterdir())


def test_addresses_and_cache_are_those_of_mace(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # which the import would set
    mace_modules()
    from mace.calculators import foundations_models as theirs
    from mace.tools.utils import get_cache_dir

    assert get_cache_dir() == cache("mace")
    asked: list[tuple[str, str]] = []

    def refuse(url: str, filename: str, *_: object) -> None:
        asked.append((theirs._normalize_github_download_url(url), str(filename)))
        raise RuntimeError("no network")

    monkeypatch.setattr(theirs, "_urlretrieve_with_timeout", refuse)
    monkeypatch.setattr(theirs, "local_model_path", "nowhere")
    for load in (
        *(partial(theirs.mace_mp, name) for name in theirs.mace_mp_urls),
        *(partial(theirs.mace_off, name) for name in theirs.mace_off_urls),
        theirs.mace_omol,
        theirs.mace_anicc,
    ):
        with pytest.raises(RuntimeError, match="ailed"):
            load()
    ours = {str(item.source): str(item.file) for item in mace_published.published().values()}
    assert {url for url, _ in asked} == set(ours)
    ani = str(published()["mace-ani-cc"].source)  # which MACE keeps inside its own package
    assert all(ours[url] == file for url, file in asked if url != ani)


def test_a_download_is_whole(server: Server, tmp_path: Path) -> None:
    download(f"{server.url}/model", tmp_path / "some.model", SHA256)
    assert (tmp_path / "some.model").read_bytes() == CONTENT
    assert names_in(tmp_path) == ["some.model"]


def test_a_cut_transfer_is_taken_up_where_it_ended(server: Server, tmp_path: Path) -> None:
    server.cut_at = [300_000, 200_000]
    download(f"{server.url}/model", tmp_path / "some.model", SHA256)
    assert server.ranges == [None, "bytes=300000-", "bytes=500000-"]
    assert (tmp_path / "some.model").read_bytes() == CONTENT
    assert names_in(tmp_path) == ["some.model"]


def test_a_later_run_goes_on_from_what_arrived(server: Server, tmp_path: Path) -> None:
    server.cut_at = [100_000] * 3
    with pytest.raises(
        FoundationError, match="was interrupted 3 times.*300,000 of 1,048,576.*continues"
    ):
        download(f"{server.url}/model", tmp_path / "some.model", SHA256)
    assert not (tmp_path / "some.model").exists()
    download(f"{server.url}/model", tmp_path / "some.model", SHA256)
    assert server.ranges[-1] == "bytes=300000-"
    assert names_in(tmp_path) == ["some.model"]


def test_a_file_that_changed_on_the_server_is_fetched_anew(server: Server, tmp_path: Path) -> None:
    server.cut_at = [100_000] * 3
    with pytest.raises(FoundationError):
        download(f"{server.url}/model", tmp_path / "some.model")
    server.content, server.etag = b"another", '"2"'
    download(f"{server.url}/model", tmp_path / "some.model")
    assert (tmp_path / "some.model").read_bytes() == b"another"


@pytest.mark.parametrize(
    ("path", "sha256", "message"),
    [
        ("missing", None, "404 Not Found.*save it as .*some.model"),
        ("model", "0" * 64, f"{SHA256} instead of 0000.*not kept.*save it as"),
        ("page", None, "is a web page"),
    ],
)
def test_what_cannot_be_used_is_not_kept(
    server: Server, tmp_path: Path, path: str, sha256: str | None, message: str
) -> None:
    with pytest.raises(FoundationError, match=message):
        download(f"{server.url}/{path}", tmp_path / "some.model", sha256)
    assert names_in(tmp_path) == []


def test_without_a_network_the_message_says_what_to_fetch(tmp_path: Path) -> None:
    with Server() as unused:
        url = f"{unused.url}/model"
    with pytest.raises(FoundationError, match=rf"Is there a network\? Or fetch {url} by other"):
        download(url, tmp_path / "some.model")


def publish(
    monkeypatch: pytest.MonkeyPatch, name: str, url: str, sha256: str | None = None
) -> None:
    place = cache("mace") / "".join(filter(str.isalnum, url.rpartition("/")[2]))
    known = mace_published.published()
    known[name] = replace(known[name], source=Address(url, place), sha256=sha256)
    monkeypatch.setattr(mace_published, "published", lambda: known)


def test_a_published_model_is_downloaded_and_converted_once(
    server: Server, home: Path, saved: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.content = saved
    sha256 = hashlib.sha256(saved).hexdigest()
    publish(monkeypatch, "mace-mp-0b3-medium", url=f"{server.url}/some.model", sha256=sha256)
    opened = load_foundation("mace-mp-0b3-medium")
    assert opened.location == "mace-mp-0b3-medium"
    assert opened.metadata["level_of_theory"] == "PBE(+U)"
    assert (home / "cache" / "mace" / "somemodel").read_bytes() == saved
    monkeypatch.setattr(opening, "read_archive", None)  # neither fetched nor read again
    again = load_foundation("mace-mp-0b3-medium", torch.float32)
    assert len(server.ranges) == 1
    assert again.fingerprint == opened.fingerprint
    for name, weight in opened.potential.named_parameters():
        assert torch.equal(dict(again.potential.named_parameters())[name], weight.float())
    (home / "cache" / "mace" / "somemodel").write_bytes(saved + b"x")
    with pytest.raises(FoundationError, match="somemodel' has the sha256 .* Delete it"):
        load_foundation("mace-mp-0b3-medium")


@pytest.mark.slow
def test_a_damaged_conversion_is_made_anew(home: Path, saved: bytes) -> None:
    (home / "tiny.model").write_bytes(saved)
    opened = load_foundation(home / "tiny.model")
    (weights,) = (home / "cache").rglob("model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1])
    assert load_foundation(home / "tiny.model").fingerprint == opened.fingerprint


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(
    home: Path, saved: bytes, built_before: None
) -> None:
    (home / "cache").write_text("a file where the folder should be")
    (home / "tiny.model").write_bytes(saved)
    assert load_foundation(home / "tiny.model").potential.elements == (1, 6, 7, 8)
    with pytest.raises(FoundationError, match="cannot be written"):
        fetch("mace-mp-0-small")


def test_an_academic_licence_is_asked_for(
    server: Server, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(monkeypatch, "mace-off23-small", url=f"{server.url}/off.model")
    with pytest.raises(FoundationError, match="commercial use.*--accept-licence"):
        load_foundation("mace-off23-small")
    assert server.ranges == []
    assert fetch("mace-off23-small", accept_licence=True).read_bytes() == CONTENT
    assert fetch("mace-off23-small").is_file()
    assert {published()[name].licence for name in ("mace-off23-large", "mace-omat-0-small")} == {
        ASL
    }


def test_the_command_lists_fetches_and_describes(
    server: Server, home: Path, saved: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = runner.invoke(app, ["foundations"], env={**os.environ, "COLUMNS": "120"}).output
    for entry in entries():
        assert f"{entry.name} " in listed
    assert "GFN2-xTB" in listed
    told = runner.invoke(app, ["foundations", "mace-mh-1"]).output
    assert "Academic Software License" in told
    assert "to download: https" in told
    server.content = saved
    publish(monkeypatch, "mace-mh-1", url=f"{server.url}/mh.model", sha256=None)
    done = runner.invoke(app, ["foundations", "mace-mh-1", "--download"])
    assert done.exit_code == 2
    assert "--accept-licence" in done.stderr
    done = runner.invoke(app, ["foundations", "mace-mh-1", "--accept-licence"])
    assert done.exit_code == 0, done.output
    for line in (
        "cutoff                 4 Å",
        "hidden irreps          4x0e+4x1o",
        "heads                  Default",
        "elements               4: H C N O",
        "dtype                  float64",
        "  interactions.0 ",
        "fingerprint ",
    ):
        assert line in done.stdout
    assert runner.invoke(app, ["foundations", "nowhere"]).exit_code == 2


def test_the_embedded_foundation_is_described() -> None:
    told = runner.invoke(app, ["foundations", "tiny-xtb-hcno"]).output
    assert "level of theory        GFN2-xTB" in told
    assert "licence                MIT" in told


@pytest.mark.parametrize(
    ("name", "told"), [("mace-mp0", "'mace-mp-0-small'"), ("orb-v3", "'orb-v3-direct-inf-omat'")]
)
def test_misspelt_names_are_answered_with_those_that_begin_like_them(name: str, told: str) -> None:
    assert catalogue.suggested(name).startswith(" Did you mean '")
    assert told in catalogue.suggested(name)
    assert catalogue.suggested(name).count("'") <= 2 * catalogue.MOST_NAMED


def test_a_potential_is_described_before_the_download(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(description, "release", lambda name: "not installed")
    rows = dict(describe("orb-v3-direct-omol"))
    assert rows["reads charge and spin"] == "charge and spin" and rows["forces"] == "of a head"
    needed = "orb-models (not installed): pip install 'piwsl-finetune[orb]'"
    assert rows["package needed"] == needed
    assert "C" in rows["elements"].split() and rows["family"] == "ORB"
