"""The suite of families on the first family, and what opening holds for any family."""

from pathlib import Path

import pytest
import torch

from finetune.core.errors import FoundationError
from finetune.potentials import storage
from finetune.potentials.loading import load_foundation
from finetune.potentials.mace.family import MaceFamily
from finetune.testing import FamilySuite, small_potential


class TestMace(FamilySuite):
    kind = "mace"


def test_weights_in_half_precision_are_stored_and_opened(tmp_path: Path) -> None:
    storage.save(small_potential(), tmp_path / "half", {}, dtype=torch.bfloat16)
    assert load_foundation(tmp_path / "half").potential.dtype == torch.float64


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (AttributeError("no such thing"), "not understood as a MACE: AttributeError"),
        (({}, {"x": 3}), "are no tensors with names"),
        (({}, {3: torch.zeros(1)}), "are no tensors with names"),
    ],
)
def test_a_family_that_reads_badly_gets_one_message(
    found: object, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*_: object) -> object:
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(MaceFamily, "recognises", lambda *_: True)
    monkeypatch.setattr(MaceFamily, "read", read)
    torch.save({"any": 1}, tmp_path / "any.pth")
    with pytest.raises(FoundationError, match=rf"any.pth' .*{message}"):
        load_foundation(tmp_path / "any.pth")
