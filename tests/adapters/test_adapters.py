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
from tests.tolerances import ROUNDING_ENERGY

KINDS: dict[str, dict[str, Any]] = {
    "full": {},
    "readout": {},
    "lora": {"rank": 2},
    "head": {"name": "cc"},
    "frozen": {"train": ["readouts.*", "products.1.*"]},
}


def attached(kind: str, **options: Any) -> tuple[MacePotential, AdaptedPotential]:
    potential = tiny_mace()
    adapter = adapters.get(kind)
    options = options or KINDS[kind]
    adapted = adapter(adapter.Options.model_validate(options)).attach(potential)
    return adapted.potential, adapted


def test_every_built_in_adapter_is_tested() -> None:
    assert set(KINDS) <= set(adapters.names())


@pytest.mark.parametrize("kind", KINDS)
def test_it_starts_as_the_foundation(kind: str, mixed_graphs: list[GraphBatch]) -> None:
    _, adapted = attached(kind)
    batch = concatenate(mixed_graphs)
    rounding = ROUNDING_ENERGY if kind == "head" else 0.0  # e3nn's factors depend on the width
    difference = adapted.potential(batch).energy - tiny_mace()(batch).energy
    assert difference.abs().max().item() <= rounding


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


def test_lora_is_equivariant_and_merges_into_a_plain_model(tmp_path: Path) -> None:
    from finetune.data.graphs import graph
    from tests.conftest import rattled, structure

    potential, adapted = attached("lora")
    with torch.no_grad():
        for parameter in adapted.trainable_parameters().values():
            parameter.normal_(generator=torch.Generator().manual_seed(1))
    atoms = rattled("CH3CH2OH", 1)
    turned = atoms.copy()
    turned.rotate(73.0, (1.0, 2.0, -0.5))
    here, there = (potential(graph(structure(item), 4.0)) for item in (atoms, turned))
    assert abs(here.energy - there.energy).item() < 1e-9
    assert not torch.equal(here.energy, tiny_mace()(graph(structure(atoms), 4.0)).energy)
    merged = adapted.merge()
    plain = tiny_mace()
    assert [name for name, _ in merged.named_parameters()] == [
        name for name, _ in plain.named_parameters()
    ]
    after = merged(graph(structure(atoms), 4.0))
    assert abs(after.energy - here.energy).item() < 1e-9
    assert torch.allclose(after.forces, here.forces, atol=1e-10, rtol=0)
    assert isinstance(merged, MacePotential)
    exported = MacePotential(merged.settings, merged.plain_model(torch.float64))
    assert abs(exported(graph(structure(atoms), 4.0)).energy - here.energy).item() < 1e-9


def test_lora_folders_are_read_by_peft_itself(tmp_path: Path) -> None:
    from e3nn import o3
    from peft import LoraConfig, PeftModel

    from finetune.adapters.equivariant_linear import EquivariantLinearLora
    from finetune.data.graphs import graph
    from tests.conftest import rattled, structure

    potential, adapted = attached("lora")
    with torch.no_grad():
        for parameter in adapted.trainable_parameters().values():
            parameter.add_(0.1)
    adapted.save(tmp_path)
    config = LoraConfig.from_pretrained(tmp_path)
    config._register_custom_module({o3.Linear: EquivariantLinearLora})
    again = tiny_mace()
    PeftModel.from_pretrained(again.model, tmp_path, config=config)
    item = graph(structure(rattled("CH3CH2OH", 1)), 4.0)
    assert torch.equal(again(item).forces, potential(item).forces)


def test_lora_differentiates_twice_and_clamps_its_rank(mixed_graphs: list[GraphBatch]) -> None:
    potential, adapted = attached("lora", rank=64)
    potential.train()
    potential(concatenate(mixed_graphs)).forces.square().sum().backward()
    trainable = adapted.trainable_parameters()
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in trainable.values())
    for name, parameter in trainable.items():
        if "lora_A" in name:
            rows, rank = parameter.shape
            columns = trainable[name.replace("lora_A", "lora_B")].shape[1]
            assert rank == 1 or rank * (rows + columns) <= rows * columns


def test_lora_targets_that_match_nothing_name_the_nearest() -> None:
    with pytest.raises(
        RecipeError, match=r"'readouts.0.linea' .* Did you mean 'readouts.0.linear'"
    ):
        attached("lora", targets=("readouts.0.linea",))
