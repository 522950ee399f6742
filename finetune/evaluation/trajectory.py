"""One trajectory: run, watched for failures, saved, and resumed after a kill."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from ase import Atoms, units
from ase.constraints import FixCom
from ase.io.trajectory import Trajectory
from ase.md.langevin import Langevin
from ase.md.verlet import VelocityVerlet
from ase.neighborlist import natural_cutoffs, neighbor_list
from numpy.typing import NDArray

from finetune.core.errors import FinetuneError, RunFolderError
from finetune.core.files import write_atomically, write_json
from finetune.evaluation.distances import Array, find_bonds
from finetune.evaluation.multiple_time_steps import MixedForces

Ensemble = Literal["nve", "nvt"]
SAVE_SECONDS = 10.0
"""Seconds between two saved states."""
PAIRS_EVERY = 10
"""Steps between two searches for lost and colliding atoms."""


@dataclass(frozen=True)
class Limits:
    """How far a trajectory may go before it counts as failed.

    Attributes:
        bond: Å that a bond may be longer or shorter than in the reference; 0 checks no bonds, for
            liquids and reactions.
        lost: Å; an atom is lost if no other atom is this near.
        collision: Two atoms closer than this share of the sum of their covalent radii collide.
        temperature: Largest kinetic temperature, in multiples of the target; larger for few degrees
            of freedom, which fluctuate more.
        energy: eV/atom that the potential energy may differ from the start's.
        drift: eV/atom that the total energy may differ from the start's, without a thermostat.
    """

    bond: float = 0.5
    lost: float = 4.0
    collision: float = 0.4
    temperature: float = 5.0
    energy: float = 1.0
    drift: float = 0.1


@dataclass(frozen=True)
class Settings:
    """Settings that all trajectories of a test share.

    Attributes:
        length: ps.
        time_step: fs.
        friction: Of the Langevin thermostat, 1/fs.
        interval: fs between two saved frames.
        seed: Of velocities and noise.
        limits: What counts as failure.
    """

    length: float = 5.0
    time_step: float = 0.5
    friction: float = 0.01
    interval: float = 10.0
    seed: int = 0
    limits: Limits = Limits()

    @property
    def steps(self) -> int:
        """Steps of a whole trajectory."""
        return max(round(1000.0 * self.length / self.time_step), 1)

    @property
    def every(self) -> int:
        """Steps between two saved frames."""
        return max(round(self.interval / self.time_step), 1)


@dataclass(frozen=True)
class Task:
    """Which trajectory: ensemble, temperature (K), starting structure and replica by number."""

    ensemble: Ensemble
    temperature: float
    structure: int
    replica: int

    @property
    def name(self) -> str:
        """The stem of its file names."""
        kelvin = f"{self.temperature:.15g}K"
        return f"{self.ensemble}-{kelvin}-structure{self.structure}-replica{self.replica}"

    def noise(self, seed: int) -> np.random.Generator:
        """Return the generator of its velocities and noise, the same for every potential."""
        place = [self.structure, self.replica, round(1000 * self.temperature)]
        return np.random.default_rng([seed, int(self.ensemble == "nvt"), *place])


class Watch:
    """Checks whether, and how, a trajectory has failed.

    ``start`` has a calculator and momenta. ``lengths`` ``[b]``, Å, are those that its bonds should
    have; its own if None.
    """

    def __init__(
        self,
        start: Atoms,
        limits: Limits,
        temperature: float,
        ensemble: Ensemble,
        lengths: Array | None = None,
    ) -> None:
        self.limits, self.ensemble = limits, ensemble
        self.bonds = find_bonds(start)
        self.lengths = self.bonds.lengths if lengths is None else lengths
        self.alone = _alone(start, limits.lost)
        freedom = max(start.get_number_of_degrees_of_freedom(), 1)
        self.hottest = temperature * max(limits.temperature, 1.0 + 12.0 * (2.0 / freedom) ** 0.5)
        self.potential = start.get_potential_energy()
        self.total = self.potential + start.get_kinetic_energy()

    def fault(self, atoms: Atoms, pairs: bool = True) -> str | None:
        """Return what is wrong with a frame, in a word; ``pairs`` checks distances too (slower)."""
        potential, kinetic = atoms.get_potential_energy(), atoms.get_kinetic_energy()
        if not np.isfinite([potential, kinetic]).all() or not np.isfinite(atoms.positions).all():
            return "not finite"
        if atoms.get_temperature() > self.hottest:
            return "temperature"
        if abs(potential - self.potential) > self.limits.energy * len(atoms):
            return "energy"
        moved = abs(potential + kinetic - self.total)
        if self.ensemble == "nve" and moved > self.limits.drift * len(atoms):
            return "energy"
        off = np.abs(self.bonds.measure(atoms) - self.lengths)
        if off.max(initial=0.0) > self.limits.bond > 0:
            return "bond"
        if not pairs:
            return None
        if (_alone(atoms, self.limits.lost) & ~self.alone).any():
            return "lost atom"
        reach = natural_cutoffs(atoms, mult=self.limits.collision)
        return "collision" if len(neighbor_list("i", atoms, reach)) else None


def _alone(atoms: Atoms, reach: float) -> NDArray[np.bool_]:
    """Return which atoms have no other atom (nor image) within ``reach``."""
    alone = np.ones(len(atoms), dtype=bool)
    alone[neighbor_list("i", atoms, reach)] = False
    return alone


@dataclass
class Progress:
    """How far a trajectory is."""

    step: int
    fault: str | None
    rows: list[tuple[float, float, float, float]]  # ps, potential and kinetic eV, K, by frame


class TrajectoryRun:
    """A trajectory of one potential, with its own files: frames (``.traj``), a state while it runs.

    A saved state in the potential's folder is resumed only if it has the same ``identity`` (JSON).
    """

    def __init__(
        self,
        start: Atoms,
        calculator: Any,
        task: Task,
        settings: Settings,
        identity: str,
        folder: Path,
        lengths: Array | None,
    ) -> None:
        self.task, self.settings, self.identity = task, settings, identity
        self.frames = folder / f"{task.name}.traj"
        self.state = folder / f"{task.name}.state.npz"
        self.rng = task.noise(settings.seed)
        self.mixed = calculator if isinstance(calculator, MixedForces) else None
        period = self.mixed.every if self.mixed is not None else 1
        self.every = -(-settings.every // period) * period  # frames at steps with an impulse
        self.atoms = start.copy()
        self.atoms.set_constraint(FixCom())
        self.atoms.calc = calculator
        spread = np.sqrt(self.atoms.get_masses() * units.kB * task.temperature)
        self.atoms.set_momenta(spread[:, None] * self.rng.standard_normal((len(start), 3)))
        self._enter(0)
        self.watch = Watch(self.atoms, settings.limits, task.temperature, task.ensemble, lengths)
        self.progress = self._restored() or Progress(0, None, [])
        if self.progress.fault is None:
            self._enter(self.progress.step)

    def run(self, stop: Callable[[], bool], tick: Callable[[int], None]) -> bool:
        """Run to the end, to a failure, or until ``stop``, called after every step, returns True.

        ``tick`` gets the number of steps done since its last call. Returns whether the trajectory
        is done; if not, its state is saved.
        """
        progress, settings = self.progress, self.settings
        saved = time.monotonic()
        tick(progress.step)
        with Trajectory(str(self.frames), "a" if progress.rows else "w") as frames:
            if not progress.rows:
                progress.fault = self._check(0)
                self._keep(frames)
            dynamics = self._dynamics()
            while progress.step < settings.steps and progress.fault is None:
                progress.fault = self._step(dynamics)
                progress.step += 1
                tick(1)
                if progress.fault in ("bond", "lost atom", "temperature", "energy"):
                    frames.write(self.atoms)  # for the user to look at
                elif progress.fault is None and progress.step % self.every == 0:
                    self._keep(frames)
                if stop():
                    self._save()
                    return False
                if time.monotonic() - saved > SAVE_SECONDS:
                    self._save()
                    saved = time.monotonic()
        return True

    def _enter(self, step: int) -> None:
        """Compute the forces of a step at which dynamics begin."""
        if self.mixed is not None:
            self.mixed.reset()
            self.mixed.step = step
            self.atoms.get_forces()

    def _step(self, dynamics: Any) -> str | None:
        if self.mixed is not None:
            self.mixed.step = self.progress.step + 1
        try:
            with np.errstate(all="ignore"):
                dynamics.step()
                return self._check(self.progress.step + 1)
        except FinetuneError:  # the calculator refuses colliding and non-finite atoms
            return "collision" if np.isfinite(self.atoms.positions).all() else "not finite"

    def _check(self, step: int) -> str | None:
        last = step >= self.settings.steps
        return self.watch.fault(self.atoms, pairs=last or step % PAIRS_EVERY == 0)

    def _dynamics(self) -> Any:
        step = self.settings.time_step * units.fs
        if self.task.ensemble == "nve":
            return VelocityVerlet(self.atoms, timestep=step)
        bath = {"temperature_K": self.task.temperature, "rng": self.rng, "fixcm": False}
        return Langevin(self.atoms, step, friction=self.settings.friction / units.fs, **bath)

    def _keep(self, frames: Any) -> None:
        atoms, time_ps = self.atoms, self.progress.step * self.settings.time_step / 1000.0
        frames.write(atoms)
        energies = float(atoms.get_potential_energy()), float(atoms.get_kinetic_energy())
        self.progress.rows.append((time_ps, *energies, float(atoms.get_temperature())))

    def _save(self) -> None:
        content = io.BytesIO()
        np.savez(
            content,
            identity=np.array(self.identity),
            step=np.array(self.progress.step),
            fault=np.array(self.progress.fault or ""),
            rows=np.array(self.progress.rows),
            positions=self.atoms.positions,
            momenta=self.atoms.get_momenta(),
            noise=np.array(json.dumps(self.rng.bit_generator.state)),
        )
        write_atomically(self.state, content.getvalue())

    def _restored(self) -> Progress | None:
        """Resume a saved state and cut off later frames; None where there is no state."""
        if not self.state.is_file():
            return None
        try:
            with np.load(self.state, allow_pickle=False) as stored:
                found: dict[str, NDArray[Any]] = dict(stored)
            rows = [tuple(row) for row in found["rows"].tolist()]
            with Trajectory(str(self.frames)) as frames:
                kept = [frames[index] for index in range(len(rows))]
        except Exception:  # damaged files raise anything: start from the beginning
            return None
        if str(found["identity"]) != self.identity:
            raise RunFolderError(
                f"'{self.state}' belongs to a test with other settings. Choose another --to, or "
                "add --overwrite."
            )
        rewritten = self.frames.with_suffix(".cut")
        with Trajectory(str(rewritten), "w") as writer:
            for atoms in kept:
                writer.write(atoms)
        rewritten.replace(self.frames)
        self.atoms.positions[:] = found["positions"]
        self.atoms.set_momenta(found["momenta"], apply_constraint=False)
        self.rng.bit_generator.state = json.loads(str(found["noise"]))
        return Progress(int(found["step"]), str(found["fault"]) or None, rows)


RECORDED = frozenset(
    {"ensemble", "temperature", "steps", "stable_ps", "failure", "drift", "mean_temperature"}
    | {"bond_distances", "bond_distance", "distribution_distance", "trajectory"}
)
"""Keys of the record of a trajectory, besides its identity."""


def record(run: TrajectoryRun, measured: dict[str, Any]) -> dict[str, Any]:
    """Write the results of a finished trajectory (ps, meV/atom/ps, K) next to its frames."""
    progress, atoms = run.progress, len(run.atoms)
    rows = np.array(progress.rows).reshape(-1, 4)
    time_ps, total = rows[:, 0], rows[:, 1] + rows[:, 2]
    drift = None
    if run.task.ensemble == "nve" and len(rows) >= 3:
        drift = float(1000.0 * np.polyfit(time_ps, total, 1)[0] / atoms)
    found = {
        "identity": json.loads(run.identity),
        **asdict(run.task),
        "steps": progress.step,
        "stable_ps": progress.step * run.settings.time_step / 1000.0,
        "failure": progress.fault,
        "drift": drift,
        "mean_temperature": float(rows[:, 3].mean()) if len(rows) else None,
        **measured,
        "trajectory": run.frames.name,
    }
    write_json(run.frames.with_suffix(".json"), found)
    run.state.unlink(missing_ok=True)
    return found
