"""Training of the potential within a wall-clock budget, resumable from its checkpoint."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mace.modules.models import ScaleShiftMACE
from numpy.typing import NDArray

from .dataset import Configurations, load
from .generation import write_json
from .model import R_MAX, architecture, build, fit_atomic_energies
from .packing import Shape, pack, padded
from .predictions import force_and_energy_mae
from .step import Step, Tensors, compile_step, make_step


@dataclass(frozen=True)
class Schedule:
    """Learning rate, energy weight and data as functions of the progress, 0 to 1.

    From ``focus_from`` on, only ``focus_share`` of the configurations that are not thermal
    (dynamics up to 800 K) take part in a pass.
    """

    peak_rate: float = 8e-3
    last_rate: float = 5e-5
    warm_up: float = 0.01
    first_energy_weight: float = 2.0  # Å/atom
    last_energy_weight: float = 0.7
    energy_phase: tuple[float, float] = (0.55, 0.75)
    focus_from: float = 0.6
    focus_share: float = 0.1

    def rate(self, progress: float) -> float:
        """Linear warm-up, then half a cosine down to ``last_rate``."""
        if progress < self.warm_up:
            return self.peak_rate * max(progress / self.warm_up, 0.01)
        angle = math.pi * min(1.0, (progress - self.warm_up) / (1.0 - self.warm_up))
        return self.last_rate + 0.5 * (self.peak_rate - self.last_rate) * (1.0 + math.cos(angle))

    def energy_weight(self, progress: float) -> float:
        """Weight of the energy term, raised geometrically across ``energy_phase``."""
        start, end = self.energy_phase
        share = min(1.0, max(0.0, (progress - start) / (end - start)))
        return (
            self.first_energy_weight * (self.last_energy_weight / self.first_energy_weight) ** share
        )


@dataclass(frozen=True)
class Settings:
    """What a training run needs beyond the data; times in seconds."""

    budget_s: float
    seed: int
    shape: Shape = Shape(graphs=48, atoms=242, edges=2752)
    ema_decay: float = 0.999
    max_gradient_norm: float = 10.0
    check_every_s: float = 240.0
    validation_configurations: int = 400
    schedule: Schedule = Schedule()


class Trainer:
    """Adam on the mean of force and energy errors, with an exponential moving average."""

    def __init__(
        self, work: Path, settings: Settings, compiled: bool, foundation: Path | None = None
    ) -> None:
        self.settings = settings
        self.foundation = foundation
        self.folder = work / ("training" if foundation is None else "training-direct")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.data: Configurations = load(work / "configurations", R_MAX)
        split = self.data.splits(settings.seed)
        self.train = split["train"]
        rng = np.random.default_rng(settings.seed)
        self.valid = np.sort(rng.permutation(split["valid"])[: settings.validation_configurations])
        self.kwargs = self._kwargs()
        self.interaction_energy = (
            self.data.energy - self.data.composition() @ self.kwargs["atomic_energies"]
        )
        torch.manual_seed(settings.seed)
        self.model = self._model()
        self.parameters = [p.detach().clone().requires_grad_(True) for p in self.model.parameters()]
        self.average = [p.detach().clone() for p in self.parameters]
        self.optimizer = torch.optim.Adam(self.parameters, lr=1e-3, amsgrad=True, fused=True)
        self.updates, self.epoch, self.spent_s = 0, 0, 0.0
        self._resume()
        self.step = self._step(compiled)

    def _model(self) -> ScaleShiftMACE:
        if self.foundation is None:
            return build(self.kwargs, codegen=False)
        from .direct import DirectModel, start

        model = DirectModel(self.kwargs)
        start(model, self.foundation)
        return model

    def _kwargs(self) -> dict[str, Any]:
        path = self.folder / "kwargs.json"
        if self.foundation is not None and not path.exists():
            from .direct import arguments

            write_json(path, arguments(self.foundation))
        if not path.exists():
            energies = fit_atomic_energies(self.data, self.train)
            scale = float(np.sqrt(np.mean(self.data.forces**2)))
            write_json(path, architecture(energies, round(scale, 1)))
        return json.loads(path.read_text(encoding="utf-8"))

    def _step(self, compiled: bool) -> Step:
        step = make_step(self.model)
        if not compiled:
            return step
        start = time.monotonic()
        batch = next(self._batches())
        weight = torch.tensor(1.0)
        fast = compile_step(step, [p.detach() for p in self.parameters], batch, weight)
        with torch.no_grad():
            fast([p.detach() for p in self.parameters], batch, weight)
        self._log(event="compiled", wall_s=time.monotonic() - start)
        return fast

    def _batches(self) -> Iterator[Tensors]:
        rng = np.random.default_rng([self.settings.seed, self.epoch, self.updates])
        chosen_for_pass = self.train
        if self.spent_s / self.settings.budget_s >= self.settings.schedule.focus_from:
            thermal = (self.data.kind == "dynamics") & (self.data.temperature <= 800)
            lucky = rng.random(len(self.train)) < self.settings.schedule.focus_share
            chosen_for_pass = self.train[thermal[self.train] | lucky]
        for chosen in pack(self.data, chosen_for_pass, self.settings.shape, rng):
            yield padded(self.data, chosen, self.settings.shape, R_MAX, self.interaction_energy)

    def _resume(self) -> None:
        path = self.folder / "checkpoint.pt"
        if not path.exists():
            return
        stored = torch.load(path, weights_only=True)
        with torch.no_grad():
            for kind in ("parameters", "average"):
                for mine, theirs in zip(getattr(self, kind), stored[kind], strict=True):
                    mine.copy_(theirs)
        self.optimizer.load_state_dict(stored["optimizer"])
        self.updates, self.epoch = stored["updates"], stored["epoch"]
        self.spent_s = stored["spent_s"]

    def save(self) -> None:
        """Write the checkpoint, atomically."""
        temporary = self.folder / "checkpoint.tmp"
        torch.save(
            {
                "parameters": [p.detach() for p in self.parameters],
                "average": self.average,
                "optimizer": self.optimizer.state_dict(),
                "updates": self.updates,
                "epoch": self.epoch,
                "spent_s": self.spent_s,
            },
            temporary,
        )
        os.replace(temporary, self.folder / "checkpoint.pt")

    def _log(self, **entry: object) -> None:
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(entry) + "\n")

    def averaged_model(self) -> ScaleShiftMACE:
        """The model with the averaged parameters."""
        with torch.no_grad():
            for mine, theirs in zip(self.model.parameters(), self.average, strict=True):
                mine.copy_(theirs)
        return self.model

    def _update(self, batch: Tensors, progress: float) -> NDArray[np.float64]:
        schedule = self.settings.schedule
        weight = torch.tensor(schedule.energy_weight(progress))
        with torch.no_grad():
            loss, force, energy, *gradients = self.step(
                [p.detach() for p in self.parameters], batch, weight
            )
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.max_gradient_norm)
        if not torch.isfinite(norm):
            return np.full(3, np.nan)
        self.optimizer.param_groups[0]["lr"] = schedule.rate(progress)
        self.optimizer.step()
        self.updates += 1
        decay = min(self.settings.ema_decay, self.updates / (self.updates + 10.0))
        torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1.0 - decay)
        return np.array([loss.item(), force.item(), energy.item()])

    def check(self, progress: float, running: NDArray[np.float64]) -> None:
        """Log training and validation errors, and write the checkpoint."""
        force, energy = force_and_energy_mae(self.averaged_model(), self.data, self.valid)
        self._log(
            event="check",
            updates=self.updates,
            epoch=self.epoch,
            spent_s=self.spent_s,
            progress=progress,
            rate=self.settings.schedule.rate(progress),
            energy_weight=self.settings.schedule.energy_weight(progress),
            train_loss=running[0],
            train_force=running[1],
            train_energy=running[2],
            valid_force_mae_mev_per_angstrom=1e3 * force,
            valid_energy_mae_mev_per_atom=1e3 * energy,
        )
        self.save()

    def run(self) -> None:
        """Train until the budget is spent."""
        budget, last = self.settings.budget_s, time.monotonic()
        next_check = self.spent_s + self.settings.check_every_s
        recent: list[NDArray[np.float64]] = []
        while self.spent_s < budget:
            for batch in self._batches():
                progress = self.spent_s / budget
                recent.append(self._update(batch, progress))
                now = time.monotonic()
                self.spent_s, last = self.spent_s + now - last, now
                if self.spent_s >= min(next_check, budget):
                    self.check(progress, np.nanmean(recent, axis=0))
                    recent.clear()
                    now = time.monotonic()
                    self.spent_s, last = self.spent_s + now - last, now
                    next_check = self.spent_s + self.settings.check_every_s
                    if self.spent_s >= budget:
                        break
            self.epoch += 1
        self.save()
