"""Promises of every registered adapter."""

from pathlib import Path
from typing import Any

import pytest
import torch

from finetune.adapters import adapters
from finetune.adapters.base import AdaptedPotential
from finetune.data.graphs import GraphBatch, concatenate
from finetune.errors import RecipeError, RunFolderError
from finetune.foundation.mace import MacePotential
from finetune.testing import tiny_mace

KINDS: dict[str, dict[str, Any]] = {
    "full": {},
    "readout": {},
    "frozen": {"train": ["readouts.*", "products.1.*"]},
}


def attached(kind: str, **options: Any) -> tuple[MacePotential, AdaptedPotential]:
    potential = tiny_mace()
    adapter = adapters.get(kind)
    options = options or KINDS[kind]
    return potential, adapter(adapter.Options.model_validate(options)).attach(potential)


def test_every_built_in_adapter_is_tested() -> None:
    assert set(KINDS) <= set(adapters.names())


@pytest.mark.parametrize("kind", KINDS)
def test_it_starts_as_the_foundation(kind: str, mixed_graphs: list[GraphBatch]) -> None:
    _, adapted = attached(kind)
    batch = concatenate(mixed_graphs)
    assert torch.equal(adapted.potential(batch).energy, tiny_mace()(batch).energy)


@pytest.mark.parametrize("kind", KINDS)
def test_only_trainable_parameters_change(kind: str, mixed_graphs: list[GraphBatch]) -> None:
    potential, adapted = attached(kind)
    before = {name: value.clone() for name, value in potential.named_parameters()}
    trainable = adapted.trainable_parameters()
    potential.train()
    optimiser = torch.optim.AdamW(trainable.values(), lr=0.01)
    potential(concatenate(mixed_graphs)).forces.square().sum().backward()
    optimiser.step()
    for name, value in potential.named_parameters():
        if name not in trainable:
            assert torch.equal(value, before[name]), name
    assert any(not torch.equal(value, before[name]) for name, value in trainable.items())


@pytest.mark.parametrize("kind", KINDS)
def test_save_and_load_are_exact(kind: str, tmp_path: Path, mixed_graphs: list[GraphBatch]) -> None:
    potential, adapted = attached(kind)
    with torch.no_grad():
        for parameter in adapted.trainable_parameters().values():
            parameter.add_(0.01)
    adapted.save(tmp_path)
    again, fresh = attached(kind)
    fresh.load(tmp_path)
    batch = concatenate(mixed_graphs)
    assert torch.equal(again(batch).forces, potential(batch).forces)
    assert torch.equal(fresh.merge()(batch).energy, potential(batch).energy)


def test_adapters_of_another_kind_or_damaged_are_refused(tmp_path: Path) -> None:
    attached("readout")[1].save(tmp_path)
    with pytest.raises(RunFolderError, match="another adapter"):
        attached("full")[1].load(tmp_path)
    with pytest.raises(RunFolderError, match="cannot be read"):
        attached("full")[1].load(tmp_path / "nowhere")


def test_frozen_selects_by_pattern() -> None:
    names = {name.removeprefix("model.") for name, _ in tiny_mace().named_parameters()}
    frozen = attached("frozen", freeze=("interactions.*", "node_embedding.*"))[1]
    chosen = {name.removeprefix("model.") for name in frozen.trainable_parameters()}
    assert chosen == {n for n in names if not n.startswith(("interactions.", "node_embedding."))}


def test_patterns_that_match_nothing_name_the_nearest() -> None:
    with pytest.raises(RecipeError, match=r"'readout.\*' matches no parameter"):
        attached("frozen", train=("readout.*",))
    with pytest.raises(RecipeError, match="nothing is left to train"):
        attached("frozen", freeze=("*",))
