"""MACE models in files, as MACE itself saves them."""

import copy

import pytest
import torch

from finetune.core.errors import FoundationError
from finetune.potentials.mace import conversion
from finetune.potentials.mace.potential import construct
from tests.tiny import tiny_settings


@pytest.fixture(scope="session")
def plain() -> torch.nn.Module:
    return construct(tiny_settings(), torch.float64).eval()


@pytest.fixture(scope="session")
def saved(plain: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("saved") / "tiny.model"
    torch.save(plain, path)
    return path.read_bytes()


@pytest.fixture
def built_before(plain: torch.nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not build a model anew where a file describes the one built before."""

    def find(settings: object, _: torch.dtype) -> torch.nn.Module:
        if settings != tiny_settings(hidden_irreps="4x0e+4x1o"):
            raise FoundationError("another model")
        return copy.deepcopy(plain)

    monkeypatch.setattr(conversion, "construct", find)
