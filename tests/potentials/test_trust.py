"""What is loaded the ordinary way, on request, must be what a plain MACE can be."""

import copy
import io
from pathlib import Path

import pytest
import torch

from finetune.core.errors import FoundationError
from finetune.data.graphs import GraphBatch, concatenate
from finetune.potentials.loading import load_foundation
from finetune.potentials.mace import trusted
from finetune.potentials.mace.potential import construct, mace_modules
from tests.potentials.architectures import HEADS
from tests.potentials.plain_mace import assert_as_mace
from tests.tiny import tiny_settings


class Mark:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> object:
        return open, (str(self.path), "w")


def test_trust_loads_what_is_not_understood(
    tmp_path: Path, mixed_graphs: list[GraphBatch], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = construct(tiny_settings(**HEADS), torch.float64).eval()
    other = construct(tiny_settings(**HEADS), torch.float64)
    monkeypatch.setattr(trusted, "construct", lambda *_: copy.deepcopy(other))
    model.extra = 3
    path = tmp_path / "odd.model"
    torch.save(model, path, _use_new_zipfile_serialization=False)  # as before torch 1.6
    with pytest.raises(FoundationError, match="bare pickle"):
        load_foundation(path, head="cc")
    batch = concatenate(mixed_graphs)
    found = load_foundation(path, head="cc", trust=True).potential(batch)
    assert_as_mace(found, model, batch, 1)
    with pytest.raises(FoundationError, match="several heads: dft, cc. Choose one"):
        load_foundation(path, trust=True)


def test_code_runs_with_trust_alone(saved: bytes, tmp_path: Path) -> None:
    model = torch.load(io.BytesIO(saved), weights_only=False)
    model.extra = Mark(tmp_path / "trace")
    torch.save(model, tmp_path / "evil.model")
    with pytest.raises(FoundationError, match="not understood. If you trust where it comes from"):
        load_foundation(tmp_path / "evil.model")
    assert not (tmp_path / "trace").exists()


@pytest.mark.slow
def test_another_architecture_is_not_passed_off(tmp_path: Path) -> None:
    model = construct(tiny_settings(), torch.float64)
    model.__class__ = Doubling
    torch.save(model, tmp_path / "double.model")
    with pytest.raises(FoundationError, match="double.model' .*predicts other energies"):
        load_foundation(tmp_path / "double.model", trust=True)
    torch.save(torch.nn.Linear(1, 1), tmp_path / "linear.model")
    with pytest.raises(FoundationError, match="holds a Linear, which is no MACE"):
        load_foundation(tmp_path / "linear.model", trust=True)
    (tmp_path / "text.model").write_text("text")
    with pytest.raises(FoundationError, match="cannot be loaded by torch either"):
        load_foundation(tmp_path / "text.model", trust=True)


class Doubling(mace_modules().ScaleShiftMACE):
    """A MACE of somebody's own: twice the energy."""

    def forward(self, *args: object, **kwargs: object) -> dict[str, torch.Tensor]:
        found = super().forward(*args, **kwargs)
        return {**found, "node_energy": 2 * found["node_energy"]}
