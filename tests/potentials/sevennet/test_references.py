"""Predictions equal those of sevenn's own calculator."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from finetune.potentials.sevennet.conversion import read_checkpoint, read_settings
from finetune.potentials.sevennet.network import unfilled
from finetune.potentials.sevennet.potential import SevenNetPotential
from finetune.potentials.sevennet.settings import weight_shapes
from finetune.potentials.sevennet.writing import checkpoint
from tests.potentials.sevennet.conftest import (
    FAMILY,
    REFERENCES,
    batch_of,
    content_of,
    read,
    reopened,
    saved,
    stress_in_voigt,
)

ENERGY, FORCES, STRESS = 2e-6, 1e-5, 1e-6
"""eV/atom, eV/Å and eV/Å³: what rounds in single precision, in which sevenn computes."""


def assert_predicts(
    potential: SevenNetPotential, predictions: dict[str, Any], looser: float = 1.0
) -> None:
    for name, expected in predictions.items():
        batch = batch_of(name, potential)
        found = potential(batch, stress=True, create_graph=False)
        energy = found.energy.item() / len(batch.numbers)
        assert energy == pytest.approx(expected["energy_per_atom"], abs=ENERGY * looser), name
        forces = found.forces.double().numpy()
        assert np.abs(forces - np.array(expected["forces"])).max() < FORCES * looser, name
        if "stress" in expected:
            stress = stress_in_voigt(found.stress[0])
            assert np.abs(stress - np.array(expected["stress"])).max() < STRESS * looser, name


def of_network(name: str) -> bytes:
    """Return a checkpoint of a network of the references, its weights drawn as for those."""
    config = dict(REFERENCES["networks"][name]["config"])
    config["_type_map"] = {int(number): place for number, place in config["_type_map"].items()}
    layers = config["num_convolution_layer"]
    denominators = np.broadcast_to(config["conv_denominator"], (layers,))
    state = {
        f"{index}_convolution.denominator": torch.tensor([value])
        for index, value in enumerate(denominators.tolist())
    }
    for key in ("shift", "scale"):
        state[f"rescale_atomic_energy.{key}"] = torch.tensor(config[key])
    # Settings do not need the weights; a network of them says which there are, and its tables.
    network = unfilled(read_settings(config, state, (0, 13)), torch.float32)
    random = np.random.default_rng(1)
    drawn = {
        key: torch.from_numpy(random.normal(size=shape))
        for key, shape in sorted(weight_shapes(network.settings).items())
    }
    coefficients = "edge_embedding.basis_function.coeffs"
    if coefficients in drawn:
        numbers = torch.arange(1, len(drawn[coefficients]) + 1) * (np.pi / config["cutoff"])
        drawn[coefficients] = numbers * (1 + 0.05 * drawn[coefficients])
    weights = {key: value.float() for key, value in drawn.items()}
    tables = {key: item.clone() for key, item in network.state_dict().items()}
    return saved({"config": config, "model_state_dict": {**tables, **weights, **state}})


@pytest.mark.slow
@pytest.mark.parametrize("name", REFERENCES["networks"])
def test_networks_of_all_kinds_of_layers(name: str) -> None:
    raw = of_network(name)
    for channel, predictions in REFERENCES["networks"][name]["predictions"].items():
        assert_predicts(reopened(raw, torch.float64, channel or None), predictions)
        assert_predicts(reopened(raw, torch.float32, channel or None), predictions, looser=2.0)


@pytest.mark.slow
@pytest.mark.parametrize("name", REFERENCES["published"])
def test_published_checkpoints(name: str, checkpoints: Path) -> None:
    expected = REFERENCES["published"][name]
    raw = (checkpoints / expected["member"]).read_bytes()
    assert hashlib.sha256(raw).hexdigest() == expected["sha256"]
    head = expected["channel"]
    assert_predicts(reopened(raw, torch.float64, head), expected["predictions"])
    potential = reopened(raw, torch.float32, head)
    assert_predicts(potential, expected["predictions"], looser=2.0)
    assert len(potential.elements) == 89
    written = checkpoint(potential, torch.float32, {})
    assert read(written)[0] == potential.settings
    for key, tensor in read(written)[1].items():
        assert torch.equal(tensor, read(raw)[1][key]), key


@pytest.mark.slow
def test_what_is_read_is_all_that_is_needed(checkpoints: Path) -> None:
    """The published files are recognised, and describe networks of the known sizes."""
    sizes = {
        "sevennet-0": 842_440,
        "sevennet-0-may2024": 842_440,
        "sevennet-l3i5": 1_171_144,
        "sevennet-mf-0-pbe": 845_896,
    }
    for name, size in sizes.items():
        raw = (checkpoints / REFERENCES["published"][name]["member"]).read_bytes()
        content = content_of(raw)
        assert FAMILY.recognises(content.root)
        _, weights = read_checkpoint(content)
        assert sum(tensor.numel() for tensor in weights.values()) == size
