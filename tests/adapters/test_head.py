"""A new head learns while the old ones stay exactly as they were."""

from pathlib import Path

import pytest
import torch

import finetune
from finetune.adapters.shift_and_head import HeadAdapter
from finetune.core.errors import FoundationError, HeadError, RecipeError
from finetune.data.graphs import GraphBatch, concatenate
from finetune.export.formats import write_file
from finetune.potentials.description import describe
from finetune.potentials.loading import Foundation, lineage, load_foundation
from finetune.potentials.mace.potential import MacePotential
from finetune.potentials.published import BY_HEAD
from finetune.potentials.storage import load, save
from finetune.recipe.adapter_options import HeadOptions
from finetune.testing import HarmonicPotential
from tests.conftest import recipe_for
from tests.potentials.architectures import CHARGE_AND_SPIN, HEADS
from tests.potentials.plain_mace import predict
from tests.tiny import tiny_mace
from tests.tolerances import ROUNDING_ENERGY, ROUNDING_FORCES

FOUNDATIONS: dict[str, dict[str, object]] = {
    "one head": {},
    "two heads, bias readout": {**HEADS, "readout_cls": "NonLinearBiasReadoutBlock"},
    "MACE, three interactions": {"architecture": "MACE", "num_interactions": 3},
    "embedding readout": {"embedding_specs": CHARGE_AND_SPIN, "use_embedding_readout": True},
}


def load_stored(potential: MacePotential, folder: Path, head: str | None = None) -> MacePotential:
    if not folder.exists():
        save(potential, folder, {})
    return load(folder, head=head)[0]


def trained(potential: MacePotential, batch: GraphBatch, name: str = "new") -> MacePotential:
    """Take steps with weight decay, which moves entries that no gradient reaches."""
    adapted = HeadAdapter(HeadOptions(name=name)).attach(potential)
    optimiser = torch.optim.AdamW(
        adapted.trainable_parameters().values(), lr=0.05, weight_decay=0.1
    )
    adapted.potential.train()
    for _ in range(3):
        optimiser.zero_grad()
        adapted.potential(batch).energy.square().sum().mul(1e-6).backward()
        optimiser.step()
    merged = adapted.merge().eval()
    assert isinstance(merged, MacePotential)
    return merged


@pytest.mark.slow
@pytest.mark.parametrize("name", FOUNDATIONS)
def test_old_heads_stay_as_they_were(
    name: str, mixed_graphs: list[GraphBatch], tmp_path: Path
) -> None:
    head = "cc" if "heads" in FOUNDATIONS[name] else None
    potential = tiny_mace(head=head, **FOUNDATIONS[name])
    batch = concatenate(mixed_graphs)
    before = {
        old: MacePotential(potential.settings, potential.plain_model(torch.float64), old).eval()(
            batch
        )
        for old in potential.settings.heads
    }
    potential.set_references({1: -15.0})  # as a refit to the labels does
    tuned = trained(potential, batch)
    assert tuned.settings.heads == (*potential.settings.heads, "new")
    assert tuned.references() == potential.references()
    twice = trained(load_stored(tuned, tmp_path / "tuned"), batch, "newest")
    for index, (old, expected) in enumerate(before.items()):
        for stored, folder in ((tuned, "tuned"), (twice, "twice")):
            exact = load_stored(stored, tmp_path / folder, old)(batch)
            assert torch.equal(exact.energy, expected.energy)
            assert torch.equal(exact.forces, expected.forces)
        again = MacePotential(tuned.settings, tuned.plain_model(torch.float64), old)
        found = again(batch)
        assert (found.energy - expected.energy).abs().max().item() < ROUNDING_ENERGY
        assert (found.forces - expected.forces).abs().max().item() < ROUNDING_FORCES
        plain = predict(tuned.plain_model(torch.float64), batch, index)
        assert (plain["energy"] - expected.energy).abs().max().item() < ROUNDING_ENERGY
    exact = load_stored(twice, tmp_path / "twice", "new")(batch)
    assert torch.equal(exact.energy, tuned(batch).energy)
    assert (tuned(batch).energy - potential(batch).energy).abs().max().item() > 1e-3
    body = dict(potential.named_parameters())
    for parameter_name, parameter in tuned.named_parameters():
        if "readout" not in parameter_name:
            assert torch.equal(parameter, body[parameter_name]), parameter_name


