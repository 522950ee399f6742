"""When a run is over."""

from __future__ import annotations

from finetune.sections import TrainRecipe
from finetune.training.processes import Processes
from finetune.training.state import Progress


def spent(state: Progress, settings: TrainRecipe, processes: Processes) -> str:
    """Return which budget is spent, ``max_steps`` or ``max_hours``; empty while none is."""
    if settings.max_steps is not None and state.step >= settings.max_steps:
        return "max_steps"
    if settings.max_hours is not None:
        late = state.seconds >= 3600 * settings.max_hours
        return "max_hours" if processes.any(late) else ""
    return ""


def ending(state: Progress, settings: TrainRecipe, processes: Processes) -> str:
    """Return why the run is over after an epoch; empty while it is not."""
    if settings.patience and state.epoch - state.best_epoch >= settings.patience:
        return "patience"
    finished = "finished" if state.epoch >= settings.epochs else ""
    return spent(state, settings, processes) or finished
