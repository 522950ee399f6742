"""What kind, size and weight of weak loss do for energies alone, judged on validation structures.

    python tests/benchmarks/weak_sweep.py --out tests/benchmarks/results/weak_sweep.json   (resumes)

Two levels of theory in data/ccsdt: CCSD(T), validated on its validation splits, which have energies
only; and PBE0, whose pools have forces to validate on too, on the last twenty of a pool. Always 25
energies to train on, in two draws; options choose cases. Every run has the same length and learning
rate; no test set is read. `python docs/make_tables.py` then writes errors relative to those of
energies alone into docs/losses.md.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from pathlib import Path
from typing import Any

from records import Records

import finetune

MOLECULES = ("methanol", "ethanol")
DRAWS = ("@:25", "@25:50")
LEVELS = {"CCSD(T)": ("train.xyz", "valid.xyz"), "PBE0": ("train_pbe0.xyz", "train_pbe0.xyz@-20:")}
ALONE = "energies alone"


def pitc(size: float, weight: float, **options: Any) -> dict[str, Any]:
    """PITC alone."""
    return {"pitc": {"weight": weight, "displacement": size, **options}}


ARMS: dict[str, dict[str, Any]] = {
    ALONE: {},
    "PITC 0.01 Å, 0.1": pitc(0.01, 0.1),
    "PITC 0.01 Å, 1": pitc(0.01, 1.0),
    "PITC 0.03 Å, 0.1": pitc(0.03, 0.1),
    "PITC 0.03 Å, 1": pitc(0.03, 1.0),
    "PITC 0.1 + PISC 0.01, 0.01 Å": {
        **pitc(0.01, 0.1),
        "pisc": {"weight": 0.01, "displacement": 0.01},
    },
    "PITC 0.1 + PISC 0.1, 0.03 Å": {
        **pitc(0.03, 0.1),
        "pisc": {"weight": 0.1, "displacement": 0.03},
    },
    "PITC half the energy error, 1": {
        "pitc": {"weight": 1.0, "displacement": {"size": {"fraction": 0.5}}}
    },
    "PITC soft modes 0.05 Å, 1": {"pitc": {"weight": 1.0, "displacement": {"kind": "soft_modes"}}},
    "anchored PITC 0.1 Å, 0.001": pitc(0.1, 1e-3, anchored=True),
    "anchored PITC 0.1 Å, 0.1": pitc(0.1, 0.1, anchored=True),
    "anchored PITC 0.1 Å, 1": pitc(0.1, 1.0, anchored=True),
    "anchored PITC thermal, 1": {
        "pitc": {"weight": 1.0, "anchored": True, "displacement": {"kind": "thermal"}}
    },
    "anchored second difference 0.1 Å, 1": {
        "second_difference": {"weight": 1.0, "anchored": True, "displacement": 0.1}
    },
    "replay of forces 0.1 Å, 0.00001": {"replay": {"weight": 1e-5}},
    "replay of forces 0.1 Å, 0.001": {"replay": {"weight": 1e-3}},
}


def run(
    arm: str, molecule: str, level: str, draw: int, options: argparse.Namespace
) -> dict[str, float | None]:
    """Train once and return the validation errors, meV and meV/Å; None without such labels."""
    pool, valid = (f"data/ccsdt/{molecule}/{file}" for file in LEVELS[level])
    with tempfile.TemporaryDirectory() as folder:
        recipe = {
            "foundation": "tiny-xtb-hcno",
            "data": {"train": f"{pool}{DRAWS[draw]}", "valid": valid},
            "losses": {"energy": {"weight": 1.0}, **ARMS[arm]},
            "train": {
                "epochs": options.epochs,
                "learning_rate": options.learning_rate,
                "schedule": "cosine",
                "warmup_epochs": 2,
                "ema": 0.99,
                "gradient_clip": 10.0,
                "seed": draw,
            },
            "output": f"{folder}/run",
        }
        result = finetune.run(recipe)
    found: dict[str, float | None] = {"seconds": result.seconds}
    for side in ("foundation", "finetuned"):
        errors = getattr(result.valid, side)
        for field in ("energy_mae", "forces_mae"):
            error = getattr(errors, field)
            found[f"{side} {field}"] = None if error is None else 1000 * error
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/weak_sweep.json"))
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--molecules", nargs="*", choices=MOLECULES, default=MOLECULES)
    parser.add_argument("--levels", nargs="*", choices=LEVELS, default=list(LEVELS))
    parser.add_argument("--draws", nargs="*", type=int, default=range(len(DRAWS)))
    options = parser.parse_args()
    fingerprint = finetune.load_foundation("tiny-xtb-hcno").fingerprint
    settings = {
        "foundation": fingerprint,
        "epochs": options.epochs,
        "learning_rate": options.learning_rate,
    }
    records = Records(options.out, settings)
    cases = itertools.product(options.draws, options.levels, options.molecules, ARMS)
    for draw, level, molecule, arm in cases:
        name = f"{arm} | {molecule}, {level}, draw {draw}"
        if name not in records:
            records.keep(name, run(arm, molecule, level, draw, options))
            print(name, records[name], flush=True)


if __name__ == "__main__":
    main()