def test_a_run_adds_a_head(workspace: Path, tmp_path: Path, mixed_graphs: list[GraphBatch]) -> None:
    adapter = {"kind": "head", "name": "cc"}
    result = finetune.run(
        recipe_for(workspace, tmp_path / "run", adapter=adapter, train={"epochs": 1})
    )
    assert result.test is not None
    described = dict(describe(str(tmp_path / "run")))["adapter"]
    assert described.startswith("head: added 'cc', and trained nothing else; trained: readouts.0 ")
    assert "readouts.0 4 (50.0 %)" in described  # of the matrix, the new head's entries alone
    batch = concatenate(mixed_graphs)
    expected = load_foundation(workspace / "foundation").potential(batch)
    old = load_foundation(tmp_path / "run", head="Default").potential
    assert torch.equal(old(batch).energy, expected.energy)
    assert torch.equal(old(batch).forces, expected.forces)
    new = load_foundation(tmp_path / "run").potential
    with pytest.raises(HeadError, match="run' has no head 'ccc'. Did you mean 'cc'.*'head: Def"):
        load_foundation(tmp_path / "run", head="ccc")
    assert new.settings.heads[new.head] == "cc"
    assert new.references()[1] != old.references()[1]
    again = finetune.evaluate(tmp_path / "run", workspace / "test.xyz")
    assert again.finetuned.energy_mae == pytest.approx(result.test.finetuned.energy_mae)
    write_file(new, tmp_path / "both.model")
    for head, potential in (("Default", old), ("cc", new)):
        opened = load_foundation(tmp_path / "both.model", head=head).potential
        difference = opened(batch).energy - potential(batch).energy
        assert difference.abs().max().item() < ROUNDING_ENERGY


@pytest.mark.parametrize(
    ("head", "chosen", "level"),
    [
        ("cc", None, "CCSD(T)"),
        ("Default", None, "GFN2-xTB"),
        ("Default", "Default", "GFN2-xTB"),
        ("pbe", "Default", None),  # of a foundation with several heads
    ],
)
def test_each_head_has_its_own_level_of_theory(
    head: str, chosen: str | None, level: str | None, potential: MacePotential
) -> None:
    before = {"name": "tiny", "fingerprint": "0", "level_of_theory": "GFN2-xTB"}
    metadata = {
        "level_of_theory": ["CCSD(T)"],
        "lineage": [before],
        "foundation": {"name": "tiny", "fingerprint": "0", "head": chosen},
        "recipe": {"adapter": {"kind": "head", "name": "cc"}},
    }
    run = Foundation("run", "run", potential, "1", metadata, head)
    assert [item["level_of_theory"] for item in lineage(run)] == ["GFN2-xTB", level]
    published = Foundation("mh", "mh", potential, "0", {"level_of_theory": BY_HEAD}, head)
    assert [item["level_of_theory"] for item in lineage(published)] == [f"head {head}"]


def test_what_cannot_have_a_head_says_so() -> None:
    with pytest.raises(RecipeError, match="has a head 'Default' already.*head=Default"):
        HeadAdapter(HeadOptions(name="Default")).attach(tiny_mace())
    with pytest.raises(RecipeError, match="HarmonicPotential cannot have more heads"):
        HeadAdapter(HeadOptions(name="new")).attach(HarmonicPotential())


@pytest.mark.slow
def test_two_heads_of_one_file_are_held_side_by_side(workspace: Path, tmp_path: Path) -> None:
    before = tiny_mace()
    tuned = HeadAdapter(HeadOptions(name="cc")).attach(before).merge()
    tuned.set_references({number: 2.0 for number in tuned.elements})
    path = tmp_path / "both.model"
    write_file(tuned, path)
    with pytest.raises(FoundationError, match="several heads: Default, cc.*--against-head D"):
        finetune.evaluate(path, workspace / "test.xyz", head="cc", against=path)
    with pytest.raises(FoundationError, match="Name one with --against"):
        finetune.evaluate(path, workspace / "test.xyz", head="cc", against_head="Default")
    beside = {"against": str(path), "against_head": "Default"}
    found = finetune.evaluate(path, workspace / "test.xyz", head="cc", **beside)
    assert found.names == (f"{path} (cc)", f"{path} (Default)")
    assert found.foundation is not None
    assert found.foundation.energy_mae != found.finetuned.energy_mae
    assert found.foundation.forces_mae == pytest.approx(found.finetuned.forces_mae)
