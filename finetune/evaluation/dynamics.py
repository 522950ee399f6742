"""Stability in molecular dynamics: trajectories of a potential and its baseline, and a summary."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter as Tally
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain, product
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
from ase import Atoms
from ase.io.trajectory import Trajectory
from rich.table import Table
from rich.text import Text

from finetune.core import run_files
from finetune.core.counter import Counter
from finetune.core.errors import (
    DataError,
    RecipeError,
    RunFolderError,
    RunStoppedError,
    system_errors,
)
from finetune.core.files import alone, write_json
from finetune.core.process import StopSignals
from finetune.data.structures import to_atoms
from finetune.evaluation.baseline import evenly_spaced, open_pair, structures_for
from finetune.evaluation.distances import (
    Array,
    at_temperature,
    bond_distances,
    comparable,
    distribution_distance,
    find_bonds,
    mean_lengths,
)
from finetune.evaluation.folder import check_folder, clear_folder, folder_for
from finetune.evaluation.multiple_time_steps import MixedForces
from finetune.evaluation.tables import cell, new_table
from finetune.evaluation.trajectory import RECORDED, Ensemble, Settings, Task, TrajectoryRun, record
from finetune.export.calculator import PotentialCalculator

RESULT = "stability.json"
_WRITTEN = rf"({re.escape(RESULT)}|nv[et]-.*K-structure\d+-replica\d+\.(traj|json|cut|state\.npz))"
FILES = re.compile(rf"{_WRITTEN}|\.{_WRITTEN}\.[^.]*")
"""Names of the files that a test writes, and of what a kill leaves of them."""
SETTLED = 0.2
"""Share of a trajectory that distributions leave out at its start."""
MOST_STEPS = 10**9
"""Of a trajectory; more would take years."""
MdForces = Literal["head", "gradient", "mixed"]
"""Which forces move the atoms."""
GRADIENT_EVERY = 4
"""Steps between two evaluations of −dE/dr, unless another number is given."""


@system_errors()
def md(
    path: str | Path,
    files: str | Path | Sequence[str | Path] = (),
    *,
    ensembles: Sequence[str] = ("nvt", "nve"),
    temperatures: Sequence[float] = (300.0,),
    structures: int = 1,
    replicas: int = 3,
    settings: Settings | None = None,
    reference: str | Path | Sequence[str | Path] = (),
    to: str | Path | None = None,
    overwrite: bool = False,
    against: str | Path | None = None,
    head: str | None = None,
    against_head: str | None = None,
    forces: MdForces | None = None,
    gradient_every: int | None = None,
    device: str = "auto",
    dtype: str = "float64",
    counter: Counter | None = None,
) -> Stability:
    """Run molecular dynamics with a potential and its baseline until it fails.

    A test that was stopped in the folder is resumed.

    Args:
        path: Run folder, stored potential, ``.model`` file, or name in the catalogue.
        files: Structures to start from; by default those that the run was tested on.
        ensembles: ``nvt`` (Langevin), ``nve`` or both.
        temperatures: K, of the thermostat and of the first velocities.
        structures: How many to start from, evenly spaced in the files.
        replicas: Trajectories from each, with other velocities and noise.
        settings: Length, time step, friction, limits.
        reference: Frames to compare distances with; those of the same atoms are used and, of
            molecules with a limit on bonds, of the same bonds. By default ``files``.
        to: Folder for trajectories and results; by default ``stability/`` in the run folder.
        overwrite: Whether another test there may be replaced.
        against: The baseline; by default the foundation that ``path`` was tuned from.
        head: Name of the head of ``path`` that predicts.
        against_head: Name of the head of ``against`` that predicts.
        forces: Of potentials with a head for forces: ``head`` (the default), ``gradient`` (−dE/dr),
            or ``mixed``, see `MixedForces`. Others always have −dE/dr.
        gradient_every: Of ``mixed``: steps between two evaluations of −dE/dr, 4 by default.
        device: ``auto``, ``cpu`` or a CUDA device.
        dtype: ``float64`` or ``float32``.
        counter: Shows the progress.

    Raises:
        RecipeError: For an unknown ensemble, numbers that make no test, or forces of a head where
            no potential has one.
        FoundationError: If there is no potential at ``path``.
        DataError: For files that cannot be used, or an element that a potential does not know.
        RunFolderError: If the folder holds another test.
        RunStoppedError: If a signal came; the same call resumes the test.
    """
    settings = settings or Settings()
    _check_test(ensembles, temperatures, structures, replicas, settings)
    _check_forces(forces, gradient_every)
    folder = folder_for(path, to, run_files.STABILITY)
    check_folder(folder, FILES)
    pair = open_pair(path, against, head, against_head, device, dtype)
    direct = [name for name, item in pair.potentials.items() if item.direct_forces]
    if forces not in (None, "gradient") and not direct:
        raise RecipeError(
            f"forces is '{forces}', but {' and '.join(pair.names[: len(pair.potentials)])} has no "
            "head for forces. Leave it out, or choose gradient."
        )
    found = structures_for(pair, path, files)
    chosen = evenly_spaced(found, structures)
    for item in chosen:
        if len(item) < 2:
            raise DataError(f"{item.where} is a single atom, which has no dynamics.")
    starts = [to_atoms(item) for item in chosen]
    known = structures_for(pair, path, reference) if reference else found
    frames = [to_atoms(item) for item in known]
    compared = [
        [item for item in frames if comparable(item, start, settings.limits.bond > 0)]
        for start in starts
    ]
    if reference and not any(compared):
        raise DataError(
            f"no structure of the reference has the same atoms as {chosen[0].where}, in the same "
            "order and, of molecules, with the same bonds. Name another --reference."
        )
    conditions = product(dict.fromkeys(ensembles), dict.fromkeys(map(float, temperatures)))
    places = product(range(len(starts)), range(replicas))
    tasks = [Task(cast(Ensemble, e), t, *place) for (e, t), place in product(conditions, places)]
    every = gradient_every or GRADIENT_EVERY
    calculators = {
        name: PotentialCalculator(item)
        if name not in direct
        else MixedForces(item, every)
        if forces == "mixed"
        else PotentialCalculator(item, forces=forces)
        for name, item in pair.potentials.items()
    }
    used = f"mixed, −dE/dr every {every} steps" if forces == "mixed" else forces or "head"
    fingerprints = {name: item.fingerprint for name, item in pair.opened.items()}
    test = (calculators, fingerprints, starts, compared, tasks, settings, folder)
    with alone(folder):
        if overwrite:
            clear_folder(folder, FILES)
        return run_all(*test, counter, pair.note, dict.fromkeys(direct, used))


def _check_forces(forces: str | None, gradient_every: int | None) -> None:
    known = get_args(MdForces)
    if forces not in (None, *known):
        raise RecipeError(f"forces is '{forces}'; choose {', '.join(known[:-1])} or {known[-1]}.")
    if gradient_every is not None and forces != "mixed":
        raise RecipeError("gradient_every is for forces 'mixed'. Choose that, or leave it out.")
    if gradient_every is not None and gradient_every < 1:
        raise RecipeError(f"gradient_every is {gradient_every}; it must be above zero.")


def _check_test(
    ensembles: Sequence[str],
    temperatures: Sequence[float],
    structures: int,
    replicas: int,
    settings: Settings,
) -> None:
    for given, what in ((ensembles, "ensemble"), (temperatures, "temperature")):
        if not given:
            raise RecipeError(f"no {what} is named.")
    known = get_args(Ensemble)
    for ensemble in ensembles:
        if ensemble not in known:
            raise RecipeError(f"ensemble is '{ensemble}'; choose {' or '.join(known)}.")
    numbers = [
        *(("temperature", value) for value in temperatures),
        *(("structures", structures), ("replicas", replicas)),
        *(("length", settings.length), ("time step", settings.time_step)),
        *(("friction", settings.friction), ("interval", settings.interval)),
        *((f"{name} limit", value) for name, value in asdict(settings.limits).items()),
    ]
    for name, value in numbers:
        unchecked = ", or zero to check none" if name == "bond limit" else ""
        if not (0 < value < math.inf or (unchecked and value == 0)):
            raise RecipeError(f"{name} is {value:g}; it must be above zero and finite{unchecked}.")
    if settings.steps > MOST_STEPS:
        raise RecipeError(
            f"length {settings.length:g} ps by time step {settings.time_step:g} fs are "
            f"{settings.steps:.3g} steps; at most {MOST_STEPS:.3g} can be run."
        )


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
    forces: Mapping[str, str] | None = None,
) -> Stability:
    """Run every trajectory that is not in the folder yet, and sum up.

    The first arguments are by name of the potential. ``references`` are for each start the frames
    of the same atoms to compare distributions with. ``forces`` says which forces those with a head
    for forces use. Unfinished trajectories are resumed. Raises RunFolderError if the folder holds
    another test, RunStoppedError (all is saved) for a signal.
    """
    counter, forces = counter or Counter(), forces or {}
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in calculators}
    both = zip(starts, references, strict=True)
    lengths = [mean_lengths(find_bonds(atoms), known) for atoms, known in both]
    places = {name: folder / re.sub(r"[^\w.-]", "_", name) for name in calculators}
    jobs = []
    for name, task in product(calculators, tasks):
        start, known = starts[task.structure], references[task.structure]
        compared = (start, known, lengths[task.structure])
        identity = _identity(fingerprints[name], *compared, settings, forces.get(name))
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
            given = (start, calculators[name], task, settings, identity, place)
            run = TrajectoryRun(*given, lengths[task.structure])
            if not run.run(lambda: signals.received is not None, counter.advance):
                assert signals.received is not None
                reached = f"{name} {task.name} at {run.progress.step} of {settings.steps} steps"
                raise RunStoppedError(f"{reached}; all is saved.", 128 + signals.received)
            item = record(run, _compared(run, known))
            found[name].append(item)
            counter.advance(settings.steps - item["steps"])
            ending = f"held for {item['stable_ps']:g} ps"
            if item["failure"] is not None:
                ending = f"failed after {item['stable_ps']:.4g} ps: {item['failure']}"
            counter.say(f"{name} {task.name}: {ending}")
    outcome = Stability(
        folder=folder,
        length=settings.length,
        names=tuple(calculators),
        trajectories=found,
        floor=_floor(references, tasks),
        periodic=any(bool(atoms.pbc.all()) for atoms in starts),
        note=note,
        forces=forces,
    )
    write_json(folder / RESULT, outcome.as_dict())
    return outcome


def _identity(
    fingerprint: str,
    start: Atoms,
    reference: Sequence[Atoms],
    lengths: Array | None,
    settings: Settings,
    forces: str | None = None,
) -> str:
    """Return what must be the same for a trajectory to be used or resumed, as JSON."""
    compared = [array for atoms in reference for array in (atoms.positions, atoms.cell.array)]
    arrays = [start.numbers, start.positions, start.cell.array, start.pbc]
    arrays += compared if lengths is None else [lengths]
    geometry = hashlib.sha256()
    for array in arrays:
        geometry.update(np.ascontiguousarray(array).tobytes())
    content = {"potential": fingerprint, "start": geometry.hexdigest(), **asdict(settings)}
    if forces is not None:
        content["forces"] = forces
    return json.dumps(content, sort_keys=True)


def _done(path: Path, identity: str) -> dict[str, Any] | None:
    """Return the record of a finished trajectory; refuse a damaged one, or one of another test."""
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


def _compared(run: TrajectoryRun, known: Sequence[Atoms]) -> dict[str, Any]:
    """Compare a trajectory's frames, without the first ones, with those of the reference."""
    kept = len(run.progress.rows)
    with Trajectory(str(run.frames)) as stored:
        frames = [stored[index] for index in range(round(SETTLED * kept), kept)]
    bonds = bond_distances(run.watch.bonds, frames, known) if known else {}
    return {
        "bond_distances": bonds,
        "bond_distance": _mean(list(bonds.values())),
        "distribution_distance": distribution_distance(frames, known) if known else None,
    }


