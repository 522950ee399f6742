"""The two jobs of a comparison: tune an arm, run it with a seed."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetune.core.errors import RunFolderError, TrainingError, reason
from finetune.core.files import read_json, write_json
from finetune.core.run_files import CHECKPOINTS
from finetune.recipe.recipe import Recipe
from finetune.runs.workflow import run
from finetune.studies.tuning import tune
from finetune.studies.tuning_result import TuningResult

CHOICE, TUNING = "choice.json", "tuning"


def tune_arm(content: Mapping[str, Any], folder: str, budget: str) -> str:
    """Tune an arm and write ``choice.json``: what was chosen and how it validated.

    An arm that cannot be trained untouched keeps its settings: its runs tell.

    Args:
        content: The arm's recipe, without a test set.
        folder: The arm's folder.
        budget: Of the tuning.

    Returns:
        What was chosen, in words.
    """
    try:
        found = tune(content, budget=budget, to=Path(folder) / TUNING)
    except TrainingError as error:
        fault = reason(error)
        write_json(Path(folder) / CHOICE, {"values": {}, "fault": fault})
        return f"not tuned: {fault}"
    write_json(Path(folder) / CHOICE, chosen(found))
    values = "  ".join(f"{path}={value}" for path, value in found.best.values.items())
    shown = found.measure.shown
    return (
        f"{found.measure.title} {shown(found.untouched.value)} untouched, "
        f"{shown(found.best.value)} tuned (trial {found.best.number})  {values or 'untouched'}"
    )


def chosen(found: TuningResult) -> dict[str, Any]:
    """Return what a tuning chose, ready for JSON."""
    return {
        "values": dict(found.best.values),
        "trial": found.best.number,
        "trials": len(found.tried),
        "measure": found.measure.name,
        "judged": found.judged,
        "untouched": found.untouched.value,
        "tuned": found.best.value,
        "importances": dict(found.importances),
        "seconds": sum(item.seconds for item in found.tried),
    }


def run_arm(content: Mapping[str, Any], path: str) -> str:
    """Run an arm with a seed and write what came out; a run that diverges is an outcome, too.

    Anything else that ends a run is raised, and the run is done when it is asked for again.

    Args:
        content: The recipe of the run.
        path: JSON file for the outcome.

    Returns:
        The outcome in words.
    """
    recipe = Recipe.parse(content)
    try:
        result = run(recipe, resume="auto")
    except TrainingError as error:
        write_json(Path(path), {"fault": reason(error)})
        return f"failed: {error}"
    assert result.test is not None
    foundation = result.test.foundation
    outcome = {
        "test": result.test.finetuned.as_dict(),
        "foundation": None if foundation is None else foundation.as_dict(),
        "valid": result.valid.finetuned.as_dict(),
        "epochs": result.epochs,
        "best_epoch": result.best_epoch,
        "seconds": sum(record["seconds"] for record in result.history),
    }
    write_json(Path(path), outcome)
    shutil.rmtree(result.folder / CHECKPOINTS, ignore_errors=True)
    return f"done after {result.epochs} epochs, {outcome['seconds']:.0f} s"


def outcome_at(path: Path) -> dict[str, Any] | None:
    """Return what a run found; None while it is not done.

    Raises:
        RunFolderError: If the file is damaged.
    """
    if not path.is_file():
        return None
    try:
        found = read_json(path)
        if not _complete(found):
            raise ValueError("errors are missing")
        return found
    except (OSError, ValueError) as error:
        raise RunFolderError(
            f"'{path}' is damaged ({error}). Remove it, and its run is done again."
        ) from error


def _complete(found: Mapping[str, Any]) -> bool:
    """Return whether an outcome is what `run_arm` writes."""
    if "fault" in found:
        return isinstance(found["fault"], str)
    test, foundation = found.get("test"), found.get("foundation")
    numbers = [found.get("seconds"), found.get("best_epoch")]
    for side in (test, {} if foundation is None else foundation):
        if not isinstance(side, dict):
            return False
        numbers += [value for value in side.values() if value is not None]
    finite = all(isinstance(item, (int, float)) and math.isfinite(item) for item in numbers)
    return finite and bool(test)
