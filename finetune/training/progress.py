"""Show how a run goes: on the terminal, in TensorBoard, in Weights & Biases."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from finetune.core.errors import RecipeError
from finetune.core.prediction import STRESS_UNIT, readable
from finetune.core.run_files import TENSORBOARD, WANDB
from finetune.recipe.sections import TrackRecipe

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
        self._bar: Progress | None = None
        self._live: Live | None = None

    def say(self, message: str) -> None:
        """See `Reporter.say`."""
        self.console.print(message, markup=False, highlight=False)

    def start(self, epochs: int) -> None:
        """See `Reporter.start`."""
        self._bar = Progress(
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
