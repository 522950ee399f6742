"""The state of a training run, and its checkpoints on disk.

The state is progress, weights, their average, and the guard against divergence. A checkpoint is a
folder ``step-00000120``: safetensors, JSON and a manifest of their checksums. It is written under
another name, synced and renamed; then all but the newest two are removed.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch_ema import ExponentialMovingAverage

from finetune.core.errors import RunFolderError, RunStoppedError
from finetune.core.files import write_folder
from finetune.core.run_files import STATE, STATE_MANIFEST, STATE_TENSORS

BACK_OFF = 0.5
"""What a skipped step does to the learning rate."""
RECOVERY = 1.02
"""What a good step does to a learning rate that was lowered."""
STRIKES = 5
"""Consecutive skipped steps that mean divergence."""
ROLLBACK = 0.3
"""What a return to the best weights does to the learning rate, for good."""
DIVERGED = 100.0
"""A validation measure this many times that of the foundation is a diverged run."""
SMALL = 1e-6
"""Smallest reference for that ratio, so that a good foundation does not make a run look bad."""
GO_ON = "resume='auto' (command: --resume auto)"
"""How messages name the way to resume a run."""
GENERATIONS = 2
VERSION = 1


@dataclass(frozen=True)
class Checkpoint:
    """The complete state of a training run after a step.

    Attributes:
        tensors: Weights, averages and moments by name.
        state: Everything else, as JSON values.
        faults: What was wrong with newer checkpoints that were passed over.
    """

    tensors: dict[str, torch.Tensor]
    state: dict[str, Any]
    faults: tuple[str, ...] = ()


def write(
    folder: Path,
    step: int,
    tensors: Mapping[str, torch.Tensor],
    state: Mapping[str, Any],
    keep: int = GENERATIONS,
) -> None:
    """Write the checkpoint of a step into ``folder`` and remove all but the newest ``keep``."""
    folder.mkdir(parents=True, exist_ok=True)
    stored = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    contents = {STATE_TENSORS: save_tensors(stored), STATE: json.dumps(state).encode()}
    manifest = {
        "format_version": VERSION,
        "sha256": {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()},
    }
    name = f"step-{step:08d}"
    write_folder(folder / name, {**contents, STATE_MANIFEST: json.dumps(manifest).encode()})
    for stale in folder.glob(".step-*"):  # left by a kill while writing
        shutil.rmtree(stale, ignore_errors=True)
    later = [path for path in _generations(folder) if path.name > name]
    for path in [*later, *_generations(folder)[len(later) + keep :]]:
        shutil.rmtree(path, ignore_errors=True)


def read(folder: Path) -> Checkpoint | None:
    """Read the newest intact checkpoint; None where there is none at all; raises RunFolderError."""
    faults: list[str] = []
    for path in _generations(folder):
        try:
            tensors, state = _read(path)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            faults.append(f"the checkpoint '{path}' is damaged ({error})")
            continue
        return Checkpoint(tensors, state, tuple(faults))
    if faults:
        raise RunFolderError(f"{'; '.join(faults)}. Start again with --overwrite.")
    return None


def _read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    manifest = json.loads((path / STATE_MANIFEST).read_bytes())
    if manifest["format_version"] != VERSION:
        raise ValueError(f"format version {manifest['format_version']}, this release has {VERSION}")
    contents = {name: (path / name).read_bytes() for name in (STATE_TENSORS, STATE)}
    for name, content in contents.items():
        if hashlib.sha256(content).hexdigest() != manifest["sha256"][name]:
            raise ValueError(f"the checksum of {name} differs")
    return load_tensors(contents[STATE_TENSORS]), json.loads(contents[STATE])


def _generations(folder: Path) -> list[Path]:
    """Return the checkpoints, the newest first."""
    return sorted(folder.glob("step-*"), reverse=True)


def diverged(value: float, first: float) -> bool:
    """Return whether a validation measure shows a diverged model, given the foundation's."""
    return not math.isfinite(value) or value > DIVERGED * max(first, SMALL)


