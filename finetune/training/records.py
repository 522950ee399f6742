"""What is recorded of a run: metrics.jsonl, lines or a bar on the terminal, trackers."""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as ProgressBar
from rich.text import Text

from finetune.core.devices import peak_memory
from finetune.core.errors import RecipeError
from finetune.core.files import write_atomically
from finetune.core.run_files import TENSORBOARD, WANDB
from finetune.core.units import STRESS_UNIT, readable
from finetune.data.graphs import GraphBatch
from finetune.losses.loss import TotalLoss
from finetune.potentials.errors import Errors, errors, predict
from finetune.potentials.potential import Potential
from finetune.recipe.loss_options import LossOptions
from finetune.recipe.sections import TrackRecipe
from finetune.training.checkpoints import Progress, WeightAverage


class MetricsLog:
    """``metrics.jsonl``, a line for each epoch; a resumed run removes what it repeats."""

    def __init__(self, path: Path, history: Sequence[Record], active: bool = True) -> None:
        self.path = path
        self.active = active
        if active:
            write_atomically(path, "".join(map(_line, history)).encode())

    def append(self, record: Record) -> None:
        """Add the record of an epoch."""
        if self.active:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(_line(record))


def step_values(means: Mapping[str, float], weights: Mapping[str, float]) -> dict[str, float]:
    """Return what of a step's losses is averaged over the epoch."""
    weighted = {f"loss/{name}": weights[name] * mean for name, mean in means.items()}
    measures = {f"measure/{name}": mean for name, mean in means.items()}
    return {"train/loss": sum(weighted.values()), **weighted, **measures}


def training_record(means: Mapping[str, float], total: TotalLoss) -> Record:
    """Return what is recorded of an epoch's steps.

    ``train/loss`` is the total that was optimised, ``loss/NAME`` what each loss added to it (its
    weight included), ``residual/NAME`` the size of its residuals in the unit that ``units`` names.
    """
    record: Record = {}
    units: dict[str, str] = {}
    for name, mean in means.items():
        kind, _, loss = name.partition("/")
        if kind != "measure":
            record[name] = mean
        elif loss in total.losses and total.losses[loss].unit:
            record[f"residual/{loss}"] = total.losses[loss].typical_residual(max(mean, 0.0))
            units[loss] = total.losses[loss].unit
    return {**record, "units": units} if units else record


def validation_record(measured: Errors, losses: Mapping[str, LossOptions]) -> Record:
    """Return what is recorded of a validation: ``valid/loss`` and ``valid/`` every error."""
    return {
        "valid/loss": validation_loss(measured, losses),
        **{f"valid/{name}": value for name, value in measured.as_dict().items()},
    }


def validation_loss(measured: Errors, losses: Mapping[str, LossOptions]) -> float:
    """Return Σ (largest weight) · RMSE² over the supervised losses that validation labels allow.

    Energies count in eV per atom, forces in eV/Å, stress in eV/Å³.
    """
    squares = {
        "energy": measured.energy_per_atom_rmse,
        "forces": measured.forces_rmse,
        "stress": measured.stress_rmse,
    }
    total = 0.0
    for options in losses.values():
        error = squares.get(options.kind)
        if error is not None:
            total += options.peak_weight * error**2
    return total


def monitored(record: Record, name: str) -> float:
    """Return the measure that ``train.monitor`` names; infinite where it is not on record.

    ``energy_and_inconsistency`` is the geometric mean of energy RMSE per atom and inconsistency,
    √(eV/atom · eV/Å): the same share of either counts the same.
    """
    if name == "energy_and_inconsistency":
        energy, gap = record["valid/energy_per_atom_rmse"], record.get("valid/inconsistency_mae")
        return math.inf if energy is None or gap is None else math.sqrt(energy * gap)
    usual = {"auto": "loss", "inconsistency": "inconsistency_mae"}
    found = record.get(f"valid/{usual.get(name, name)}")
    return math.inf if found is None else float(found)


def _line(record: Record) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"


