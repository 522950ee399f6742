"""Layers of other packages: a clear message without them, the same predictions with them."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

import finetune
from finetune.core.errors import FoundationError, RecipeError
from finetune.potentials.mace import acceleration
from finetune.potentials.mace.acceleration import accelerate, choose, plain
from finetune.potentials.mace.potential import construct
from tests.conftest import recipe_for
from tests.tiny import tiny_mace

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
HAS_CUEQ = find_spec("cuequivariance_torch") is not None


def test_auto_takes_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose("auto", CPU) == "none"
    assert choose("none", CUDA) == "none"
    monkeypatch.setattr(acceleration, "find_spec", lambda _: True)
    assert choose("auto", CUDA) == "cueq"
    assert choose("auto", CPU) == "none"
    assert choose("cueq", CPU) == "cueq"
    with pytest.raises(FoundationError, match="oeq needs a CUDA device"):
        choose("oeq", CPU)
    monkeypatch.setattr(acceleration, "find_spec", lambda _: None)
    assert choose("auto", CUDA) == "none"


@pytest.mark.parametrize(("kind", "package"), [("cueq", "cuequivariance"), ("oeq", "openequiv")])
def test_a_missing_package_is_named(
    kind: str, package: str, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acceleration, "find_spec", lambda _: None)
    recipe = recipe_for(workspace, tmp_path / "run", train={"acceleration": kind})
    with pytest.raises(FoundationError, match=rf"{kind} needs .*pip install {package}"):
        finetune.run(recipe)
    assert not (tmp_path / "run").exists()


def test_adapters_that_need_mace_s_own_layers_say_so(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acceleration, "find_spec", lambda _: True)
    changes = {"train": {"acceleration": "cueq"}, "adapter": {"kind": "lora"}}
    with pytest.raises(RecipeError, match="not lora"):
        finetune.run(recipe_for(workspace, tmp_path / "run", **changes))


@pytest.mark.slow
def test_conversions_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    potential = tiny_mace()
    monkeypatch.setattr(  # OpenEquivariance keeps names and weights, and cannot be installed here
        acceleration, "construct", lambda settings, dtype, **_: construct(settings, dtype)
    )
    converted = accelerate(potential, "oeq")
    assert converted.acceleration == "oeq"
    back = plain(converted)
    assert back.acceleration == "none"
    weights = dict(potential.named_parameters())
    assert all(torch.equal(value, weights[name]) for name, value in back.named_parameters())
    assert plain(back) is back
    monkeypatch.setattr(acceleration, "_transfer", lambda *_: None)
    with pytest.raises(FoundationError, match="acceleration oeq. predicts other energies"):
        accelerate(potential, "oeq")


@pytest.mark.skipif(not HAS_CUEQ, reason="cuequivariance-torch is not installed")
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"hidden_irreps": "4x0e", "correlation": 3},
        {"hidden_irreps": "2x0e + 2x1o + 2x2e", "num_interactions": 3},
    ],
)
def test_cuequivariance_there_and_back(changes: dict[str, object]) -> None:
    potential = tiny_mace(**changes)
    converted = accelerate(potential, "cueq")
    names = {name for name, _ in potential.named_parameters()}
    assert names != {name for name, _ in converted.named_parameters()}
    weights = dict(potential.named_parameters())
    for name, value in plain(converted).named_parameters():
        torch.testing.assert_close(value, weights[name], atol=1e-12, rtol=0)


@pytest.mark.skipif(not HAS_CUEQ, reason="cuequivariance-torch is not installed")
def test_a_run_with_cuequivariance_ends_as_one_without(workspace: Path, tmp_path: Path) -> None:
    found = []
    for kind in ("none", "cueq"):
        train = {"epochs": 2, "acceleration": kind}
        result = finetune.run(recipe_for(workspace, tmp_path / kind, train=train))
        assert result.test is not None
        found.append(result.test.finetuned.forces_mae)
    assert found[1] == pytest.approx(found[0], rel=0.02)
    assert finetune.load_calculator(tmp_path / "cueq").potential.acceleration == "none"
