"""What each kind of adapter makes of 25, 50 and 100 CCSD(T) energies of ethanol.

    python tests/benchmarks/adapters.py --out tests/benchmarks/results/adapters.json    (resumes)

Every kind in the registry, with the same number of steps, on three draws of the labels (the seed
goes with the draw). Its learning rate is the best of the kind's default, a third and three times
that, by the validation energies of the first draw, and then fixed; the test set decides nothing.
`python docs/make_tables.py` writes test errors and times into docs/adapters.md.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from pathlib import Path
from typing import Any

from records import Records
from safetensors.torch import load_file

import finetune
from finetune.recipe.plugins import adapter_rules, adapters

POOL = 120
"""Labels in data/ccsdt/ethanol/train.xyz."""
LABELS = (25, 50, 100)
DRAWS = 3
FACTORS = (1 / 3, 1.0, 3.0)
BATCH = 5
OPTIONS: dict[str, dict[str, Any]] = {
    "frozen": {"train": ["products.*", "readouts.*"]},
    "head": {"name": "ccsdt"},
}
"""Of kinds that need some; a kind that is not here gets its defaults."""


def run(kind: str, labels: int, draw: int, rate: float, steps: int) -> dict[str, Any]:
    """Train once; errors in meV and meV/Å, processor time of the run in s, sizes in bytes."""
    start = draw * (POOL - labels) // (DRAWS - 1)
    epochs = max(1, steps * BATCH // labels)
    with tempfile.TemporaryDirectory() as folder:
        recipe = {
            "foundation": "tiny-xtb-hcno",
            "data": {
                "train": f"data/ccsdt/ethanol/train.xyz@{start}:{start + labels}",
                "valid": "data/ccsdt/ethanol/valid.xyz",
                "test": "data/ccsdt/ethanol/test.xyz",
            },
            "adapter": {"kind": kind, **OPTIONS.get(kind, {})},
            "losses": {"energy": {"weight": 1.0}},
            "train": {
                "epochs": epochs,
                "batch_size": BATCH,
                "learning_rate": rate,
                "schedule": "cosine",
                "warmup_epochs": epochs // 20,
                "seed": draw,
            },
            "output": f"{folder}/run",
        }
        started = time.process_time()
        result = finetune.run(recipe)
        assert result.test is not None
        assert result.test.foundation is not None
        found: dict[str, Any] = {
            "valid energy_mae": 1000 * result.valid.finetuned.energy_mae,
            "seconds": time.process_time() - started,
            "trained": _numbers(result.folder / "adapter"),
            "adapter bytes": _bytes(result.folder / "adapter"),
            "model bytes": _bytes(result.folder / "model"),
        }
    for side in ("foundation", "finetuned"):
        errors = getattr(result.test, side)
        for field in ("energy_mae", "forces_mae"):
            found[f"{side} {field}"] = 1000 * getattr(errors, field)
    return found


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def _numbers(folder: Path) -> int:
    return sum(
        tensor.numel()
        for path in folder.glob("*.safetensors")
        for tensor in load_file(path).values()
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/adapters.json"))
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--kinds", nargs="*", default=adapters.names())
    parser.add_argument("--labels", nargs="*", type=int, default=LABELS)
    parser.add_argument("--draws", type=int, default=DRAWS, help="how many of the three")
    options = parser.parse_args()
    settings = {
        "foundation": finetune.load_foundation("tiny-xtb-hcno").fingerprint,
        "steps": options.steps,
    }
    records = Records(options.out, settings)

    def result(kind: str, labels: int, draw: int, rate: float) -> Any:
        name = f"{kind} | {labels} labels | draw {draw} | learning rate {rate:.3g}"
        if name not in records:
            records.keep(name, run(kind, labels, draw, rate, options.steps))
        return records[name]

    for labels, kind in itertools.product(options.labels, options.kinds):
        rates = [factor * adapter_rules(kind).training.learning_rate for factor in FACTORS]
        first = {rate: result(kind, labels, 0, rate)["valid energy_mae"] for rate in rates}
        best = min(rates, key=lambda rate: first[rate])
        rows = [result(kind, labels, draw, best) for draw in range(options.draws)]
        records.keep(f"{kind} | {labels} labels", {"learning rate": best, "draws": rows})
        shown = ", ".join(
            f"{row['finetuned energy_mae']:.1f} meV {row['finetuned forces_mae']:.0f} meV/Å"
            for row in rows
        )
        seconds = sum(row["seconds"] for row in rows) / len(rows)
        print(f"{kind:8} {labels:3} labels, lr {best:.2g}: {shown}; {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
