"""What MACE's own fine-tuning leaves opens as what it is."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.io import read, write

import finetune
from finetune.core.errors import FoundationError
from finetune.export.formats import write_file
from finetune.potentials.mace.potential import construct
from tests.tiny import tiny_settings


def with_trainable_frequencies(factor: float) -> torch.nn.Module:
    model = construct(tiny_settings(), torch.float64)
    basis = model.radial_embedding.bessel_fn
    basis.bessel_weights = torch.nn.Parameter(factor * basis.bessel_weights)
    return model


@pytest.mark.slow
def test_frequencies_may_be_a_parameter(tmp_path: Path) -> None:
    torch.save(with_trainable_frequencies(1.0), tmp_path / "tuned.model")
    torch.save(construct(tiny_settings(), torch.float64), tmp_path / "plain.model")
    tuned = finetune.load_foundation(tmp_path / "tuned.model").potential
    plain = finetune.load_foundation(tmp_path / "plain.model").potential
    assert tuned.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.slow
def test_other_frequencies_are_not_understood(tmp_path: Path) -> None:
    torch.save(with_trainable_frequencies(1.01), tmp_path / "tuned.model")
    with pytest.raises(FoundationError, match="bessel_weights"):
        finetune.load_foundation(tmp_path / "tuned.model")


@pytest.mark.slow
@pytest.mark.parametrize("extra", [[], ["--lora=True"]])
def test_a_model_that_mace_has_tuned_opens(extra: list[str], tmp_path: Path) -> None:
    from mace.calculators import MACECalculator  # imports slowly

    frames = read("data/ccsdt/methanol/train.xyz", ":10")
    write(tmp_path / "train.xyz", frames)
    write_file(finetune.load_foundation("tiny-xtb-hcno").potential, tmp_path / "foundation.model")
    command = [
        *(sys.executable, "-m", "mace.cli.run_train", "--name=tuned", "--device=cpu"),
        *("--foundation_model=foundation.model", "--multiheads_finetuning=False"),
        *("--train_file=train.xyz", "--valid_file=train.xyz", "--E0s=estimated"),
        *("--energy_key=REF_energy", "--forces_key=REF_forces", "--default_dtype=float64"),
        *("--batch_size=5", "--max_num_epochs=2", "--lr=0.001", "--plot=False", *extra),
    ]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    path = tmp_path / "tuned.model"
    theirs = MACECalculator(model_paths=str(path), device="cpu", default_dtype="float64")
    ours = finetune.load_calculator(path)
    atoms = frames[0]
    energies = [calculator.get_potential_energy(atoms) for calculator in (theirs, ours)]
    forces = [calculator.get_forces(atoms) for calculator in (theirs, ours)]
    np.testing.assert_allclose(*energies, rtol=0, atol=1e-9)
    np.testing.assert_allclose(*forces, rtol=0, atol=1e-9)
