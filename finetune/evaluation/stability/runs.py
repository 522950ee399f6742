"""All trajectories of a stability test, for each potential in turn."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.io.trajectory import Trajectory

from finetune.errors import RunFolderError, RunStoppedError
from finetune.evaluation.counter import Counter
from finetune.evaluation.stability.distributions import (
    at_temperature,
    bond_distances,
    distribution_distance,
)
from finetune.evaluation.stability.failure import Array, find_bonds, mean_lengths
from finetune.evaluation.stability.outcome import Stability
from finetune.evaluation.stability.trajectory import RECORDED, Settings, Task, TrajectoryRun, record
from finetune.training.interruption import StopSignals

_WRITTEN = r"(stability\.json|nv[et]-.*K-structure\d+-replica\d+\.(traj|json|cut|state\.npz))"
FILES = re.compile(rf"{_WRITTEN}|\.{_WRITTEN}\.[^.]*")
"""Names of the files that a test writes, and of what a kill leaves of them."""
SETTLED = 0.2
"""Share of a trajectory that distributions leave out at its start."""


def run_all(
    calculators: Mapping[str, Any],
    fingerprints: Mapping[str, str],
    starts: Sequence[Atoms],
    references: Sequence[Sequence[Atoms]],
    tasks: Sequence[Task],
    settings: Settings,
    folder: Path,
    counter: Counter | None = None,
    note: str = "",
) -> Stability:
    """Run every trajectory that the folder does not hold yet, and sum up.

    Args:
        calculators: ASE calculators by name of the potential.
        fingerprints: What tells the potentials apart, by the same names.
        starts: Starting structures.
        references: For each of them, frames of the same atoms to compare distributions with.
        tasks: Which trajectories.
        settings: What they have in common.
        folder: Where they go; what is there of the same test is taken up.
        counter: Shows the progress.
        note: What a reader of the result should know.

    Raises:
        RunFolderError: If the folder holds another test.
        RunStoppedError: If a signal came; what was done is saved.
    """
    counter = counter or Counter()
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in calculators}
    lengths = [
        mean_lengths(find_bonds(atoms), known)
        for atoms, known in zip(starts, references, strict=True)
    ]
    places = {name: folder / _file_name(name) for name in calculators}
    jobs = []
    for name, task in product(calculators, tasks):
        start, known = starts[task.structure], references[task.structure]
        identity = _identity(fingerprints[name], start, known, lengths[task.structure], settings)
        done = _done(places[name] / f"{task.name}.json", identity)
        jobs.append((name, task, identity, done))
    waiting = sum(done is None for *_, done in jobs)
    if waiting:
        ready = f"; done before: {len(jobs) - waiting}" if waiting < len(jobs) else ""
        counter.say(f"trajectories to run: {waiting}, of {settings.steps} steps each{ready}")
    with StopSignals() as signals, counter.start(waiting * settings.steps):
        for name, task, identity, done in jobs:
            if done is not None:
                found[name].append(done)
                continue
            start, place = starts[task.structure], places[name]
            known = at_temperature(references[task.structure], task.temperature)
            place.mkdir(parents=True, exist_ok=True)
            counter.name(f"{name} {task.name}")
            run = TrajectoryRun(
                *(start, calculators[name], task, settings, identity, place),
                lengths=lengths[task.structure],
            )
            if not run.run(lambda: signals.received is not None, counter.advance):
                assert signals.received is not None
                raise RunStoppedError(
                    f"{name} {task.name} at {run.progress.step} of {settings.steps} steps; "
                    "all is saved.",
                    128 + signals.received,
                )
            item = record(run, _measured(run, start, known))
            found[name].append(item)
            counter.advance(settings.steps - item["steps"])
            counter.say(f"{name} {task.name}: {_told(item)}")
    outcome = Stability(
        folder=folder,
        length=settings.length,
        names=tuple(calculators),
        trajectories=found,
        floor=_floor(references, tasks),
        periodic=any(bool(atoms.pbc.all()) for atoms in starts),
        note=note,
    )
    outcome.write()
    return outcome


def _measured(run: TrajectoryRun, start: Atoms, known: Sequence[Atoms]) -> dict[str, Any]:
    """Compare a trajectory's frames, without the first ones, with those of the reference."""
    kept = len(run.progress.rows)
    with Trajectory(str(run.frames)) as stored:
        frames = [stored[index] for index in range(round(SETTLED * kept), kept)]
    bonds = bond_distances(run.watch.bonds, frames, known) if known else {}
    return {
        "bond_distances": bonds,
        "bond_distance": float(np.mean(list(bonds.values()))) if bonds else None,
        "distribution_distance": distribution_distance(frames, known) if known else None,
    }


def _floor(references: Sequence[Sequence[Atoms]], tasks: Sequence[Task]) -> dict[str, float]:
    found = {}
    for task in tasks:
        known = at_temperature(references[task.structure], task.temperature)
        halves = distribution_distance(known[::2], known[1::2]) if len(known) > 1 else None
        if halves is not None:
            found[f"structure {task.structure}, {task.temperature:g} K"] = halves
    return found


def _identity(
    fingerprint: str,
    start: Atoms,
    reference: Sequence[Atoms],
    lengths: Array | None,
    settings: Settings,
) -> str:
    """Return what must be the same for a trajectory to be taken up, as JSON."""
    geometry = hashlib.sha256()
    for array in (start.numbers, start.positions, start.cell.array, start.pbc):
        geometry.update(np.ascontiguousarray(array).tobytes())
    if lengths is not None:
        geometry.update(np.asarray(lengths).tobytes())
    else:
        for atoms in reference:
            for array in (atoms.positions, atoms.cell.array):
                geometry.update(np.ascontiguousarray(array).tobytes())
    content = {"potential": fingerprint, "start": geometry.hexdigest(), **asdict(settings)}
    return json.dumps(content, sort_keys=True)


def _done(path: Path, identity: str) -> dict[str, Any] | None:
    """Return the record of a trajectory that is done.

    Raises:
        RunFolderError: If it is one of another test.
    """
    if not path.is_file():
        return None
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        same = found["identity"] == json.loads(identity)
        if not found.keys() >= RECORDED:
            raise KeyError(RECORDED - found.keys())
    except (ValueError, KeyError, TypeError):
        raise RunFolderError(
            f"'{path}' is damaged. Remove it, choose another --to, or add --overwrite."
        ) from None
    if not same:
        raise RunFolderError(
            f"'{path}' belongs to a test with other settings, another potential or another "
            "reference. Choose another --to, or add --overwrite."
        )
    return found


def _told(item: Mapping[str, Any]) -> str:
    if item["failure"] is None:
        return f"held for {item['stable_ps']:g} ps"
    return f"failed after {item['stable_ps']:.4g} ps: {item['failure']}"


def _file_name(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name)