@dataclass
class Guard:
    """Skips steps, lowers the rate, and decides when to return to the best weights.

    Attributes:
        factor: What the schedule's learning rate is multiplied by.
        ceiling: What the factor recovers to.
        strikes: Steps skipped in a row.
        skipped: Steps skipped in all.
        rollbacks: Returns to the best weights.
        trouble: The last fault.
    """

    factor: float = 1.0
    ceiling: float = 1.0
    strikes: int = 0
    skipped: int = 0
    rollbacks: int = 0
    trouble: str = ""

    @property
    def diverging(self) -> bool:
        """Whether skipping no longer helps."""
        return self.strikes >= STRIKES

    def step_went_well(self) -> None:
        """Raise a lowered learning rate."""
        self.strikes = 0
        self.factor = min(self.ceiling, self.factor * RECOVERY)

    def step_was_skipped(self, trouble: str) -> None:
        """Lower the learning rate."""
        self.trouble = trouble
        self.strikes += 1
        self.skipped += 1
        self.factor *= BACK_OFF

    def rolled_back(self) -> None:
        """Continue from the best weights at a lower learning rate."""
        self.rollbacks += 1
        self.strikes = 0
        self.ceiling *= ROLLBACK
        self.factor = self.ceiling


@dataclass
class Progress:
    """Where a run stands.

    Attributes:
        epoch: The epoch in progress, from 1.
        position: Steps of it that are done.
        step: Steps done in all.
        sums: Sum and number of what is averaged over the epoch, by name.
        history: One record for each epoch done, the first before any step.
        best: Best value of the validation measure.
        best_epoch: Its epoch.
        step_seconds: Wall time of the steps of the epoch in progress.
        epoch_seconds: Wall time of it in all.
        seconds: Wall time of all.
        ending: Why the run is over; empty while it is not.
        guard: Skipped steps and returns to the best weights.
    """

    epoch: int = 1
    position: int = 0
    step: int = 0
    sums: dict[str, list[float]] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    best: float = math.inf
    best_epoch: int = 0
    step_seconds: float = 0.0
    epoch_seconds: float = 0.0
    seconds: float = 0.0
    ending: str = ""
    guard: Guard = field(default_factory=Guard)

    def add(self, name: str, value: float) -> None:
        """Take a value into the epoch's mean."""
        total, count = self.sums.get(name, [0.0, 0])
        self.sums[name] = [total + value, count + 1]

    def means(self) -> dict[str, float]:
        """Return the epoch's means by name."""
        return {name: total / count for name, (total, count) in self.sums.items()}

    def next_step(self, seconds: float) -> None:
        """Count a step and its wall time."""
        self.position += 1
        self.step += 1
        self.spend(seconds, steps=True)

    def next_epoch(self) -> None:
        """Begin another epoch."""
        self.epoch += 1
        self.position = 0
        self.sums = {}
        self.step_seconds = self.epoch_seconds = 0.0

    def spend(self, seconds: float, steps: bool = False) -> None:
        """Count wall time, of steps or of something else."""
        self.step_seconds += seconds * steps
        self.epoch_seconds += seconds
        self.seconds += seconds

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values (floats keep every digit)."""
        return asdict(self)

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Progress:
        """Take back what `as_dict` returned."""
        return cls(**{**stored, "guard": Guard(**stored["guard"])})


class WeightAverage:
    """An exponential moving average of parameters, or the parameters themselves."""

    def __init__(self, parameters: Sequence[torch.nn.Parameter], decay: float | None) -> None:
        self._parameters = parameters
        self._decay = decay
        self.restart()

    def restart(self) -> None:
        """Start again from the present parameters."""
        self._average = (
            ExponentialMovingAverage(self._parameters, self._decay)
            if self._decay is not None
            else None
        )

    def update(self) -> None:
        """Take in the parameters as they are after a step."""
        if self._average is not None:
            self._average.update()

    def applied(self) -> AbstractContextManager[None]:
        """Return a context in which the parameters are the averaged ones."""
        if self._average is None:
            return nullcontext()
        context: AbstractContextManager[None] = self._average.average_parameters()
        return context

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the average by index, and the number of updates it has seen."""
        if self._average is None:
            return {}
        return {
            "updates": torch.tensor(self._average.num_updates),
            **{str(index): tensor for index, tensor in enumerate(self._average.shadow_params)},
        }

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take back what `tensors` returned."""
        if self._average is None:
            return
        self._average.num_updates = int(tensors["updates"])
        for index, shadow in enumerate(self._average.shadow_params):
            shadow.copy_(tensors[str(index)])


class Weights:
    """The parameters in training with their moments, average and best values so far."""

    def __init__(
        self,
        parameters: Mapping[str, torch.nn.Parameter],
        optimiser: torch.optim.Optimizer,
        average: WeightAverage,
    ) -> None:
        self.parameters = dict(parameters)
        self.optimiser = optimiser
        self.average = average
        self.best = self._copies()

    def keep_as_best(self) -> None:
        """Remember the averaged weights as they are."""
        with self.average.applied():
            self.best = self._copies()

    def return_to_best(self) -> None:
        """Set the weights to the best ones and forget moments and average."""
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(self.best[name])
        self.optimiser.state.clear()
        self.average.restart()

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return everything by name, as a checkpoint stores it."""
        found: dict[str, torch.Tensor] = {}
        for name, parameter in self.parameters.items():
            found[f"weights/{name}"] = parameter
            found[f"best/{name}"] = self.best[name]
            for key, value in self.optimiser.state.get(parameter, {}).items():
                found[f"moments/{key}/{name}"] = value
        for name, tensor in self.average.tensors().items():
            found[f"average/{name}"] = tensor
        return found

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take back what `tensors` returned; raises KeyError."""
        moments: dict[str, dict[str, torch.Tensor]] = {}
        for place, tensor in tensors.items():
            if place.startswith("moments/"):
                _, key, name = place.split("/", 2)
                moments.setdefault(name, {})[key] = tensor
        self.optimiser.state.clear()
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(tensors[f"weights/{name}"])
                self.best[name] = tensors[f"best/{name}"].to(parameter)
                if name in moments:
                    self.optimiser.state[parameter] = {
                        key: value.clone() if key == "step" else value.to(parameter)
                        for key, value in moments[name].items()
                    }
            self.average.restore(
                {
                    place.removeprefix("average/"): tensor
                    for place, tensor in tensors.items()
                    if place.startswith("average/")
                }
            )

    def _copies(self) -> dict[str, torch.Tensor]:
        return {name: item.detach().clone() for name, item in self.parameters.items()}


class Keeper:
    """Writes the checkpoints of a run; only in the main process."""

    def __init__(self, folder: Path, checkpoints: Path, seconds: float, main: bool) -> None:
        self.folder = folder
        self.checkpoints = checkpoints
        self.seconds = seconds
        self.main = main
        self._time, self._step = -math.inf, -1

    def read(self) -> Checkpoint | None:
        """Return the newest intact checkpoint, if there is any."""
        found = read(self.checkpoints)
        if found is not None:
            self._time, self._step = time.monotonic(), int(found.state["step"])
        return found

    @property
    def due(self) -> bool:
        """Whether the last checkpoint is old enough for another."""
        return time.monotonic() - self._time >= self.seconds

    def write(
        self, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any], final: bool = False
    ) -> None:
        """Write a checkpoint; the final one alone stays."""
        if self.main:
            keep = 1 if final else GENERATIONS
            write(self.checkpoints, int(state["step"]), tensors, state, keep)
        self._time, self._step = time.monotonic(), int(state["step"])

    def stopped(self, number: signal.Signals, epoch: int) -> RunStoppedError:
        """Return the error that ends a run which a signal stopped."""
        return RunStoppedError(
            f"{number.name} after step {self._step} (epoch {epoch}); resume "
            f"'{self.folder}' with {GO_ON}.",
            exit_code=128 + number,
        )

    def unwritable(self, error: OSError) -> RunFolderError | RunStoppedError:
        """Return the error that ends a run which cannot write."""
        if self._step < 0:
            return RunFolderError(f"'{self.folder}' cannot be written: {error}.")
        return RunStoppedError(
            f"'{self.folder}' cannot be written: {error}. The checkpoint of step {self._step} is "
            f"intact: correct the cause and resume with {GO_ON}."
        )
