"""The same foundation and files in MACE's own fine-tuning, beside ours.

    python tests/benchmarks/mace_run_train.py --out tests/benchmarks/results/weak_losses.json

Resumes, and adds arms to the cases of weak_losses.py, whose draws, number of steps, batch size and
choice of the learning rate it takes over. What MACE's documentation recommends for fine-tuning
without replay is used: reference energies estimated with the foundation, AMSGrad, EMA (with MACE's
default decay), no multihead; with --lora True for the second arm.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

from ase.io import read, write
from records import Records
from trials import BATCH, FOUNDATION, Case, best_of, epochs_of
from weak_losses import MOLECULES, RATES, molecule

import finetune
from finetune.export.formats import write_file

TUNED = "tuned.model"
ARMS: dict[str, tuple[str, list[str]]] = {
    "mace_run_train": ("full", []),
    "mace_run_train --lora": ("lora", ["--lora=True"]),
}


def train(
    case: Case, rate: float, extra: list[str], steps: int, draw: int, folder: Path
) -> dict[str, Any]:
    """Run it in ``folder``; return validation energy MAE (meV)."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, files in (("train", case.draws[draw]), ("valid", case.valid)):
        file, _, chosen = files.partition("@")
        write(folder / f"{name}.xyz", read(file, chosen or ":"))
    write_file(finetune.load_foundation(FOUNDATION).potential, folder / "foundation.model")
    command = [
        *(sys.executable, "-m", "mace.cli.run_train", "--name=tuned", "--device=cpu"),
        *("--foundation_model=foundation.model", "--multiheads_finetuning=False"),
        *("--train_file=train.xyz", "--valid_file=valid.xyz", "--E0s=estimated"),
        *("--energy_key=REF_energy", "--forces_key=REF_forces", "--default_dtype=float64"),
        *(f"--lr={rate}", f"--batch_size={BATCH}", "--valid_batch_size=40", "--amsgrad"),
        *("--ema", "--ema_decay=0.99", f"--seed={draw}", "--plot=False"),
        f"--max_num_epochs={epochs_of(case, draw, steps)}",
        *extra,
    ]
    with (folder / "log").open("w") as log:
        subprocess.run(command, cwd=folder, stdout=log, stderr=log, check=True)
    found = finetune.evaluate(folder / TUNED, case.valid)
    return {"valid energy_mae": 1000 * found.finetuned.energy_mae}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/weak_losses.json"))
    parser.add_argument("--runs", type=Path, default=Path("runs/mace_run_train"))
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--molecules", nargs="*", choices=MOLECULES, default=MOLECULES)
    parser.add_argument("--labels", nargs="*", type=int, default=[25])
    options = parser.parse_args()
    fingerprint = finetune.load_foundation(FOUNDATION).fingerprint
    records = Records(options.out, {"foundation": fingerprint, "steps": options.steps})
    for labels, name in itertools.product(options.labels, options.molecules):
        case = molecule(name, labels)
        for arm, (kind, extra) in ARMS.items():
            trials = {
                f"{rate:g}": partial(train, case, rate, extra, options.steps)
                for rate in RATES[kind]
            }
            found = best_of(case, arm, trials, records, options.runs, TUNED)
            forces = [f"{row['test finetuned forces_mae']:.0f}" for row in found["draws"]]
            print(f"{case.name} | {arm} ({found['chosen']}): {forces} meV/Å", flush=True)


if __name__ == "__main__":
    main()
