"""One training run of a benchmark, and the choice among several by validation energies."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from records import Records

import finetune
from finetune.potentials.mace.potential import MacePotential
from finetune.potentials.storage import save

FOUNDATION = "tiny-xtb-hcno"
BATCH = 5
Losses = dict[str, dict[str, Any]]
Training = Callable[[int, Path], dict[str, Any]]


@dataclass(frozen=True)
class Case:
    """Structures to train, validate and test on.

    Attributes:
        name: What the case is called in the results.
        draws: Training structures of each draw; the number of the draw is the seed too.
        valid: Validation structures.
        tests: Test structures by name; read after all choices are made.
        forces: Whether forces of the training structures are labels too.
        keys: Names of the labels, where they are not ours.
        without_forces: Names of tests that have energies alone.
        foundation: What is fine-tuned.
    """

    name: str
    draws: Sequence[str]
    valid: str
    tests: Mapping[str, str]
    forces: bool = False
    keys: Mapping[str, str] = field(default_factory=dict)
    without_forces: frozenset[str] = frozenset()
    foundation: str = FOUNDATION


@dataclass(frozen=True)
class Trial:
    """What is trained: losses beside the supervised ones, learning rate, adapter.

    Without a learning rate the optimiser is Gauss-Newton, which has none.
    """

    losses: Losses
    learning_rate: float | None
    kind: str = "full"


def train(case: Case, trial: Trial, steps: int, draw: int, folder: Path) -> dict[str, Any]:
    """Train once in ``folder``; return validation energy MAE (meV) and processor time (s)."""
    settings: dict[str, Any] = {"optimiser": "gauss-newton"}
    if trial.learning_rate is not None:
        epochs = epochs_of(case, draw, steps)
        settings = {
            "epochs": epochs,
            "learning_rate": trial.learning_rate,
            "schedule": "cosine",
            "warmup_epochs": epochs // 20,
        }
    supervised: Losses = {"energy": {"weight": 1.0}}
    if case.forces:
        supervised["forces"] = {"weight": 1.0}
    started = time.process_time()
    result = finetune.run(
        {
            "foundation": case.foundation,
            "data": {
                "train": case.draws[draw],
                "valid": case.valid,
                **({"keys": dict(case.keys)} if case.keys else {}),
            },
            "adapter": {"kind": trial.kind},
            "losses": {**supervised, **trial.losses},
            "train": {**settings, "batch_size": BATCH, "seed": draw},
            "output": str(folder),
        },
        overwrite=True,
    )
    return {
        "valid energy_mae": 1000 * result.valid.finetuned.energy_mae,
        "seconds": time.process_time() - started,
    }


def errors_on_tests(case: Case, potential: Path) -> dict[str, Any]:
    """Errors in meV and meV/Å of a potential, and of its foundation, on all test sets."""
    found: dict[str, Any] = {}
    for name, files in case.tests.items():
        keys = dict(case.keys)
        if name in case.without_forces:
            keys.pop("forces", None)
        compared = finetune.evaluate(potential, files, keys or None)
        for side in ("foundation", "finetuned"):
            errors = getattr(compared, side)
            for what in ("energy_mae", "energy_shifted_mae", "forces_mae", "forces_rmse"):
                value = getattr(errors, what) if errors is not None else None
                if value is not None:
                    found[f"{name} {side} {what}"] = 1000 * value
    return found


def best_of(
    case: Case,
    arm: str,
    trials: Mapping[str, Training],
    records: Records,
    runs: Path,
    potential: str = "",
) -> dict[str, Any]:
    """Choose on the first draw, then train and test on all draws; what is recorded is not repeated.

    Args:
        case: Structures.
        arm: Name of the arm.
        trials: What to choose from, by name: trains a draw in a folder, see `train`.
        records: Where results are kept.
        runs: Folder for the runs; those of the choice are kept, the others removed.
        potential: File of the tuned potential in the folder of a run, if not the folder itself.

    Returns:
        ``chosen`` (name of the trial), ``choice`` (validation errors by name) and ``draws``.
    """
    name = f"{case.name} | {arm}"
    if name in records:
        return dict(records[name])
    for option, training in trials.items():
        place = f"{name} | {option}"
        if place not in records:
            records.keep(place, training(0, runs / file_name(place)))
    choice = {option: records[f"{name} | {option}"]["valid energy_mae"] for option in trials}
    chosen = min(choice, key=lambda option: choice[option])
    draws = []
    for draw in range(len(case.draws)):
        place = f"{name} | draw {draw}"
        if place not in records:
            folder, first = runs / file_name(place), runs / file_name(f"{name} | {chosen}")
            if draw == 0 and first.is_dir():
                shutil.rmtree(folder, ignore_errors=True)
                first.rename(folder)
                trained = records[f"{name} | {chosen}"]
            else:
                trained = trials[chosen](draw, folder)
            records.keep(place, {**trained, **errors_on_tests(case, folder / potential)})
        draws.append(records[place])
    for option in trials:
        shutil.rmtree(runs / file_name(f"{name} | {option}"), ignore_errors=True)
    records.keep(name, {"chosen": chosen, "choice": choice, "draws": draws})
    return dict(records[name])


def epochs_of(case: Case, draw: int, steps: int) -> int:
    """Return the epochs that make so many steps."""
    first, last = case.draws[draw].rpartition("@")[2].split(":")
    return max(1, steps * BATCH // (int(last) - int(first)))


def untrained(folder: Path) -> str:
    """Store the foundation's architecture with fresh weights in ``folder``, unless it is there."""
    if not folder.is_dir():
        foundation = finetune.load_foundation(FOUNDATION)
        assert isinstance(foundation.potential, MacePotential)
        torch.manual_seed(0)
        fresh = MacePotential.build(foundation.potential.settings)
        fresh.set_references(foundation.potential.references())
        save(fresh, folder, {})
    return str(folder)


def file_name(name: str) -> str:
    """Return a name of a result as the name of a folder."""
    return "".join(letter if letter.isalnum() or letter in ".-" else "_" for letter in name)
