"""Where do the weak losses help, and where not? Fine-tuning on 10, 25 and 100 ab initio energies.

    python tests/benchmarks/weak_losses.py --out tests/benchmarks/results/weak_losses.json

Resumes; processes may share the file, each with its --parts and --molecules. Every arm chooses
among three trials by the validation energies of the first draw of the labels: arms without weak
losses among learning rates, arms with them among weights, at the learning rate that the same
adapter chose without; the optimiser gauss-newton has nothing to choose. Then the trial is fixed and
trained on all draws, and only then are test sets read. `python docs/make_tables.py` writes
docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from records import Records
from trials import FOUNDATION, Case, Losses, Trial, best_of, train, untrained

import finetune

PARTS = ("energies", "forces", "ladder", "elsewhere")
MOLECULES = ("methanol", "ethanol")
LABELS = (25, 10, 100)
DRAWS = 3
RUNG_STEPS = 800
RATES = {
    "full": (3e-4, 1e-3, 3e-3),
    "ladder": (1e-4, 3e-4, 1e-3),
    "lora": (1e-3, 3e-3, 1e-2),
    "scratch": (1e-3, 3e-3, 1e-2),
}
ALONE, SCRATCH = "labels alone", "from scratch"
LORA, LORA_WEAK = "LoRA, labels alone", "LoRA, best weak loss"
LONGER = 5
LONG = f"{ALONE}, {LONGER} times the steps"

Weight = float | dict[str, Any]
"""Of a loss: a number, or a schedule."""
SOLVED = {"Gauss-Newton": "full", "Gauss-Newton, LoRA": "lora"}
"""Arms of the optimiser gauss-newton, labels alone, by adapter."""


def pitc(size: float, weight: Weight, **options: Any) -> Losses:
    return {"pitc": {"weight": weight, "displacement": size, **options}}


def both(size: float, first: Weight, second: float) -> Losses:
    return {**pitc(size, first), "pisc": {"weight": second, "displacement": size}}


def replay(weight: float) -> Losses:
    return {"replay": {"weight": weight, "displacement": 0.1}}


WEAK: dict[str, dict[str, Losses]] = {
    "PITC": {
        "0.01 Å, 0.1": pitc(0.01, 0.1),
        "0.01 Å, 1.2": pitc(0.01, 1.2),
        "0.03 Å, 0.3": pitc(0.03, 0.3),
    },
    "PITC + PISC": {
        "0.01 Å, 0.1 and 0.01": both(0.01, 0.1, 0.01),
        "0.01 Å, 1.2 and 0.01": both(0.01, 1.2, 0.01),
        "0.03 Å, 0.3 and 0.01": both(0.03, 0.3, 0.01),
    },
    "anchored PITC": {
        f"0.1 Å, {weight:g}": pitc(0.1, weight, anchored=True) for weight in (1e-3, 1e-2, 1e-1)
    },
    "replay": {f"0.1 Å, {weight:g}": replay(weight) for weight in (1e-5, 1e-4, 1e-3)},
    "anchored PITC + replay": {
        f"0.1 Å, {first:g} and {second:g}": {**pitc(0.1, first, anchored=True), **replay(second)}
        for first, second in ((1e-3, 1e-5), (1e-2, 1e-4), (1e-1, 1e-3))
    },
}
USUAL = tuple(WEAK)
SCHEDULED = "PITC + PISC, scheduled"
WEAK[SCHEDULED] = {
    "0.01 Å, 0 to 1.2": both(0.01, {"kind": "linear", "last": 1.2}, 0.01),
    "0.01 Å, 1.2 to 0": both(0.01, {"kind": "linear", "first": 1.2, "last": 0.0}, 0.01),
    "0.03 Å, 0 to 3": both(0.03, {"kind": "linear", "last": 3.0}, 0.01),
}
"""The weight of PITC rises or falls during the run."""
HEAVIER = "anchored PITC, heavier"
WEAK[HEAVIER] = {f"0.1 Å, {weight:g}": pitc(0.1, weight, anchored=True) for weight in (0.1, 1, 10)}
"""For larger molecules, of which one took the heaviest of the lighter ones."""
MAIN = ("PITC + PISC", "anchored PITC")
LADDER = ("PITC + PISC", "anchored PITC", "replay")
"""Arms beside the labels alone where there is not time for all."""
LONG_WEAK = {f"{arm}, {LONGER} times the steps": arm for arm in reversed(MAIN)}
"""Arms with weak losses in long runs, by what they are in short ones."""
ELSEWHERE = (*MAIN, HEAVIER, LONG, f"anchored PITC, {LONGER} times the steps")


def molecule(name: str, labels: int) -> Case:
    """Energies alone, CCSD(T), of data/ccsdt."""
    folder = f"data/ccsdt/{name}"
    return Case(
        f"{name}, {labels} energies",
        _draws(f"{folder}/train.xyz", 120, labels),
        f"{folder}/valid.xyz",
        {"test": f"{folder}/test.xyz", "scan": f"{folder}/scan.xyz"},
    )


def with_forces(name: str) -> Case:
    """Energies and forces, PBE0, of data/ccsdt: its pool holds training, validation and test."""
    pool = f"data/ccsdt/{name}/train_pbe0.xyz"
    return Case(
        f"{name}, PBE0, 25 energies and forces",
        _draws(pool, 60, 25),
        f"{pool}@60:80",
        {"test": f"{pool}@80:120"},
        forces=True,
    )


def ladder(name: str, labels: int, runs: Path) -> Case:
    """CCSD(T) energies after 100 PBE0 energies and forces, a rung that is trained once."""
    rung = runs / f"{name} PBE0"
    if not (rung / "result.json").is_file():
        pool = f"data/ccsdt/{name}/train_pbe0.xyz"
        case = Case("", [f"{pool}@0:100"], f"{pool}@100:120", {}, forces=True)
        train(case, Trial({}, 1e-3), RUNG_STEPS, 0, rung)
    case = molecule(name, labels)
    return replace(case, name=f"{case.name} after PBE0", foundation=str(rung))


def elsewhere(folder: Path) -> list[Case]:
    """Return the published sets that lie in ``folder``; docs/benchmarks.md says whence they are."""
    found = []
    acac = folder / "acac"
    if acac.is_dir():
        tests = {"test": "MD_300K", "600 K": "MD_600K", "dihedral": "dihedral"}
        tests["proton transfer"] = "H_transfer"
        case = Case(
            "acetylacetone, 25 energies",
            _draws(f"{acac}/train_300K.xyz", 400, 25),
            f"{acac}/train_300K.xyz@400:440",
            {name: f"{acac}/test_{file}.xyz" for name, file in tests.items()},
            keys={"energy": "energy", "forces": "forces"},
            without_forces=frozenset({"dihedral", "proton transfer"}),
        )
        found.append(case)
    formaldehyde = folder / "h2co_ccsdtf12" / "h2co_eV.extxyz"
    if formaldehyde.is_file():
        case = Case(
            "formaldehyde, 25 energies",
            _draws(str(formaldehyde), 2000, 25),
            f"{formaldehyde}@2000:2040",
            {"test": f"{formaldehyde}@2500:3000"},
        )
        found.append(case)
    return found


def _draws(pool: str, size: int, labels: int) -> list[str]:
    starts = [draw * (size - labels) // (DRAWS - 1) for draw in range(DRAWS)]
    return [f"{pool}@{start}:{start + labels}" for start in starts]


def run(case: Case, records: Records, options: argparse.Namespace, arms: tuple[str, ...]) -> None:
    """Run all arms of a case, those named in ``arms`` and the labels alone."""

    def chosen(
        arm: str, trials: dict[str, Trial], case: Case = case, times: int = 1
    ) -> dict[str, Any]:
        training = {
            name: partial(train, case, trial, times * options.steps)
            for name, trial in trials.items()
        }
        found = best_of(case, arm, training, records, options.runs)
        shown = ", ".join(
            f"{row['test finetuned energy_mae']:.1f} meV"
            f" {row.get('test finetuned forces_mae', float('nan')):.0f} meV/Å"
            for row in found["draws"]
        )
        print(f"{case.name} | {arm} ({found['chosen']}): {shown}", flush=True)
        return found

    def rates(kind: str, adapter: str = "full") -> dict[str, Trial]:
        return {f"{rate:g}": Trial({}, rate, adapter) for rate in RATES[kind]}

    def weights(arm: str, rate: float, adapter: str = "full") -> dict[str, Trial]:
        return {name: Trial(losses, rate, adapter) for name, losses in WEAK[arm].items()}

    for arm, adapter in SOLVED.items():
        chosen(arm, {"nothing to choose": Trial({}, None, adapter)})
    kind = "full" if case.foundation == FOUNDATION else "ladder"
    rate = float(chosen(ALONE, rates(kind))["chosen"])
    found = {arm: chosen(arm, weights(arm, rate)) for arm in WEAK if arm in arms}
    if LONG in arms:
        long = float(chosen(LONG, rates("full"), times=LONGER)["chosen"])
        for arm, short in LONG_WEAK.items():
            if arm in arms:
                chosen(arm, weights(short, long), times=LONGER)
    if LORA not in arms:
        return
    rate = float(chosen(LORA, rates("lora", "lora"))["chosen"])
    best = min(found, key=lambda arm: min(found[arm]["choice"].values()))
    trials = weights(best, rate, "lora")
    chosen(LORA_WEAK, {f"{best} {name}": trial for name, trial in trials.items()})
    fresh = replace(case, foundation=untrained(options.runs / "untrained"))
    chosen(SCRATCH, rates("scratch"), fresh)


def cases(options: argparse.Namespace) -> Iterator[tuple[Case, tuple[str, ...]]]:
    """Yield the chosen cases, each with its arms beside the labels alone."""
    if "energies" in options.parts:
        for labels in options.labels:
            for name in options.molecules:
                further = (SCHEDULED, *LONG_WEAK) if labels == 25 else ()
                yield molecule(name, labels), (*USUAL, LORA, LONG, *further)
    if "forces" in options.parts:
        for name in options.molecules:
            yield with_forces(name), (*MAIN, LONG)
    if "ladder" in options.parts:
        for labels in (10, 25):
            for name in options.molecules:
                yield ladder(name, labels, options.runs), LADDER
    if "elsewhere" in options.parts and options.elsewhere:
        for case in elsewhere(options.elsewhere):
            yield case, ELSEWHERE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/weak_losses.json"))
    parser.add_argument("--runs", type=Path, default=Path("runs/weak_losses"))
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=PARTS)
    parser.add_argument("--molecules", nargs="*", choices=MOLECULES, default=MOLECULES)
    parser.add_argument("--labels", nargs="*", type=int, default=LABELS, help="energies alone")
    parser.add_argument("--elsewhere", type=Path, help="folder with published sets, see the docs")
    options = parser.parse_args()
    fingerprint = finetune.load_foundation(FOUNDATION).fingerprint
    records = Records(options.out, {"foundation": fingerprint, "steps": options.steps})
    for case, arms in cases(options):
        run(case, records, options, arms)


if __name__ == "__main__":
    main()
