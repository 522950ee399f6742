"""LoRA: what is adapted, how peft reads it, what is refused."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

import finetune
from finetune.adapters.adapter import AdaptedPotential
from finetune.adapters.lora import LoraAdapter
from finetune.adapters.lora_layers import EquivariantLora
from finetune.core.errors import RecipeError
from finetune.data.graphs import GraphBatch, concatenate
from finetune.potentials.mace.potential import MacePotential
from finetune.recipe.adapter_options import REFUSED, LoraOptions
from finetune.testing import HarmonicPotential
from tests.potentials.architectures import CHARGE_AND_SPIN
from tests.tiny import tiny_mace

TINY = tiny_mace()


def attached(potential: MacePotential | None = None, **options: Any) -> AdaptedPotential:
    adapter = LoraAdapter(LoraOptions.model_validate({"rank": 2, "alpha": 2.0, **options}))
    return adapter.attach(deepcopy(TINY) if potential is None else potential)


def changed(adapted: AdaptedPotential) -> AdaptedPotential:
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for item in adapted.trainable_parameters().values():
            item.add_(0.1 * torch.randn(item.shape, generator=random, dtype=torch.float64))
    return adapted


def layers(adapted: AdaptedPotential) -> set[str]:
    """Return the layers that have factors, by the names of a plain model."""
    names = (name.removeprefix("model.") for name in adapted.trainable_parameters())
    return {name.partition(".lora_")[0].replace(".base_layer", "") for name in names}


def test_every_kind_of_layer_is_adapted_unless_targets_say_less() -> None:
    everything = layers(attached())
    assert {
        "node_embedding.linear",
        "interactions.0.linear_up",
        "interactions.1.conv_tp_weights.layer0",
        "interactions.1.skip_tp",
        "products.0.symmetric_contractions.contractions.1",
        "products.1.linear",
        "readouts.0.linear",
        "readouts.1.linear_2",
    } <= everything
    weights = {name.removeprefix("model.") for name, _ in TINY.named_parameters()}
    kept = {name for name in weights if not any(name.startswith(f"{x}.") for x in everything)}
    assert kept == set()
    assert layers(attached(targets=("products", "readouts.1.*"))) == {
        name for name in everything if name.startswith(("products.", "readouts.1."))
    }
    radial = layers(attached(targets=("*.conv_tp_weights",)))
    assert radial == {name for name in everything if "conv_tp_weights" in name}


def test_dense_layers_are_adapted_by_peft_itself(mixed_graphs: list[GraphBatch]) -> None:
    potential = tiny_mace(embedding_specs=CHARGE_AND_SPIN)
    dense = {n for n, m in potential.model.named_modules() if isinstance(m, torch.nn.Linear)}
    assert dense
    batch = concatenate(mixed_graphs)
    before = potential(batch).energy
    adapted = attached(potential)
    assert dense <= layers(adapted)
    assert torch.equal(adapted.potential(batch).energy, before)
    expected = changed(adapted).potential(batch)
    assert not torch.equal(expected.energy, before)
    found = adapted.merge()(batch)
    assert torch.allclose(found.forces, expected.forces, atol=1e-10, rtol=0)


def test_merging_is_exact_to_rounding_and_plain(mixed_graphs: list[GraphBatch]) -> None:
    """A few units in the last place of energies of 10^4 eV: sums in another order."""
    adapted, batch = changed(attached()), concatenate(mixed_graphs)
    expected = adapted.potential(batch)
    merged = adapted.merge()
    found = merged(batch)
    assert (found.energy - expected.energy).abs().max() <= 4 * torch.finfo(torch.float64).eps * 1e4
    assert (found.forces - expected.forces).abs().max() < 1e-12
    assert isinstance(merged, MacePotential)
    names = [name for name, _ in TINY.named_parameters()]
    assert [name for name, _ in merged.named_parameters()] == names
    plain = MacePotential(merged.settings, merged.plain_model(torch.float64))
    assert (plain(batch).forces - found.forces).abs().max() < 1e-12


def test_a_safe_merge_adds_nothing_that_is_not_finite() -> None:
    adapted = changed(attached())
    modules = adapted.potential.model.modules()
    equivariant = [item for item in modules if isinstance(item, EquivariantLora)]
    assert equivariant
    for layer in equivariant:
        before = {name: item.clone() for name, item in layer.weights().items()}
        with torch.no_grad():
            next(layer.lora_B.parameters()).fill_(torch.nan)
        with pytest.raises(ValueError, match="not finite"):
            layer.merge(safe_merge=True)
        assert all(torch.equal(item, before[name]) for name, item in layer.weights().items())


def test_folders_are_read_by_peft_itself(tmp_path: Path, mixed_graphs: list[GraphBatch]) -> None:
    from peft import LoraConfig, PeftModel

    from finetune.adapters.lora_layers import register_equivariant_layers

    adapted = changed(attached(rank=8))
    adapted.save(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"adapter_config.json", "adapter_model.safetensors"}
    config = register_equivariant_layers(LoraConfig.from_pretrained(tmp_path))
    again = deepcopy(TINY)
    model = PeftModel.from_pretrained(again.model, tmp_path, config=config)
    batch = concatenate(mixed_graphs)
    assert torch.equal(again(batch).forces, adapted.potential(batch).forces)
    with model.disable_adapter():
        assert torch.equal(again(batch).forces, TINY(batch).forces)


def contraction_weights(potential: MacePotential) -> dict[str, torch.nn.Parameter]:
    """Return the weights of symmetric contractions that are not kept at zero, by name."""
    found = dict(potential.model.named_parameters())
    return {n: p for n, p in found.items() if "symmetric_contractions" in n and bool(p.any())}


@pytest.mark.parametrize(
    "correlation", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 3))]
)
def test_all_orders_of_contractions_are_adapted_on_request(
    correlation: int, tmp_path: Path, mixed_graphs: list[GraphBatch]
) -> None:
    from peft import LoraConfig, PeftModel

    from finetune.adapters.lora_layers import register_equivariant_layers

    potential, batch = tiny_mace(correlation=correlation), concatenate(mixed_graphs)
    before, start = contraction_weights(potential), potential(batch)
    assert {name.partition(".weights")[2] for name in before} == {
        *("_max", ".0", ".1")[:correlation]
    }
    adapted = attached(deepcopy(potential), contractions="all", targets=("products",))
    assert torch.equal(adapted.potential(batch).forces, start.forces)
    learnt = changed(adapted).potential(batch)
    assert not torch.allclose(learnt.forces, start.forces, atol=1e-6)

    merged = adapted.merge()
    assert isinstance(merged, MacePotential)
    after = contraction_weights(merged)
    assert [name for name in before if torch.equal(before[name], after[name])] == []
    assert torch.allclose(merged(batch).forces, learnt.forces, atol=1e-11, rtol=0)

    adapted.save(tmp_path)
    config = register_equivariant_layers(LoraConfig.from_pretrained(tmp_path))
    again = deepcopy(potential)
    model = PeftModel.from_pretrained(again.model, tmp_path, config=config)
    assert torch.equal(again(batch).forces, learnt.forces)
    with model.disable_adapter():
        assert torch.equal(again(batch).forces, start.forces)
    model.merge_adapter()
    assert torch.allclose(again(batch).forces, learnt.forces, atol=1e-11, rtol=0)
    model.unmerge_adapter()
    assert torch.allclose(again(batch).forces, learnt.forces, atol=1e-11, rtol=0)


def test_lower_orders_stay_unless_they_are_asked_for() -> None:
    potential = tiny_mace(correlation=3)
    adapted = changed(attached(deepcopy(potential)))
    before, after = (contraction_weights(item) for item in (potential, adapted.merge()))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in before if name.endswith("weights_max")}


def test_a_hessian_goes_through_contractions_of_all_orders(mixed_graphs: list[GraphBatch]) -> None:
    """Losses on forces differentiate twice, to the factors of every order."""
    adapted = changed(attached(tiny_mace(correlation=3), contractions="all"))
    adapted.potential.train()
    batch = concatenate(mixed_graphs)

    def loss() -> torch.Tensor:
        forces = adapted.potential(batch, create_graph=True).forces
        assert forces is not None
        return forces.square().mean()

    trained = {n: p for n, p in adapted.trainable_parameters().items() if "contractions" in n}
    found = torch.autograd.grad(loss(), list(trained.values()))
    orders = {name.rpartition(".")[2] for name in trained}
    assert orders == {"weights_max", "weights_0", "weights_1"}
    random = torch.Generator().manual_seed(2)
    for (name, item), gradient in zip(trained.items(), found, strict=True):
        direction = torch.randn(item.shape, generator=random, dtype=torch.float64)
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                item.add_(sign * 1e-5 * direction)
            values.append(float(loss().detach()))
            with torch.no_grad():
                item.sub_(sign * 1e-5 * direction)
        slope = (values[0] - values[1]) / 2e-5
        assert slope == pytest.approx(float((gradient * direction).sum()), rel=1e-4, abs=1e-7), name


def test_the_rank_is_lowered_where_factors_would_outgrow_a_matrix() -> None:
    adapted = attached(rank=64, alpha=64.0)
    trained = adapted.trainable_parameters()
    paths = {name: item for name, item in trained.items() if "lora_A" in name and "path_" in name}
    assert paths
    for name, first in paths.items():
        second = trained[name.replace("lora_A", "lora_B")]
        (rows, rank), columns = first.shape[-2:], second.shape[-1]
        assert rank == 1 or rank * (rows + columns) <= rows * columns, name
    radial = next(p for n, p in trained.items() if "layer1.lora_A" in n)
    assert radial.shape == (4, 8)  # an 8 by 8 matrix
    (note,) = adapted.notes
    assert "rank of 64 is lowered in" in note and "node_embedding.linear 2" in note
    assert attached(rank=1).notes == ()


def test_alpha_scales_lowered_ranks_alike() -> None:
    """alpha / rank is the same for every layer, whatever its rank."""
    adapted = attached(rank=64, alpha=32.0)
    scales = {
        scale
        for module in adapted.potential.modules()
        for scale in getattr(module, "scaling", {}).values()
    }
    assert scales == {0.5}


def test_targets_that_match_nothing_name_the_nearest() -> None:
    with pytest.raises(RecipeError, match="'readouts.0.linea' .* Did you mean 'readouts.0.linear'"):
        attached(targets=("readouts.0.linea",))
    with pytest.raises(RecipeError, match=r"'product' matches no layer .* 'products\.[01]' or"):
        attached(targets=("product",))
    with pytest.raises(RecipeError, match="a HarmonicPotential has none"):
        LoraAdapter(LoraOptions()).attach(HarmonicPotential())


@pytest.mark.parametrize("option", [*REFUSED, "dropout"])
def test_what_breaks_equivariance_is_refused_with_its_reason(option: str) -> None:
    reason = REFUSED.get(option, REFUSED["lora_dropout"])
    with pytest.raises(ValidationError, match=option) as told:
        LoraOptions.model_validate({option: 0.1})
    assert reason in str(told.value)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("lora_dropout", 0.1),
        ("use_dora", True),
        ("lora_bias", True),
        ("bias", "all"),
        ("init_lora_weights", False),
        ("init_lora_weights", "pissa"),
    ],
)
def test_peft_s_own_door_refuses_them_too(option: str, value: object) -> None:
    from peft import LoraConfig, get_peft_model

    from finetune.adapters.lora_layers import register_equivariant_layers

    config = LoraConfig(target_modules=["readouts.0.linear"], **{option: value})
    with pytest.raises(RecipeError, match=f"{option}={value}"):
        get_peft_model(deepcopy(TINY).model, register_equivariant_layers(config))


def test_peft_s_names_are_translated() -> None:
    with pytest.raises(finetune.FinetuneError, match="write `rank` for peft's `r`"):
        finetune.Recipe.parse(
            {
                "foundation": "x",
                "data": {"train": "x"},
                "output": "x",
                "adapter": {"kind": "lora", "r": 4},
            }
        )
