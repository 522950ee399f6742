"""Single precision, and TF32 where the device has it."""

from pathlib import Path

import pytest
import torch

import finetune
from finetune.core.devices import multiplication, training_dtype
from finetune.core.errors import RecipeError
from tests.conftest import recipe_for


def test_tf32_is_refused_where_there_is_none(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = {"precision": "tf32", "device": "cpu"}
    with pytest.raises(RecipeError, match="tf32 needs the tensor cores.*'cpu' has none"):
        finetune.run(recipe_for(workspace, tmp_path / "run", train=train))
    assert not (tmp_path / "run").exists()
    cuda = torch.device("cuda:0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    with pytest.raises(RecipeError, match="compute capability 8.0"):
        training_dtype("tf32", cuda)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert training_dtype("tf32", cuda) is torch.float32


def test_the_switch_is_put_back() -> None:
    before = torch.get_float32_matmul_precision()
    for precision, inside in (("tf32", "high"), ("float32", "highest")):
        with pytest.raises(ZeroDivisionError), multiplication(precision):
            assert torch.get_float32_matmul_precision() == inside
            1 / 0  # noqa: B018
        assert torch.get_float32_matmul_precision() == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["float64", "float32", "tf32"])
def test_a_gpu_learns_in_every_precision(precision: str, workspace: Path, tmp_path: Path) -> None:
    train = {"precision": precision, "device": "cuda", "epochs": 4, "learning_rate": 0.01}
    result = finetune.run(recipe_for(workspace, tmp_path / "run", train=train))
    assert result.best_epoch > 0
    assert result.history[-1]["valid/loss"] < result.history[0]["valid/loss"]
