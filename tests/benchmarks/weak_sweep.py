"""What kind, size and weight of weak loss do for energies alone, judged on validation structures.

    python tests/benchmarks/weak_sweep.py --out tests/benchmarks/results/weak_sweep.json   (resumes)

Labels are PBE0 energies of the middle rungs in data/ccsdt, because these have forces to validate on
too: 25 energies to train on, in two draws, the last twenty structures of the pool to validate.
Every run has the same length and learning rate; no test set is read. `python docs/make_tables.py`
then writes errors relative to those of energies alone into docs/losses.md.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import finetune

MOLECULES = ("methanol", "ethanol")
DRAWS = ("@:25", "@25:50")
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
    "anchored PITC 0.1 Å, 0.1": pitc(0.1, 0.1, anchored=True),
    "anchored PITC 0.1 Å, 1": pitc(0.1, 1.0, anchored=True),
    "anchored PITC thermal, 1": {
        "pitc": {"weight": 1.0, "anchored": True, "displacement": {"kind": "thermal"}}
    },
    "anchored second difference 0.1 Å, 1": {
        "second_difference": {"weight": 1.0, "anchored": True, "displacement": 0.1}
    },
    "replay of forces 0.1 Å, 0.003": {"replay": {"weight": 0.003}},
    "replay of forces 0.1 Å, 0.03": {"replay": {"weight": 0.03}},
}


def run(arm: str, molecule: str, draw: int, options: argparse.Namespace) -> dict[str, float]:
    """Train once and return the validation errors, meV and meV/Å."""
    pool = f"data/ccsdt/{molecule}/train_pbe0.xyz"
    with tempfile.TemporaryDirectory() as folder:
        recipe = {
            "foundation": "tiny-xtb-hcno",
            "data": {"train": f"{pool}{DRAWS[draw]}", "valid": f"{pool}@-20:"},
            "losses": {"energy": {"weight": 1.0}, **ARMS[arm]},
            "train": {
                "epochs": options.epochs,
                "learning_rate": options.learning_rate,
                "schedule": "cosine",
                "warmup_epochs": 2,
                "seed": draw,
            },
            "output": f"{folder}/run",
        }
        result = finetune.run(recipe)
    found, before = result.valid.finetuned, result.valid.foundation
    assert before is not None
    return {
        "energy_mae": 1000 * found.energy_mae,
        "forces_mae": 1000 * found.forces_mae,
        "foundation_energy_mae": 1000 * before.energy_mae,
        "foundation_forces_mae": 1000 * before.forces_mae,
        "seconds": result.seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/weak_sweep.json"))
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    options = parser.parse_args()
    fingerprint = finetune.load_foundation("tiny-xtb-hcno").fingerprint
    content: dict[str, Any] = {
        "foundation": fingerprint,
        "epochs": options.epochs,
        "learning_rate": options.learning_rate,
        "runs": {},
    }
    if options.out.is_file():
        stored = json.loads(options.out.read_text())
        if all(stored[key] == content[key] for key in content if key != "runs"):
            content = stored
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for draw in range(len(DRAWS)):
        for molecule in MOLECULES:
            for arm in ARMS:
                name = f"{arm} | {molecule} {draw}"
                if name in content["runs"]:
                    continue
                content["runs"][name] = run(arm, molecule, draw, options)
                options.out.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
                print(name, content["runs"][name], flush=True)


if __name__ == "__main__":
    main()
