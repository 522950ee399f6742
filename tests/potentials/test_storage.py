"""Stored potentials come back exactly, and damaged ones not at all."""

import json
from pathlib import Path

import pytest
import torch

from finetune.core.errors import FoundationError
from finetune.data.graphs import GraphBatch, concatenate
from finetune.potentials.description import describe
from finetune.potentials.loading import load_foundation
from finetune.potentials.mace.potential import MacePotential
from finetune.potentials.storage import CONFIG, WEIGHTS, load, save
from tests.tiny import tiny_mace


@pytest.fixture
def stored(tmp_path: Path, potential: MacePotential) -> Path:
    save(potential, tmp_path / "stored", {"name": "tiny"})
    return tmp_path / "stored"


def test_round_trip_is_exact(
    stored: Path, potential: MacePotential, mixed_graphs: list[GraphBatch]
) -> None:
    opened, config = load(stored)
    batch = concatenate(mixed_graphs)
    assert config.metadata == {"name": "tiny"}
    assert torch.equal(opened(batch).energy, potential(batch).energy)
    assert torch.equal(opened(batch).forces, potential(batch).forces)
    assert sorted(path.name for path in stored.iterdir()) == [CONFIG, WEIGHTS]


def test_single_precision_weights_are_equivariant_in_double(tmp_path: Path) -> None:
    save(tiny_mace(dtype=torch.float32), tmp_path, {})
    opened, _ = load(tmp_path, torch.float64)
    assert {buffer.dtype for buffer in opened.model.buffers() if buffer.is_floating_point()} == {
        torch.float64
    }
    fresh = tiny_mace()
    for name, buffer in opened.model.named_buffers():
        assert torch.equal(buffer, dict(fresh.model.named_buffers())[name]), name


def test_changed_reference_energies_are_stored(tmp_path: Path) -> None:
    potential = tiny_mace()
    potential.set_references({8: -2043.123456789})
    save(potential, tmp_path, {})
    assert load(tmp_path)[0].references()[8] == -2043.123456789


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-100] ^= 0xFF
    path.write_bytes(bytes(content))


def _edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


DAMAGE = {
    "a flipped bit": (lambda f: _flip(f / WEIGHTS), "fingerprint"),
    "truncated weights": (
        lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:500]),
        "cannot be read",
    ),
    "empty weights": (lambda f: (f / WEIGHTS).write_bytes(b""), "cannot be read"),
    "missing weights": (lambda f: (f / WEIGHTS).unlink(), "cannot be read"),
    "broken JSON": (lambda f: (f / CONFIG).write_text('{"format":'), "cannot be read"),
    "JSON of something else": (lambda f: (f / CONFIG).write_text("[1]"), "does not describe"),
    "a later version": (lambda f: _edit(f / CONFIG, format_version=99), "version 99"),
    "an unknown head": (
        lambda f: _edit(f / CONFIG, head="nope"),
        "'head': there is no head 'nope'",
    ),
    "an unknown family": (
        lambda f: _edit(f / CONFIG, family="painn"),
        "family 'painn'.*Known: chgnet, direct, mace.*piwsl_finetune.families",
    ),
    "no settings": (lambda f: _edit(f / CONFIG, settings={}), "damaged at 'settings"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_named(stored: Path, damage: str) -> None:
    spoil, message = DAMAGE[damage]
    assert ("groups of weights", "embedding, interactions, products, readout") in describe(
        str(stored)
    )
    spoil(stored)
    for opened in (load_foundation, describe):
        with pytest.raises(FoundationError, match=message):
            opened(str(stored))


@pytest.mark.parametrize(
    ("metadata", "entry"),
    [
        ({"recipe": 5}, "recipe"),
        ({"recipe": {"data": []}}, "recipe.data"),
        ({"recipe": {"data": {"keys": 5}}}, "recipe.data.keys"),
        ({"recipe": {"data": {"units": {"length": "furlong"}}}}, "recipe.data.units.length"),
        ({"foundation": 5}, "foundation"),
        ({"foundation": {"name": "tiny"}}, "foundation.fingerprint"),
        ({"compositions": "C2"}, "compositions"),
    ],
)
def test_metadata_of_other_types_are_named(
    stored: Path, metadata: dict[str, object], entry: str
) -> None:
    _edit(stored / CONFIG, metadata={"a note": 5, "lineage": 5})
    load_foundation(stored)
    _edit(stored / CONFIG, metadata=metadata)
    for opened in (load_foundation, describe):
        with pytest.raises(FoundationError, match=rf"config.json' is damaged .* '{entry}' is not"):
            opened(str(stored))


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    potential = tiny_mace()
    with torch.no_grad():
        next(potential.model.parameters())[0] = float("nan")
    save(potential, tmp_path, {})
    with pytest.raises(FoundationError, match="NaN"):
        load(tmp_path)


def test_unknown_names_and_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FoundationError, match="no foundation 'nowhere'"):
        load_foundation("nowhere")
    (tmp_path / "mace.model").write_bytes(b"anything")
    with pytest.raises(FoundationError, match="mace.model' is not a file that torch.save writes"):
        load_foundation(tmp_path / "mace.model")
    with pytest.raises(FoundationError, match="holds no potential"):
        load_foundation(tmp_path)
