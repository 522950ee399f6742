"""Draw the figures of README and docs from a run: python docs/make_figures.py runs/quickstart."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import finetune
from finetune.evaluation.plots import learning_curve, parity

FIGURES = Path(__file__).parent / "figures"


def main(run_folder: str) -> None:
    """Write parity and learning-curve figures of a run's test set."""
    run = Path(run_folder)
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


if __name__ == "__main__":
    main(*sys.argv[1:])