class Validator:
    """Measures a potential in training and makes the records of its epochs."""

    def __init__(
        self,
        potential: Potential,
        average: WeightAverage,
        graphs: Sequence[GraphBatch],
        total: TotalLoss,
        losses: Mapping[str, LossOptions],
    ) -> None:
        self.potential = potential
        self.average = average
        self.graphs = graphs
        self.total = total
        self.losses = losses

    def record(self, state: Progress, epoch: int, rate: float) -> Record:
        """Validate, and return what is recorded of an epoch."""
        started = time.perf_counter()
        with self.average.applied():
            measured = errors(predict(self.potential, self.graphs), len(self.graphs))
        state.spend(time.perf_counter() - started)
        means = state.means()
        gradient_norm = means.pop("gradient_norm", 0.0)
        return {
            "epoch": epoch,
            **training_record(means, self.total),
            **validation_record(measured, self.losses),
            "learning_rate": rate,
            "gradient_norm": gradient_norm,
            "skipped_steps": state.guard.skipped,
            "steps_per_second": state.position / max(state.step_seconds, 1e-9),
            "memory_mib": round(peak_memory(self.potential.device) / 2**20, 1),
            "seconds": state.epoch_seconds,
        }


Record = dict[str, Any]
"""One epoch: ``epoch``, ``loss/NAME``, ``residual/NAME``, ``valid/…``, ``learning_rate``, …"""
NOISE_UNITS = {"energy": "eV/√atom", "forces": "eV/Å", "stress": STRESS_UNIT}
"""Of the standard deviations of label noise that an optimiser estimates."""


class Reporter:
    """Receives the stages and epochs of a run; a context manager around the epochs.

    What a subclass does not override is not shown.
    """

    def say(self, message: str) -> None:
        """Show one line."""

    def start(self, epochs: int) -> None:
        """Begin an epoch display."""

    def epoch(self, record: Record) -> None:
        """Show an epoch that is done."""

    def stop(self) -> None:
        """End the epoch display."""

    def __enter__(self) -> Reporter:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()


class Silent(Reporter):
    """Shows nothing: the Python API's default."""


class Plain(Reporter):
    """About twenty lines in all, for log files; nothing is animated."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.epochs = 0

    def say(self, message: str) -> None:
        """See `Reporter.say`."""
        self.console.print(message, soft_wrap=True, markup=False, highlight=False)

    def start(self, epochs: int) -> None:
        """See `Reporter.start`."""
        self.epochs = epochs

    def epoch(self, record: Record) -> None:
        """See `Reporter.epoch`."""
        every = max(self.epochs // 20, 1)
        if record["epoch"] % every == 0 or record["epoch"] == self.epochs:
            self.console.print(
                f"epoch {record['epoch']}/{self.epochs}  {summary(record)}",
                soft_wrap=True,
                markup=False,
                highlight=False,
            )


class Bar(Reporter):
    """A progress bar with the time left, and under it the losses and validation errors."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bar: ProgressBar | None = None
        self._live: Live | None = None

    def say(self, message: str) -> None:
        """See `Reporter.say`."""
        self.console.print(message, markup=False, highlight=False)

    def start(self, epochs: int) -> None:
        """See `Reporter.start`."""
        self._bar = ProgressBar(
            TextColumn("epoch"),
            MofNCompleteColumn(),
            BarColumn(bar_width=30),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
        )
        self._bar.add_task("epochs", total=epochs)
        self._live = Live(self._bar, console=self.console, refresh_per_second=4)
        self._live.start()

    def epoch(self, record: Record) -> None:
        """See `Reporter.epoch`."""
        if self._bar is not None and self._live is not None:
            self._bar.update(self._bar.task_ids[0], completed=record["epoch"])
            self._live.update(Group(self._bar, Text(summary(record), style="dim")))

    def stop(self) -> None:
        """See `Reporter.stop`."""
        if self._live is not None:
            self._live.stop()
            self._bar = self._live = None


def reporter_for(console: Console, quiet: bool = False, plain: bool = False) -> Reporter:
    """Return the reporter that suits a console: silent, a bar on a terminal, plain lines."""
    if quiet:
        return Silent()
    return Bar(console) if console.is_terminal and not plain else Plain(console)


def residuals(record: Record) -> dict[str, tuple[float, str]]:
    """Return the size of each loss's residuals in an epoch, as people read it: value and unit."""
    units: dict[str, str] = record.get("units", {})
    return {
        name: readable(record[f"residual/{name}"], unit)
        for name, unit in units.items()
        if record.get(f"residual/{name}") is not None
    }


