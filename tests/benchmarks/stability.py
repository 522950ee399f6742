"""How long molecular dynamics with the potentials of weak_losses.py stays physical.

    python tests/benchmarks/stability.py --out tests/benchmarks/results/stability.json

Takes the potentials that weak_losses.py has left in its --runs, and resumes. Langevin dynamics from
the first test structure, --replicas trajectories for each draw of the labels, with the same
velocities and noise for all potentials; a bond that is off by 0.5 Å, atoms lost or colliding, or an
energy off by 1 eV/atom is a failure, as in ``piwsl-finetune md``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ase.io import read
from records import Records
from trials import FOUNDATION, file_name
from weak_losses import ALONE, LONG, LONG_WEAK, LORA, LORA_WEAK, MOLECULES, SCRATCH, SOLVED, WEAK

import finetune
from finetune.evaluation.dynamics import run_all
from finetune.evaluation.trajectory import Settings, Task

ARMS = (ALONE, LONG, *SOLVED, LORA, LORA_WEAK, *WEAK, *LONG_WEAK, SCRATCH)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/stability.json"))
    parser.add_argument("--runs", type=Path, default=Path("runs/weak_losses"))
    parser.add_argument("--molecules", nargs="*", choices=MOLECULES, default=MOLECULES)
    parser.add_argument("--labels", type=int, default=25)
    parser.add_argument("--arms", nargs="*", default=ARMS)
    parser.add_argument("--temperature", type=float, default=2000.0, help="K")
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--length", type=float, default=1.0, help="ps")
    options = parser.parse_args()
    fingerprint = finetune.load_foundation(FOUNDATION).fingerprint
    settings = Settings(length=options.length)
    conditions = {name: vars(options)[name] for name in ("length", "temperature", "replicas")}
    records = Records(options.out, {"foundation": fingerprint, **conditions})
    tasks = [Task("nvt", options.temperature, 0, number) for number in range(options.replicas)]
    for molecule in options.molecules:
        case = f"{molecule}, {options.labels} energies"
        frames = read(f"data/ccsdt/{molecule}/test.xyz", ":")
        paths: dict[str, list[str | Path]] = {"foundation": [FOUNDATION]}
        for arm in options.arms:
            found = sorted(options.runs.glob(file_name(f"{case} | {arm} | draw ") + "?"))
            paths.update({arm: list(found)} if found else {})
        for arm, potentials in paths.items():
            if f"{case} | {arm}" in records:
                continue
            names = [f"{arm} {number}" for number in range(len(potentials))]
            outcome = run_all(
                {n: finetune.load_calculator(p) for n, p in zip(names, potentials, strict=True)},
                {
                    n: finetune.load_foundation(p).fingerprint
                    for n, p in zip(names, potentials, strict=True)
                },
                [frames[0]],
                [frames],
                tasks,
                settings,
                options.runs / "stability" / file_name(f"{case} | {arm}"),
            )
            kept = ("trajectories", "survived", "failures", "stable_ps")
            rows = [{key: row[key] for key in kept} for row in outcome.summary()]
            records.keep(f"{case} | {arm}", rows)
            print(case, arm, [row["stable_ps"] for row in rows], flush=True)


if __name__ == "__main__":
    main()
