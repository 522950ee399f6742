"""The calculator evaluates many structures as it evaluates each, and knows where it was trained."""

import json
import warnings
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from safetensors.torch import load_file, save_file

import finetune
from finetune.core.errors import DataError, FoundationError, RecipeError
from finetune.export.calculator import PotentialCalculator
from finetune.potentials.domain import FILE, FarFromTrainingWarning
from finetune.potentials.mace.potential import MacePotential
from tests.conftest import rattled

ROUNDING = 1e-9
"""eV, eV/Å: sums of a batch and of a single structure."""


def test_many_structures_at_once_give_what_each_gives_alone(
    potential: MacePotential, diamond: Atoms
) -> None:
    calculator = PotentialCalculator(potential)
    frames = [rattled("CH3OH", 0), diamond, Atoms("H"), rattled("NH3", 2), diamond.repeat(2)]
    together = calculator.calculate_many(frames, batch_size=3)
    assert len(together) == len(frames)
    for atoms, found in zip(frames, together, strict=True):
        atoms = atoms.copy()
        atoms.calc = calculator
        atoms.get_potential_energy()
        assert found.keys() == calculator.results.keys()
        for name, value in calculator.results.items():
            np.testing.assert_allclose(found[name], value, atol=ROUNDING, rtol=0, err_msg=name)
        assert ("stress" in found) == bool(atoms.pbc.all())
    assert calculator.calculate_many([]) == []


def test_what_a_batch_refuses(potential: MacePotential) -> None:
    calculator, water = PotentialCalculator(potential), molecule("H2O")
    with pytest.raises(FoundationError, match="not Cl"):
        calculator.calculate_many([water, molecule("CH3Cl")])
    with pytest.raises(DataError, match="structure 1 given"):
        calculator.calculate_many([water, Atoms("H2", [[0, 0, 0], [0, 0, 0.05]])])
    with pytest.raises(DataError, match="list of structures"):
        calculator.calculate_many(water)
    wrong: Any
    for wrong in (0, -1, "4", 2.0, True, None):
        with pytest.raises(DataError, match="batch_size is .*integer, at least 1"):
            calculator.calculate_many([water], batch_size=wrong)
    for wrong in ("pool.xyz", 5, None, b"x", Path("pool.xyz")):
        with pytest.raises(DataError, match=r"list of ase\.Atoms.*ase\.io\.read"):
            calculator.calculate_many(wrong)
    with pytest.raises(DataError, match=r"structure 1 is 'a\.xyz', no ase\.Atoms"):
        calculator.calculate_many([water, "a.xyz"])  # type: ignore[list-item]
    together = calculator.calculate_many((water for _ in range(2)), batch_size=np.int64(2))
    assert len(together) == 2


def test_charge_and_spin_that_are_ignored_are_told(potential: MacePotential) -> None:
    calculator, water = PotentialCalculator(potential), molecule("H2O")
    for name, value in (("charge", -1), ("spin", 3)):
        water.info = {name: value}
        told = rf"no input for the {name} \({value}\) of structure 0 given to the calculator"
        with pytest.warns(UserWarning, match=told):
            calculator.calculate_many([water])
    water.info = {"charge": 0, "spin": 1}
    calculator.calculate_many([water, Atoms("H", info={"spin": 2})])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"warn_far": "yes"}, "set it to True or False"),
        ({"warn_far": 1}, "set it to True or False"),
        ({"device": None}, "unknown device 'None'"),
        ({"dtype": ["float32"]}, "unknown precision"),
    ],
)
def test_options_of_another_type_are_refused(
    options: dict[str, Any], message: str, run_folder: Path
) -> None:
    with pytest.raises(RecipeError, match=message):
        finetune.load_calculator(run_folder, **options)


def test_a_bundle_tells_where_it_comes_from_and_holds_no_pickle(run_folder: Path) -> None:
    bundle = run_folder / "model"
    assert {item.suffix for item in bundle.iterdir()} == {".json", ".safetensors"}
    config = json.loads((bundle / "config.json").read_text())
    metadata = config["metadata"]
    assert metadata["adapter"]["kind"] == "full"
    assert set(metadata["adapter"]["sha256"]) == {"adapter.safetensors"}
    assert metadata["foundation"]["fingerprint"] and metadata["recipe"]["train"]["epochs"] == 2
    assert metadata["metrics"]["valid"]["finetuned"]["energy_mae"] > 0
    assert {"torch", "mace-torch", "peft"} <= metadata["versions"].keys()
    assert "Takamoto" in metadata["citation"] and "MACE" in metadata["citation"]
    assert config["fingerprint"] and "level_of_theory" in metadata


def test_structures_far_from_the_training_set_are_told(run_folder: Path, workspace: Path) -> None:
    calculator = finetune.load_calculator(run_folder, warn_far=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for split in ("train", "valid"):
            for found in calculator.calculate_many(ase.io.read(workspace / f"{split}.xyz", ":")):
                assert 0 <= found["training_distances"].max() <= 1.0 + 1e-6
    stretched = rattled("CH3OH", 0)
    stretched.positions[0] += [0.0, 0.0, 0.9]
    stretched.calc = calculator
    with pytest.warns(FarFromTrainingWarning, match="times as far"):
        stretched.get_potential_energy()
    assert calculator.results["training_distances"].argmax() in (0, 1, 3, 4, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # told once, until a structure is within again
        stretched.rattle(1e-3)
        stretched.get_potential_energy()
    calculator.calculate_many(ase.io.read(workspace / "valid.xyz", ":1"))
    with pytest.warns(FarFromTrainingWarning, match="elements that no training structure has"):
        calculator.calculate_many([molecule("NH3")])


def test_a_summary_that_is_not_there_or_is_another_s_is_refused(
    run_folder: Path, workspace: Path, tmp_path: Path
) -> None:
    with pytest.raises(FoundationError, match="no summary of a training set"):
        finetune.load_calculator(workspace / "foundation", warn_far=True)
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    for item in (run_folder / "model").iterdir():
        (bundle / item.name).write_bytes(item.read_bytes())
    (bundle / FILE).write_bytes(b"damaged")
    with pytest.raises(FoundationError, match="cannot be read"):
        finetune.load_calculator(bundle, warn_far=True)
    tensors = load_file(run_folder / "model" / FILE)
    facts = {"format": "piwsl-finetune/training-set/1", "limit": "1.0", "fingerprint": "other"}
    save_file(tensors, bundle / FILE, facts)
    with pytest.raises(FoundationError, match="belongs to another potential"):
        finetune.load_calculator(bundle, warn_far=True)
    assert finetune.load_calculator(bundle).trained_on is None
