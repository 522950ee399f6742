"""What each loss costs: time and memory of a training step, as ratios within one process.

    python tests/benchmarks/loss_cost.py --out tests/benchmarks/results/loss_cost.json

Ethanol batches of five with the embedded foundation, float64. A step is everything from the batch
to the gradients of the weights. Times are medians over interleaved repetitions. Memory is what the
resident size of the process grows by at its peak during a step on a larger batch (Linux). Passes
are counted in evaluations of one structure: forward, backward, and backward through the forces
(double backward), of the potential in training and of the frozen foundation.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import platform
import statistics
import time
from collections import Counter
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch

from finetune.data.graphs import GraphBatch, concatenate, graph
from finetune.data.reading import read_structures
from finetune.losses.frozen_foundation import FrozenFoundation
from finetune.losses.loss import TotalLoss
from finetune.potentials.loading import load_foundation
from finetune.potentials.potential import Potential
from finetune.recipe.recipe import Recipe

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
    "energies + anchored second difference": {
        "energy": {},
        "second_difference": {**NEAR, "anchored": True},
    },
    "energies + replay of forces": {"energy": {}, "replay": NEAR},
}
TARGETS = {
    ("… + PITC", "energies + forces"): 1.6,
    ("… + PITC + PISC", "energies + forces"): 2.6,
    ("… + anchored PITC", "energies + forces"): 1.9,
    ("energies + second difference", "energies"): 3.2,
}
MEMORY_TARGET = ("… + PITC + PISC", 2.6)


def losses(arm: dict[str, Any]) -> TotalLoss:
    """Return the losses of an arm."""
    recipe = Recipe.parse({"foundation": "x", "data": {"train": "x"}, "output": "x", "losses": arm})
    return TotalLoss(recipe.losses)


def step(
    total: TotalLoss, batch: GraphBatch, potential: Potential, teacher: FrozenFoundation
) -> None:
    """One training step without the optimiser."""
    value = total(batch, potential, torch.Generator().manual_seed(0), teacher)
    assert value is not None
    torch.autograd.backward(value.total, inputs=list(potential.parameters()))


def passes(
    total: TotalLoss, batch: GraphBatch, potential: Potential, teacher: FrozenFoundation
) -> dict[str, float]:
    """Count evaluations of one structure in a step, after the foundation has seen the batch."""
    step(total, batch, potential, teacher)
    counted: Counter[str] = Counter()

    def count(module: Potential, given: tuple[GraphBatch], options: dict[str, bool]) -> None:
        structures, forces = len(given[0]) / len(batch), options.get("forces", True)
        if module is teacher.potential:
            counted["foundation forward"] += structures
            counted["foundation backward"] += structures * forces
        else:
            counted["forward"] += structures
            counted["backward"] += structures * (1 + forces)
            counted["double backward"] += structures * forces

    hooks = [
        module.register_forward_pre_hook(count, with_kwargs=True)
        for module in (potential, teacher.potential)
    ]
    step(total, batch, potential, teacher)
    for hook in hooks:
        hook.remove()
    return dict(counted)


def resident(field: str) -> float:
    """Return a figure of the process's memory, MiB: VmRSS now, VmHWM at its peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise OSError(f"no {field} in /proc/self/status")


def peak_memory(
    total: TotalLoss, batch: GraphBatch, potential: Potential, teacher: FrozenFoundation
) -> float:
    """Return by how much the resident size grows during a step, MiB."""
    step(total, batch, potential, teacher)
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = resident("VmRSS")
    step(total, batch, potential, teacher)
    return resident("VmHWM") - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--foundation", default="tiny-xtb-hcno")
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--out", type=Path, help="JSON of the results")
    options = parser.parse_args()
    foundation = load_foundation(options.foundation)
    potential = foundation.potential
    teacher = FrozenFoundation(deepcopy(potential).requires_grad_(False))
    potential.train()
    structures = read_structures("data/ccsdt/ethanol/train_pbe0.xyz@:40")
    totals = {name: losses(arm) for name, arm in ARMS.items()}
    cutoff = potential.cutoff
    graphs = {
        name: [graph(item, cutoff, total.skin(cutoff)) for item in structures]
        for name, total in totals.items()
    }
    small = {name: concatenate(items[:5]) for name, items in graphs.items()}
    counted = {n: passes(t, small[n], potential, teacher) for n, t in totals.items()}
    seconds: dict[str, list[float]] = {name: [] for name in ARMS}
    for repetition in range(-3, options.repetitions):
        for name, total in totals.items():
            started = time.perf_counter()
            step(total, small[name], potential, teacher)
            if repetition >= 0:
                seconds[name].append(time.perf_counter() - started)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    memory = {
        name: peak_memory(total, concatenate(graphs[name]), potential, teacher)
        for name, total in totals.items()
    }
    both = "energies + forces"
    rows = {
        name: {
            "time_to_energies": median[name] / median["energies"],
            "time_to_energies_and_forces": median[name] / median[both],
            "memory_to_energies_and_forces": memory[name] / memory[both],
            "passes": counted[name],
        }
        for name in ARMS
    }
    print(
        f"{'':38}{'time / E':>9}{'time / EF':>10}{'memory / EF':>12}   passes F, B, BB; foundation"
    )
    for name, row in rows.items():
        kinds = ("forward", "backward", "double backward", "foundation forward")
        shown = " ".join(f"{counted[name].get(kind, 0):.0f}" for kind in kinds)
        print(
            f"{name:38}{row['time_to_energies']:9.2f}{row['time_to_energies_and_forces']:10.2f}"
            f"{row['memory_to_energies_and_forces']:12.2f}   {shown}"
        )
    checks = {
        f"{name} / {base}": {"ratio": median[name] / median[base], "target": target}
        for (name, base), target in TARGETS.items()
    }
    name, target = MEMORY_TARGET
    checks[f"memory of {name} / {both}"] = {"ratio": memory[name] / memory[both], "target": target}
    for what, check in checks.items():
        met = "met" if check["ratio"] <= check["target"] else "MISSED"
        print(f"{what}: {check['ratio']:.2f} (<= {check['target']}) {met}")
    if options.out:
        content = {
            "command": "python tests/benchmarks/loss_cost.py",
            "foundation": foundation.fingerprint,
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "machine": platform.machine(),
            "repetitions": options.repetitions,
            "rows": rows,
            "checks": checks,
        }
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
