"""Send the records of a run to TensorBoard or Weights & Biases."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from finetune.core.errors import RecipeError
from finetune.core.run_files import TENSORBOARD, WANDB
from finetune.recipe.sections import TrackRecipe
from finetune.training.progress import Record, Reporter, Silent, residuals


class Several(Reporter):
    """Tells several reporters everything.

    Args:
        reporters: Whom to tell, in this order.
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
    """Logs every number of every epoch to a project; a resumed run goes on in the same run."""

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
