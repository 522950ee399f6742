"""What ships with the package: recipes, data and the embedded foundation."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from finetune import resources
from finetune.data.reading import read_structures
from finetune.foundation.catalog import embedded
from finetune.foundation.loading import load_foundation
from finetune.preparation import Preparation
from finetune.recipe import Recipe

MOLECULES = ("ethanol", "methanol", "acetic_acid")


@pytest.mark.parametrize("name", resources.recipes())
def test_every_recipe_is_valid_and_opens_with_its_command(name: str) -> None:
    path = resources.recipes()[name]
    recipe = Recipe.load(path)
    assert Recipe.parse(recipe.model_dump(mode="json")) == recipe
    head = path.read_text(encoding="utf-8").splitlines()
    assert head[0].startswith("# ")
    assert re.match(rf"# +piwsl-finetune (run|recipes) {path.stem}", head[2])


@pytest.mark.parametrize("name", ["quickstart.yaml", "ethanol-pbe0.yaml"])
def test_recipes_on_shipped_data_can_be_prepared(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = resources.recipe(name)
    prepared = Preparation(Recipe.load(path), path.parent, overwrite=False)
    assert len(prepared.data.train) >= 50
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("molecule", MOLECULES)
def test_coupled_cluster_sets_are_what_the_readme_says(molecule: str) -> None:
    folder = resources.shipped() / "data" / "ccsdt" / molecule
    sets = {
        name: read_structures(folder / f"{name}.xyz")
        for name in ("train", "valid", "test", "scan", "train_pbe0")
    }
    assert len(sets["train"]) >= 100
    assert len(sets["valid"]) >= 30
    assert len(sets["test"]) >= 60
    assert len(sets["scan"]) >= 12
    assert all(item.energy is not None for items in sets.values() for item in items)
    assert all(item.forces is None for item in sets["train"])
    assert all(item.forces is not None for item in sets["test"])
    assert all(item.forces is not None for item in sets["train_pbe0"])
    assert {s.level_of_theory for s in sets["train"] + sets["test"]} == {
        "CCSD(T)/cc-pVDZ, frozen core"
    }
    train = np.stack([item.positions for item in sets["train"]])
    for item in (*sets["valid"], *sets["test"]):  # no leakage between splits
        assert np.abs(train - item.positions).max(axis=(1, 2)).min() > 1e-3
    for item in sets["test"]:
        if item.forces is not None:
            assert np.abs(item.forces.sum(axis=0)).max() < 1e-3


def test_the_embedded_foundation_is_what_its_card_says() -> None:
    folder = embedded()["tiny-xtb-hcno"]
    assert (folder / "model.safetensors").stat().st_size <= 4 * 2**20
    assert not list(folder.glob("*.pt")) + list(folder.glob("*.model"))
    foundation = load_foundation("tiny-xtb-hcno")
    potential = foundation.potential
    assert potential.elements == (1, 6, 7, 8)
    assert potential.settings.architecture == "ScaleShiftMACE"
    assert potential.settings.num_interactions == 2
    assert 100_000 <= sum(p.numel() for p in potential.parameters()) <= 300_000
    assert json.loads((folder / "metrics.json").read_text())


def test_paths_in_recipes_are_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert resources.find("data/ccsdt/ethanol/train.xyz") is not None
    assert resources.find("recipes/quickstart.yaml") is not None
    assert resources.find("somewhere/else.xyz") is None
    (tmp_path / "data" / "ccsdt" / "ethanol").mkdir(parents=True)
    mine = tmp_path / "data" / "ccsdt" / "ethanol" / "train.xyz"
    mine.write_text("")
    assert resources.find("data/ccsdt/ethanol/train.xyz") == Path("data/ccsdt/ethanol/train.xyz")