def summary(record: Record) -> str:
    """Return an epoch's losses by name and its validation errors in one line."""
    found = residuals(record)
    parts = [f"loss {record['train/loss']:.2e}"] if record.get("train/loss") is not None else []
    for key, value in record.items():
        kind, _, name = key.partition("/")
        if kind == "loss" and value is not None:
            size, unit = found.get(name, (value, ""))
            parts.append(f"{name} {size:.3g} {unit}" if unit else f"{name} {value:.2e}")
    shown = {
        "valid/energy_per_atom_mae": ("valid E", "meV/atom"),
        "valid/forces_mae": ("valid F", "meV/Å"),
        "valid/inconsistency_mae": ("valid I", "meV/Å"),
    }
    for key, (name, unit) in shown.items():
        if record.get(key) is not None:
            parts.append(f"{name} {1000 * record[key]:.2f} {unit}")
    for kind, unit in NOISE_UNITS.items():
        if record.get(f"noise/{kind}") is not None:
            size, unit = readable(record[f"noise/{kind}"], unit)
            parts.append(f"noise of {kind} {size:.3g} {unit}")
    if record.get("learning_rate") is not None:
        parts.append(f"lr {record['learning_rate']:.1e}")
    if record.get("steps_per_second"):
        parts.append(f"{record['steps_per_second']:.3g} steps/s")
    if record.get("skipped_steps"):
        parts.append(f"{record['skipped_steps']} skipped")
    return "  ".join(parts)


class Several(Reporter):
    """Passes everything on to several reporters.

    Args:
        reporters: In this order.
    """

    def __init__(self, reporters: Sequence[Reporter]) -> None:
        self.reporters = reporters

    def say(self, message: str) -> None:
        """See `Reporter.say`."""
        for reporter in self.reporters:
            reporter.say(message)

    def start(self, epochs: int) -> None:
        """See `Reporter.start`."""
        for reporter in self.reporters:
            reporter.start(epochs)

    def epoch(self, record: Record) -> None:
        """See `Reporter.epoch`."""
        for reporter in self.reporters:
            reporter.epoch(record)

    def stop(self) -> None:
        """See `Reporter.stop`."""
        for reporter in self.reporters:
            reporter.stop()


class TensorBoard(Silent):
    """Writes every number of every epoch as a scalar into ``tensorboard/``."""

    def __init__(self, folder: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder / TENSORBOARD))

    def epoch(self, record: Record) -> None:
        """See `Reporter.epoch`."""
        for name, value in numbers(record).items():
            self._writer.add_scalar(name, value, record["epoch"])
        self._writer.flush()

    def stop(self) -> None:
        """See `Reporter.stop`."""
        self._writer.close()


class WeightsAndBiases(Silent):
    """Logs every number of every epoch to a project; a resumed run continues there."""

    def __init__(self, folder: Path, project: str, recipe: dict[str, Any], identity: str) -> None:
        import wandb

        (folder / WANDB).mkdir(exist_ok=True)
        self._run: Any = wandb.init(
            project=project,
            name=folder.name,
            dir=str(folder / WANDB),
            config=recipe,
            id=identity,
            resume="allow",
        )

    def epoch(self, record: Record) -> None:
        """See `Reporter.epoch`."""
        self._run.log(numbers(record), step=record["epoch"])

    def stop(self) -> None:
        """See `Reporter.stop`."""
        self._run.finish()


def check_installed(track: TrackRecipe) -> None:
    """Refuse trackers whose packages are missing.

    Raises:
        RecipeError: Naming the package and how to install it.
    """
    for package, wanted in (("tensorboard", track.tensorboard), ("wandb", track.wandb)):
        if wanted and find_spec(package) is None:
            raise RecipeError(
                f"track.{package} needs the package '{package}': "
                "pip install 'piwsl-finetune[track]'."
            )


def trackers(
    track: TrackRecipe, folder: Path, recipe: dict[str, Any], identity: str
) -> list[Reporter]:
    """Return the trackers that a recipe asks for."""
    found: list[Reporter] = []
    if track.tensorboard:
        found.append(TensorBoard(folder))
    if track.wandb:
        found.append(WeightsAndBiases(folder, track.wandb, recipe, identity))
    return found


def numbers(record: Record) -> dict[str, float]:
    """Return what is a number in a record; residuals as people read them, with their units."""
    found = {
        name: value
        for name, value in record.items()
        if isinstance(value, (int, float)) and not name.startswith(("epoch", "residual/"))
    }
    named = {f"residual/{name} ({unit})": size for name, (size, unit) in residuals(record).items()}
    return {**found, **named}
