"""Everything that a run needs in order to go on, in memory and as a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from finetune.training.averaging import WeightAverage
from finetune.training.guard import Guard
from finetune.training.progress import Record


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
        guard: How carefully it goes.
    """

    epoch: int = 1
    position: int = 0
    step: int = 0
    sums: dict[str, list[float]] = field(default_factory=dict)
    history: list[Record] = field(default_factory=list)
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


class Weights:
    """The parameters in training with their moments, average and best values so far.

    Args:
        parameters: Name -> parameter.
        optimiser: Their optimiser.
        average: Their average, over the same parameters in the same order.
    """

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
        """Take back what `tensors` returned.

        Raises:
            KeyError: If something is missing.
        """
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
