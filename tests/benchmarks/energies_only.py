"""Do the weak losses help when only 50 CCSD(T) energies of ethanol are there?

    python tests/benchmarks/energies_only.py --out runs/benchmark        (resumes; runs are kept)

Every arm gets the same draws of 50 training energies and the same epochs. Its learning rate is the
better of two on the validation set of the first draw, then fixed; the test set decides nothing.
Prints test errors as mean ± sample standard deviation over the draws, and writes summary.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import finetune

DRAWS = ("@:50", "@35:85", "@70:")
RATES = (3e-4, 1e-3)
ARMS: dict[str, dict[str, Any]] = {
    "energies alone": {},
    "PITC + PISC": {
        "pitc": {"weight": 0.1, "displacement": 0.01},
        "pisc": {"weight": 0.01, "displacement": 0.01},
    },
    "anchored PITC": {"pitc": {"weight": 1.0, "displacement": 0.1, "anchored": True}},
    "replay of forces": {"replay": {"weight": 1e-5, "displacement": 0.1}},
}
SHOWN = ("energy_mae", "forces_mae", "forces_rmse")


def foundation_of(folder: Path) -> str:
    """Return the fingerprint of the foundation that a run began with."""
    found: str = json.loads((folder / "environment.json").read_text())["foundation"]["fingerprint"]
    return found


def run(
    out: Path, arm: str, rate: float, draw: int, epochs: int, fingerprint: str
) -> dict[str, Any]:
    """Return the result of one run, computed unless it is there, of the same foundation."""
    folder = out / f"{arm.replace(' ', '-')}_{rate:g}_{draw}"
    stored = folder / "result.json"
    if not stored.is_file() or foundation_of(folder) != fingerprint:
        recipe = {
            "foundation": "tiny-xtb-hcno",
            "data": {
                "train": f"data/ccsdt/ethanol/train.xyz{DRAWS[draw]}",
                "valid": "data/ccsdt/ethanol/valid.xyz",
                "test": "data/ccsdt/ethanol/test.xyz",
            },
            "losses": {"energy": {"weight": 1.0}, **ARMS[arm]},
            "train": {
                "epochs": epochs,
                "learning_rate": rate,
                "schedule": "cosine",
                "warmup_epochs": 2,
                "ema": 0.99,
                "gradient_clip": 10.0,
                "seed": draw,
            },
            "output": str(folder),
        }
        finetune.run(recipe, overwrite=True)
    found: dict[str, Any] = json.loads(stored.read_text())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark"))
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--arms", nargs="*", default=list(ARMS))
    options = parser.parse_args()
    fingerprint = finetune.load_foundation("tiny-xtb-hcno").fingerprint
    summary: dict[str, Any] = {
        "foundation": fingerprint,
        "epochs": options.epochs,
        "draws": DRAWS,
        "arms": {},
    }
    for arm in options.arms:
        first = {
            rate: run(options.out, arm, rate, 0, options.epochs, fingerprint) for rate in RATES
        }
        rate = min(first, key=lambda r: first[r]["valid"]["finetuned"]["energy_mae"])
        results = [
            run(options.out, arm, rate, draw, options.epochs, fingerprint)
            for draw in range(len(DRAWS))
        ]
        row: dict[str, Any] = {"learning_rate": rate}
        for side in ("foundation", "finetuned"):
            for field in SHOWN:
                row[f"{side} {field}"] = [1000 * item["test"][side][field] for item in results]
        row["seconds"] = [item["seconds"] for item in results]
        summary["arms"][arm] = row
        cells = []
        for field in SHOWN:
            for side in ("foundation", "finetuned"):
                values = row[f"{side} {field}"]
                cells.append(f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}")
        print(f"{arm:18} lr {rate:g}  " + "  ".join(cells), flush=True)
    (options.out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")


if __name__ == "__main__":
    main()
