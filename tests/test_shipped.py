"""What ships with the package: recipes, data and the embedded foundation."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from finetune.core import resources
from finetune.core.resources import embedded
from finetune.data.reading import read_structures
from finetune.potentials.loading import load_foundation
from finetune.recipe.recipe import Recipe
from finetune.runs.preparation import Preparation

MOLECULES = ("ethanol", "methanol", "acetic_acid")


@pytest.mark.parametrize("name", resources.recipes())
def test_every_recipe_is_valid_and_opens_with_its_command(name: str) -> None:
    path = resources.recipes()[name]
    recipe = Recipe.load(path)
    assert Recipe.parse(recipe.model_dump(mode="json")) == recipe
    head = path.read_text(encoding="utf-8").splitlines()
    assert head[0].startswith("# ")
    assert re.match(rf"# +piwsl-finetune (run|recipes) {path.stem}", head[2])


@pytest.mark.parametrize(
    "name", ["quickstart.yaml", "ethanol-weak-losses.yaml", "ethanol-pbe0.yaml"]
)
def test_recipes_on_shipped_data_can_be_prepared(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = resources.recipe(name)
    prepared = Preparation(Recipe.load(path), path.parent, overwrite=False)
    assert len(prepared.data.train) >= 50
    assert list(tmp_path.iterdir()) == []


CC, PBE0 = "CCSD(T)/cc-pVDZ, frozen core", "PBE0/def2-SVP, density fitting"
SETS = ("train", "valid", "test", "scan", "train_pbe0")


def text_of(*parts: str) -> str:
    return (resources.shipped() / "data").joinpath(*parts).read_text(encoding="utf-8")


def rows_of(text: str, header: str) -> dict[str, list[str]]:
    """Return the cells of the Markdown table whose header starts so, by the first of each row."""
    _, _, table = text.partition(f"\n| {header}")
    lines = table.partition("\n\n")[0].splitlines()[2:]
    assert lines, f"no table {header}"
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {first: rest for first, *rest in cells}


def number(cell: str) -> float:
    return float(cell.replace(",", ""))


@pytest.mark.parametrize("molecule", MOLECULES)
def test_coupled_cluster_sets_are_what_the_readme_says(molecule: str) -> None:
    readme, named = text_of("ccsdt", "README.md"), molecule.replace("_", " ")
    rows = rows_of(readme, "molecule |")
    (first,) = (name for name in rows if name.partition(" (")[0] == named)
    folder = resources.shipped() / "data" / "ccsdt" / molecule
    sets = {name: read_structures(folder / f"{name}.xyz") for name in SETS}
    for (name, items), cell in zip(sets.items(), rows[first], strict=True):
        energies = sum(item.energy is not None for item in items)
        forces = sum(item.forces is not None for item in items)
        assert f"{energies} / {forces}" == cell, name
        assert energies == len(items)
        assert {len(item) for item in items} == {int(re.findall(r"\d+", first)[0])}
        assert {item.level_of_theory for item in items} == {PBE0 if name == "train_pbe0" else CC}
    for level in (CC, PBE0):
        assert level.partition(",")[0] in readme
    for name in ("train", "valid", "test"):
        warmth = [str(item.tags["config_type"]) for item in sets[name]]
        assert set(warmth[::2]) != set(warmth[1::2])
        assert {*warmth[::2], *warmth[1::2]} == {"md_300K", "md_600K"}
        assert len(set(warmth[::2])) == len(set(warmth[1::2])) == 1
    net = max(
        np.abs(item.forces.sum(axis=0)).max()
        for item in (*sets["test"], *sets["train_pbe0"])
        if item.forces is not None
    )
    (told,) = re.findall(r"Largest net force component on a molecule: (\S+) eV", readme)
    assert net <= 1.5 * float(told)
    (told,) = re.findall(rf"(\d+) meV \({named}\)", readme)
    energy = {item.positions.round(4).tobytes(): item.energy for item in sets["train"]}
    differences = [
        (item.energy or 0.0) - (energy[item.positions.round(4).tobytes()] or 0.0)
        for item in sets["train_pbe0"]
    ]
    assert 1000 * np.std(differences) == pytest.approx(float(told), abs=0.6)


@pytest.mark.parametrize("molecule", MOLECULES)
def test_no_geometry_of_a_set_is_in_another(molecule: str) -> None:
    folder = resources.shipped() / "data" / "ccsdt" / molecule
    found = {}
    for name in ("train", "valid", "test"):
        positions = np.stack([item.positions for item in read_structures(folder / f"{name}.xyz")])
        found[name] = np.linalg.norm(positions[:, :, None] - positions[:, None], axis=-1)
    (told,) = re.findall(r"differs by at least\s+(\S+) Å", text_of("ccsdt", "README.md"))
    for one, other in (("train", "valid"), ("train", "test"), ("valid", "test")):
        apart = np.abs(found[one][:, None] - found[other][None]).max(axis=(2, 3))
        assert apart.min() >= float(told), (one, other)


@pytest.mark.parametrize(
    ("molecule", "low", "high"),
    [("methanol", "1.20", "1.90"), ("ethanol", "0", "180"), ("acetic_acid", "0", "180")],
)
def test_scans_reach_as_far_as_the_readme_says(molecule: str, low: str, high: str) -> None:
    assert f"{low}-{high}" in text_of("ccsdt", "README.md")
    path = resources.shipped() / "data" / "ccsdt" / molecule / "scan.xyz"
    values = [float(item.tags["scan_value"]) for item in read_structures(path)]
    assert [min(values), max(values)] == pytest.approx([float(low), float(high)], abs=1e-3)


def test_the_embedded_foundation_is_what_its_card_says() -> None:
    folder, card = embedded()["tiny-xtb-hcno"], text_of("foundation", "README.md")
    size = (folder / "model.safetensors").stat().st_size
    assert size <= 4 * 2**20
    assert f"(float32, {size / 1e6:.2f} MB)" in card
    assert not list(folder.glob("*.pt")) + list(folder.glob("*.model"))
    potential = load_foundation("tiny-xtb-hcno").potential
    assert potential.elements == (1, 6, 7, 8)
    assert "| elements | H, C, N, O |" in card
    settings = potential.settings
    assert settings.architecture == "ScaleShiftMACE"
    assert settings.num_interactions == 2
    parameters = sum(p.numel() for p in potential.parameters())
    assert f"`ScaleShiftMACE`, {parameters:,} parameters, two interactions" in card
    assert f"cutoff {potential.cutoff:g} Å" in card
    assert json.loads((folder / "metrics.json").read_text())["parameters"] == parameters


CONFIGURATIONS = {
    "dynamics, 300-800 K": "300-800 K",
    "of these 300 K": "300 K",
    "of these 500 K": "500 K",
    "of these 800 K": "800 K",
    "dynamics, 1000 K": "1000 K",
    "dynamics, 1500 K": "1500 K",
    "random displacements of 0.02-0.15 Å": "displaced",
    "bonds compressed or stretched": "stretched",
    "dimers": "dimer",
    "all": "all",
}


def test_the_figures_of_the_card_are_those_of_the_metrics() -> None:
    card = text_of("foundation", "README.md")
    metrics = json.loads((embedded()["tiny-xtb-hcno"] / "metrics.json").read_text())
    test, data = metrics["errors"]["test"], metrics["data"]
    rows = rows_of(card, "configurations | number")
    assert {CONFIGURATIONS[name] for name in rows} == set(test)
    for name, (count, *figures) in rows.items():
        found = test[CONFIGURATIONS[name]]
        assert number(count) == found["configurations"], name
        force = [found[f"force_{key}_mev_per_angstrom"] for key in ("mae", "rmse")]
        energy = [found[f"{key}energy_mae_mev_per_atom"] for key in ("", "relative_")]
        told = [*(f"{value:.1f}" for value in force), *(f"{value:.2f}" for value in energy)]
        assert figures == told, name
    thermal = test["300-800 K"]
    targets = [row[0] for row in rows_of(card, "target | found").values()]
    held = sum(item["stable"] for item in metrics["nve"] if item["start_temperature_k"] == 300)
    assert targets == [
        f"{thermal['force_mae_mev_per_angstrom']:.1f} meV/Å",
        f"{thermal['energy_mae_mev_per_atom']:.2f} meV/atom",
        f"{held} of 4 stable",
    ]
    counts = {number(row[0]) for row in rows_of(card, "kind | configurations").values()}
    assert counts == set(data["by_kind"].values())
    assert f"{data['configurations']:,} configurations of {data['molecules']:,} molecules" in card
    for split in data["by_split"].values():
        assert re.search(rf"{split['molecules']}( molecules)? \({split['configurations']:,}", card)
    dynamics = [
        f"{item['mean_temperature_k']:.0f} | {item['drift_mev_per_atom_per_ps']:+.4f} | "
        f"{item['energy_fluctuation_mev_per_atom']:.3f} | "
        f"{item['max_heavy_bond_change_angstrom']:.2f} | "
        f"{item['max_hydrogen_bond_change_angstrom']:.2f} | {'yes' if item['stable'] else 'no'} |"
        for item in metrics["nve"]
    ]
    assert len(dynamics) == 8
    for line in dynamics:
        assert line in card
    for item in metrics["repulsion"]["contacts"]:
        keys = ("xtb_median_ev", "potential_median_ev", "potential_lowest_ev", "mae_ev")
        told = " | ".join(f"{item[key]:.3f}" for key in keys)
        assert f"| {item['contact']:.1f} | {told} |" in card
    versions = card.partition("Versions: ")[2]
    for name, version in metrics["libraries"].items():
        assert version in versions, name


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
