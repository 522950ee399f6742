"""Which weights the kinds of adapters train; `test_suite.py` holds what all must hold."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch

import finetune
from finetune.adapters.adapter import AdaptedPotential
from finetune.core.errors import DataError, RecipeError, RunFolderError
from finetune.data.graphs import GraphBatch, concatenate
from finetune.recipe.plugins import adapters
from finetune.runs import preparation
from tests.conftest import recipe_for
from tests.tiny import tiny_mace

TINY = tiny_mace()


def attached(kind: str, **options: Any) -> AdaptedPotential:
    adapter = adapters.get(kind)
    return adapter(adapter.Options.model_validate(options)).attach(deepcopy(TINY))


def trained(adapted: AdaptedPotential) -> set[str]:
    return {name.removeprefix("model.") for name in adapted.trainable_parameters()}


def test_adapters_of_another_kind_or_damaged_are_refused(tmp_path: Path) -> None:
    attached("readout").save(tmp_path)
    with pytest.raises(RunFolderError, match="another adapter"):
        attached("full").load(tmp_path)
    with pytest.raises(RunFolderError, match="cannot be read"):
        attached("full").load(tmp_path / "nowhere")


def test_frozen_selects_by_pattern_and_by_block() -> None:
    names = {name.removeprefix("model.") for name, _ in TINY.named_parameters()}
    frozen = attached("frozen", freeze=("interactions.*", "node_embedding"))
    assert trained(frozen) == {
        name for name in names if not name.startswith(("interactions.", "node_embedding."))
    }
    chosen = attached("frozen", train=("products.1", "*.linear_up.weight"))
    assert trained(chosen) == {
        name for name in names if name.startswith("products.1.") or "linear_up" in name
    }


def test_patterns_that_match_nothing_name_the_nearest() -> None:
    with pytest.raises(
        RecipeError,
        match=r"'readout.\*' matches no parameter or group.*mean 'readout' or .*Known: embed",
    ):
        attached("frozen", train=("readout.*",))
    with pytest.raises(RecipeError, match="'products.7' matches no parameter.*'products.0'"):
        attached("frozen", freeze=("products.7",))
    with pytest.raises(RecipeError, match="nothing is left to train"):
        attached("frozen", freeze=("*",))
    for both in ({}, {"train": ["readouts"], "freeze": ["products"]}):
        with pytest.raises(finetune.FinetuneError, match="exactly one of `train` and `freeze`"):
            recipe_for(Path(), "out", adapter={"kind": "frozen", **both})


def test_shift_moves_reference_energies_and_nothing_else(mixed_graphs: list[GraphBatch]) -> None:
    adapted, batch = attached("shift"), concatenate(mixed_graphs)
    shift = adapted.trainable_parameters()["shift"]
    assert shift.shape == (4,)
    with torch.no_grad():
        shift.copy_(torch.tensor([0.1, 0.2, 0.3, 0.4]))
    merged = adapted.merge()
    assert merged.references() == pytest.approx({1: -12.9, 6: -1029.8, 7: -1479.7, 8: -2039.6})
    before, after = TINY(batch), merged(batch)
    assert torch.equal(before.forces, after.forces)
    for name, weight in merged.named_parameters():
        assert torch.equal(weight, dict(TINY.named_parameters())[name])
    assert TINY.references()[1] == -13.0


def test_a_shift_learns_the_references_alone(workspace: Path, tmp_path: Path) -> None:
    """From references that are 7 eV off for each atom, towards them."""
    recipe = recipe_for(
        workspace,
        tmp_path / "run",
        adapter="shift",
        reference_energies="keep",
        losses={"energy": {}},
        train={"epochs": 30, "learning_rate": 1.0, "ema": None},
    )
    result = finetune.run(recipe)
    assert result.test is not None and result.test.foundation is not None
    assert result.test.finetuned.energy_per_atom_mae < 0.5
    assert result.test.foundation.energy_per_atom_mae > 5.0
    assert result.test.finetuned.forces_mae == result.test.foundation.forces_mae


def test_each_kind_says_what_it_trains(workspace: Path, tmp_path: Path) -> None:
    prepared = {
        kind["kind"]: finetune.validate(recipe_for(workspace, tmp_path / "run", adapter=kind))
        for kind in (
            {"kind": "full"},
            {"kind": "readout"},
            {"kind": "shift"},
            {"kind": "head", "name": "new"},
            {"kind": "lora", "targets": ["readouts"], "rank": 1},
        )
    }
    said = {kind: preparation.trained(item) for kind, item in prepared.items()}
    summaries = {kind: preparation.summary(item) for kind, item in prepared.items()}
    total = sum(item.numel() for item in TINY.parameters())
    assert said["full"].startswith("trained: node_embedding 16, interactions.0 ")
    assert said["full"].endswith("100 % of all parameters")
    assert said["readout"] == (
        f"trained: readouts.0 4, readouts.1 20; {100 * 24 / total:.3g} % of all parameters"
    )
    number = "% of the foundation's number"
    assert said["shift"] == f"trained: shift 4; added, {100 * 4 / total:.3g} {number}"
    assert said["lora"] == (
        f"trained: readouts.0 5, readouts.1 13; added, {100 * 18 / total:.3g} {number}"
    )
    assert f": 24 of {total:,} parameters are trained on 12 structures" in summaries["readout"]
    stay = f": 18 parameters added to the foundation's {total:,}, which stay, are trained on 12"
    assert stay in summaries["lora"]
    head = f": 24 of {total + 32:,} parameters, 32 of them added, are trained"
    assert head in summaries["head"]


def test_a_shift_needs_energies(workspace: Path, tmp_path: Path) -> None:
    recipe = recipe_for(workspace, tmp_path / "run", adapter="shift", losses={"forces": {}})
    with pytest.raises(DataError, match="'shift' trains nothing without a loss on energy labels"):
        finetune.validate(recipe)
