"""Do energies teach a head for forces? Fine-tuning a direct-force potential on few energies.

    python tests/benchmarks/direct_forces.py --out tests/benchmarks/results/direct_forces.json

Resumes; processes may share the file. Every arm is trained for the same number of steps and chooses
among its trials, learning rates and weights, on the first draw: by the validation energies and the
inconsistency of head and gradient there, each relative to the foundation's. Then the trial is fixed
and trained on all draws, and only then are test sets read. `two stages` solves for all weights by
gauss-newton and then trains the head alone with the energies held, without a label; `conservative`
is gauss-newton on the conservative foundation of the same features.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from records import Records
from trials import BATCH, FOUNDATION, Case, Losses, best_of, epochs_of
from weak_losses import molecule

import finetune

DIRECT = "tiny-xtb-hcno-direct"
MOLECULES = ("methanol", "ethanol", "acetic_acid")
LABELS = (100, 25, 10)
RATES = (1e-3, 3e-3)
HEAD = {"kind": "frozen", "train": ["force_head"]}
NO_HEAD = {"kind": "frozen", "freeze": ["force_head"]}
WEIGHTS = (1e-2, 1e-1, 1.0)
"""Of gradient matching, where forces are eV/Å and energies eV/atom."""


def pitc(size: float, weight: float, **options: Any) -> Losses:
    return {"pitc": {"weight": weight, "displacement": size, **options}}


def match(weight: float, hold: str) -> Losses:
    return {"gradient_match": {"weight": weight, "displacement": 0.03, "hold": hold}}


PUBLISHED = {**pitc(0.01, 1.2), "pisc": {"weight": 0.01, "displacement": 0.01}}
ARMS: dict[str, dict[str, Losses]] = {
    "plain": {"": {}},
    "head frozen": {"": {}},
    "PITC": {f"{w:g}": pitc(0.01, w) for w in (0.1, 1.0, 10.0)},
    "PITC + PISC, 1.2 : 0.01": {"": PUBLISHED},
    "PITC + PISC, equal": {
        f"{w:g}": {**pitc(0.01, w), "pisc": {"weight": w, "displacement": 0.01}} for w in (0.1, 1.0)
    },
    "symmetric PITC": {f"{w:g}": pitc(0.03, w, form="symmetric") for w in (1.0, 10.0, 100.0)},
    "gradient match": {f"{w:g}": match(w, "nothing") for w in WEIGHTS},
    "gradient match, energies held": {f"{w:g}": match(w, "energies") for w in WEIGHTS},
}
TWO_STAGES, CONSERVATIVE = "two stages", "conservative"


def recipe(case: Case, draw: int, folder: Path, **further: Any) -> dict[str, Any]:
    """Return the recipe of a draw."""
    common = {
        "foundation": DIRECT,
        "data": {"train": case.draws[draw], "valid": case.valid},
        "output": str(folder),
    }
    return {**common, **further}


def optimised(case: Case, draw: int, steps: int, rate: float) -> dict[str, Any]:
    epochs = epochs_of(case, draw, steps)
    schedule = {"schedule": "cosine", "warmup_epochs": epochs // 20}
    return {
        **{"epochs": epochs, "learning_rate": rate, "batch_size": BATCH, "seed": draw},
        **schedule,
    }


def solved(draw: int) -> dict[str, Any]:
    return {"optimiser": "gauss-newton", "seed": draw}


def run(made: dict[str, Any]) -> dict[str, Any]:
    """Run a recipe; return what the choice is by, and processor time (s)."""
    started = time.process_time()
    found = finetune.run(made, overwrite=True).valid
    before, after = found.foundation, found.finetuned
    energies = after.energy_mae / before.energy_mae
    result = {
        "valid energy_mae": 1000 * after.energy_mae,
        "seconds": time.process_time() - started,
        "measure": energies,
    }
    if after.inconsistency_mae is not None:
        result["valid inconsistency_mae"] = 1000 * after.inconsistency_mae
        result["measure"] = energies + after.inconsistency_mae / before.inconsistency_mae
    return result


def train(
    case: Case, arm: str, losses: Losses, rate: float, steps: int, draw: int, folder: Path
) -> dict[str, Any]:
    """Train an arm of one stage."""
    adapter: dict[str, Any] = NO_HEAD if arm == "head frozen" else {"kind": "full"}
    return run(
        recipe(
            case,
            draw,
            folder,
            adapter=adapter,
            losses={"energy": {"weight": 1.0}, **losses},
            train=optimised(case, draw, steps, rate),
        )
    )


def two_stages(case: Case, rate: float, steps: int, draw: int, folder: Path) -> dict[str, Any]:
    """Solve for energies, then teach the head alone; the second stage reads no label."""
    first = folder.with_name(f"{folder.name} solved")
    began = time.process_time()
    run(recipe(case, draw, first, losses={"energy": {"weight": 1.0}}, train=solved(draw)))
    found = run(
        recipe(
            case,
            draw,
            folder,
            foundation=str(first),
            reference_energies="keep",
            adapter=HEAD,
            losses=match(1.0, "energies"),
            train=optimised(case, draw, steps, rate),
        )
    )
    shutil.rmtree(first, ignore_errors=True)
    return {**found, "seconds": time.process_time() - began}


def conservative(case: Case, draw: int, folder: Path) -> dict[str, Any]:
    """Solve on the conservative foundation."""
    losses = {"energy": {"weight": 1.0}}
    return run(recipe(case, draw, folder, foundation=FOUNDATION, losses=losses, train=solved(draw)))


def trials(case: Case, arm: str, rate: float | None, steps: int) -> Mapping[str, Any]:
    """Return what an arm chooses from; weights at the rate that the plain arm chose."""
    rates = RATES if rate is None else (rate,)
    if arm == TWO_STAGES:
        return {f"{r:g}": partial(two_stages, case, r, steps) for r in (3e-3, 1e-2)}
    if arm == CONSERVATIVE:
        return {"nothing to choose": partial(conservative, case)}
    return {
        f"{r:g} {name}".strip(): partial(train, case, arm, losses, r, steps)
        for r in rates
        for name, losses in ARMS[arm].items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/direct_forces.json"))
    parser.add_argument("--runs", type=Path, default=Path("runs/direct_forces"))
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--molecules", nargs="*", choices=MOLECULES, default=MOLECULES)
    parser.add_argument("--labels", nargs="*", type=int, default=LABELS)
    parser.add_argument("--arms", nargs="*", default=[*ARMS, TWO_STAGES, CONSERVATIVE])
    options = parser.parse_args()
    fingerprint = finetune.load_foundation(DIRECT).fingerprint
    records = Records(options.out, {"foundation": fingerprint, "steps": options.steps})
    for labels in options.labels:
        for name in options.molecules:
            case, rate = molecule(name, labels), None
            for arm in options.arms:
                chosen = trials(case, arm, rate, options.steps)
                found = best_of(case, arm, chosen, records, options.runs, measure="measure")
                if arm == "plain":
                    rate = float(found["chosen"])
                shown = ", ".join(
                    f"{row['test finetuned energy_mae']:.1f} meV"
                    f" {row['test finetuned forces_mae']:.0f} meV/Å"
                    for row in found["draws"]
                )
                print(f"{case.name} | {arm} ({found['chosen']}): {shown}", flush=True)


if __name__ == "__main__":
    main()
