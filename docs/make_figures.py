"""Draw the figures of README and docs from runs.

    python docs/make_figures.py runs/quickstart runs/ethanol-weak-losses

Parity and learning curve are of the first, the figure of remainders of the second: of its
foundation, fine-tuned potential and validation structures, never test ones.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from matplotlib.figure import Figure

import finetune
from finetune.data.graphs import concatenate, graph
from finetune.data.reading import read_structures
from finetune.evaluation.plots import learning_curve, parity
from finetune.losses.frozen_foundation import FrozenFoundation
from finetune.losses.loss import LossContext
from finetune.losses.perturbation import reach
from finetune.recipe.loss_options import DisplacementOptions
from finetune.recipe.plugins import losses

FIGURES = Path(__file__).parent / "figures"


SIZES = (0.003, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2)
REMAINDERS = {
    "PITC": ("pitc", {}),
    "PISC": ("pisc", {}),
    "PITC, symmetric": ("pitc", {"form": "symmetric"}),
    "second difference": ("second_difference", {}),
    "PITC, anchored": ("pitc", {"anchored": True}),
    "PITC, soft modes": ("pitc", {"kind": "soft_modes"}),
}


def remainders(run: Path, recipe: finetune.Recipe) -> Figure:
    """Draw the remainder (root mean square, meV/atom) of each form against the size, in Å."""
    tuned = finetune.load_foundation(run).potential
    teacher = FrozenFoundation(finetune.load_foundation(recipe.foundation).potential)
    structures = read_structures(recipe.data.valid, recipe.data.keys)[:20]
    figure = Figure(figsize=(5.2, 3.9), layout="constrained")
    axes = figure.subplots()
    for label, (name, form) in REMAINDERS.items():
        kind = form.get("kind", "uniform")
        options = {key: value for key, value in form.items() if key != "kind"}
        values = []
        for size in SIZES:
            displaced = DisplacementOptions(kind=kind, size=size)
            given = {"displacement": displaced, "copies": 4, **options}
            loss = losses.get(name)(losses.options(name).model_validate(given))
            skin = reach(displaced)
            batch = concatenate([graph(item, tuned.cutoff, skin) for item in structures])
            potential = tuned if loss.options.anchored else teacher.potential
            generator = torch.Generator().manual_seed(0)
            with torch.no_grad():
                asked = loss.requests(batch)
                seen = LossContext(batch, potential, asked, generator, teacher)
                values.append(1000 * float(loss(seen)) ** 0.5)
            print(f"{label:20} {size:6.3f} Å {values[-1]:10.4f} meV/atom")
        axes.loglog(SIZES, values, marker="o", markersize=3, label=label)
    axes.set(xlabel="displacement size [Å]", ylabel="remainder [meV/atom]")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8)
    return figure


def main(run_folder: str, with_weak_losses: str) -> None:
    """Write the figures of runs: parity on its test set and learning curve; remainders."""
    run, other = Path(run_folder), Path(with_weak_losses)
    recipe = finetune.Recipe.load(run / "recipe.yaml")
    assert recipe.data.test is not None
    test = recipe.data.test
    found = finetune.evaluate(run, [test] if isinstance(test, str) else list(test))
    FIGURES.mkdir(exist_ok=True)
    figure = parity(found.foundation_predictions, found.finetuned_predictions)
    figure.savefig(FIGURES / f"{run.name}-parity.png", dpi=110)
    history = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    best = json.loads((run / "result.json").read_text())["best_epoch"]
    learning_curve(history, best).savefig(FIGURES / f"{run.name}-learning.png", dpi=110)
    recipe = finetune.Recipe.load(other / "recipe.yaml")
    remainders(other, recipe).savefig(FIGURES / "remainders.png", dpi=110)


if __name__ == "__main__":
    main(*sys.argv[1:])
