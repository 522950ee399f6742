"""What each loss costs, as ratios of training-step times within one process.

    python tests/benchmarks/loss_cost.py

Ethanol batches of five with the embedded foundation, float64. A step is everything from the batch
to the gradients of the weights. Ratios are to the supervised energy-and-force step, and for losses
without forces also to the energy-only step; medians over interleaved repetitions.
"""

from __future__ import annotations

import argparse
import statistics
import time
from copy import deepcopy
from typing import Any

import torch

from finetune.data.graphs import GraphBatch, concatenate, graph
from finetune.data.reading import read_structures
from finetune.foundation.loading import load_foundation
from finetune.losses.total import TotalLoss
from finetune.recipe import Recipe

NEAR = {"displacement": 0.02}
ARMS: dict[str, dict[str, Any]] = {
    "energies": {"energy": {}},
    "energies + forces": {"energy": {}, "forces": {}},
    "… + PITC": {"energy": {}, "forces": {}, "pitc": NEAR},
    "… + PITC + PISC": {"energy": {}, "forces": {}, "pitc": NEAR, "pisc": NEAR},
    "… + anchored PITC": {"energy": {}, "forces": {}, "pitc": {**NEAR, "anchored": True}},
    "energies + PITC": {"energy": {}, "pitc": NEAR},
    "energies + PITC + PISC": {"energy": {}, "pitc": NEAR, "pisc": NEAR},
    "energies + second difference": {"energy": {}, "second_difference": NEAR},
    "energies + replay of forces": {"energy": {}, "replay": NEAR},
}


def losses(arm: dict[str, Any]) -> TotalLoss:
    """Return the losses of an arm."""
    recipe = Recipe.parse({"foundation": "x", "data": {"train": "x"}, "output": "x", "losses": arm})
    return TotalLoss(recipe.losses)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--foundation", default="tiny-xtb-hcno")
    parser.add_argument("--repetitions", type=int, default=15)
    options = parser.parse_args()
    potential = load_foundation(options.foundation).potential
    frozen = deepcopy(potential).requires_grad_(False)
    potential.train()
    parameters = list(potential.parameters())
    structures = read_structures("data/ccsdt/ethanol/train_pbe0.xyz@:5")
    generator = torch.Generator().manual_seed(0)
    batches: dict[str, GraphBatch] = {}
    totals = {name: losses(arm) for name, arm in ARMS.items()}
    for name, total in totals.items():
        batches[name] = concatenate([graph(s, potential.cutoff, total.skin) for s in structures])
    seconds: dict[str, list[float]] = {name: [] for name in ARMS}
    for repetition in range(-3, options.repetitions):
        for name, total in totals.items():
            started = time.perf_counter()
            value = total(batches[name], potential, generator, frozen)
            assert value is not None
            torch.autograd.backward(value.total, inputs=parameters)
            if repetition >= 0:
                seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"{'':32}{'/ energies':>12}{'/ energies + forces':>22}")
    for name, median in medians.items():
        to_energy = median / medians["energies"]
        print(f"{name:32}{to_energy:12.2f}{median / medians['energies + forces']:22.2f}")


if __name__ == "__main__":
    main()