def _floor(references: Sequence[Sequence[Atoms]], tasks: Sequence[Task]) -> dict[str, float]:
    """Return the distance between two halves of each reference."""
    found = {}
    for task in tasks:
        known = at_temperature(references[task.structure], task.temperature)
        halves = distribution_distance(known[::2], known[1::2]) if len(known) > 1 else None
        if halves is not None:
            found[f"structure {task.structure}, {task.temperature:g} K"] = halves
    return found


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


@dataclass(frozen=True)
class Stability:
    """The trajectories of a test."""

    folder: Path  # has a folder for each potential
    length: float  # ps of a whole trajectory
    names: tuple[str, ...]  # the baseline first
    trajectories: dict[str, list[dict[str, Any]]]  # by potential, of `trajectory.record`
    floor: dict[str, float]  # between halves of the references: what sampling alone makes
    periodic: bool  # whether any start has a cell in all directions
    note: str = ""
    # by potential, of those with a head for forces: the forces that moved the atoms
    forces: Mapping[str, str] = field(default_factory=dict)

    def summary(self) -> list[dict[str, Any]]:
        """Return one row for each ensemble, temperature and potential.

        ``stable_ps`` is the mean time to failure (ps), the test's length without one; ``drift`` the
        mean absolute drift of the total energy of NVE (meV/atom/ps); ``bond_distance`` (Å) and
        ``distribution_distance`` are means; None where nothing was measured.
        """
        rows = []
        records = chain.from_iterable(self.trajectories.values())
        conditions = dict.fromkeys((item["ensemble"], item["temperature"]) for item in records)
        measured = ("mean_temperature", "bond_distance", "distribution_distance")
        for (ensemble, temperature), name in product(conditions, self.names):
            here, of_potential = (ensemble, temperature), self.trajectories[name]
            chosen = [r for r in of_potential if (r["ensemble"], r["temperature"]) == here]
            drifts = [item["drift"] for item in chosen if item["drift"] is not None]
            rows.append(
                {
                    "ensemble": ensemble,
                    "temperature": temperature,
                    "potential": name,
                    **({"forces": self.forces[name]} if name in self.forces else {}),
                    "trajectories": len(chosen),
                    "survived": sum(item["failure"] is None for item in chosen),
                    "failures": dict(Tally(r["failure"] for r in chosen if r["failure"])),
                    "stable_ps": _mean([item["stable_ps"] for item in chosen]),
                    "drift": _mean([abs(drift) for drift in drifts]),
                    **{key: _mean([item[key] for item in chosen]) for key in measured},
                }
            )
        return rows

    def table(self) -> Table:
        """Return the summary as a table for the terminal."""
        rows = self.summary()
        table = new_table(
            f"stability, trajectories of {self.length:g} ps",
            ["dynamics", "potential"],
            [
                *("held", "stable\nps", "drift*", "T\nK", "bonds\nmÅ"),
                f"{'g(r)' if self.periodic else 'h(r)'}\noff",
            ],
            "\n".join(self._remarks(rows)),
        )
        before = ""
        for row in rows:
            dynamics = _dynamics(row)
            if before and dynamics != before:
                table.add_section()
            table.add_row(
                dynamics if dynamics != before else "",
                Text(row["potential"]),
                f"{row['survived']}/{row['trajectories']}",
                cell(row["stable_ps"]),
                cell(row["drift"], 3),
                cell(row["mean_temperature"], 0),
                cell(row["bond_distance"], 1, 1000),
                cell(row["distribution_distance"], 3),
            )
            before = dynamics
        return table

    def _remarks(self, rows: Sequence[Mapping[str, Any]]) -> list[str]:
        """Return what explains the table, and how trajectories failed."""
        lines = ["* of the total energy, meV/atom/ps"]
        lines += [f"forces of {name}: {used}" for name, used in self.forces.items()]
        for row in rows:
            if row["failures"]:
                causes = ", ".join(f"{count} × {name}" for name, count in row["failures"].items())
                lines.append(f"{row['potential']}, {_dynamics(row)}, failed by: {causes}")
        if self.floor and any(row["distribution_distance"] is not None for row in rows):
            floor = ", ".join(f"{value:.3f} ({name})" for name, value in self.floor.items())
            lines.append(f"last column: two halves of the reference differ by {floor}")
        return lines

    def as_dict(self) -> dict[str, Any]:
        """Return summary and trajectories, ready for JSON."""
        return {
            "folder": str(self.folder),
            "length_ps": self.length,
            "names": list(self.names),
            "summary": self.summary(),
            "reference_against_itself": self.floor,
            "trajectories": self.trajectories,
            "note": self.note,
            **({"forces": dict(self.forces)} if self.forces else {}),
        }


def _dynamics(row: Mapping[str, Any]) -> str:
    return f"{row['ensemble'].upper()} {row['temperature']:g} K"
