"""The report of a run, from all that its folder holds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from finetune import run_folder
from finetune.assessment.errors import evaluate
from finetune.errors import DataError, RunFolderError, system_errors
from finetune.evaluation.metrics import Errors, LabelledPredictions
from finetune.evaluation.report import Page, write_report
from finetune.evaluation.scans.outcome import RESULT as SCANS
from finetune.evaluation.stability.outcome import RESULT as STABILITY
from finetune.recipe import Recipe
from finetune.result import Comparison


@system_errors()
def report(path: str | Path, device: str = "auto", dtype: str = "float64") -> Path:
    """Write ``report.html`` anew, with the dynamics and scans that were run since.

    Errors are measured again on the files that the recipe names, where they are still there; else
    those on record are shown.

    Args:
        path: A run folder, or the folder of a run in stages, whose stages then get their reports.
        device: ``auto``, ``cpu`` or a CUDA device.
        dtype: ``float64`` or ``float32``.

    Returns:
        The page, or the page that links to those of the stages.

    Raises:
        RunFolderError: If there is no finished run, or its files are damaged.
    """
    folder = Path(path)
    if not (folder / run_folder.RESULT).is_file():
        raise RunFolderError(f"'{path}' holds no finished run to report on.")
    result = _read(folder / run_folder.RESULT)
    for stage in result.get("stages", {}):
        report(folder / run_folder.STAGES / stage, device, dtype)
    if "stages" in result:
        return folder / run_folder.REPORT
    recipe = Recipe.load(folder / run_folder.RECIPE)
    try:
        shown = _shown(folder, recipe, result, device, dtype)
        page = Page(
            name=folder.resolve().name,
            story=result,
            notes=result["notes"],
            history=_history(folder / run_folder.METRICS),
            shown=shown,
            recipe=recipe,
            environment=_read(folder / run_folder.ENVIRONMENT),
            stability=_read_if(folder / run_folder.STABILITY / STABILITY),
            scans=_read_if(folder / run_folder.SCANS / SCANS),
        )
        write_report(page, folder / run_folder.REPORT)
    except (KeyError, TypeError) as error:
        raise RunFolderError(f"a result in '{folder}' is damaged: {error!r} is missing.") from error
    return folder / run_folder.REPORT


def _shown(
    folder: Path, recipe: Recipe, result: dict[str, Any], device: str, dtype: str
) -> Comparison:
    kind = "test" if result["test"] is not None else "valid"
    stored = result[kind]
    files = getattr(recipe.data, kind)
    if not isinstance(files, float):
        try:
            found = evaluate(folder, files, device=device, dtype=dtype)
            return replace(found, source=stored["source"])
        except DataError:
            pass
    nothing = np.zeros((2, 0))
    empty = LabelledPredictions(nothing, np.zeros(0), nothing, nothing)
    before = stored["foundation"]
    return Comparison(
        source=stored["source"],
        finetuned=Errors(**stored["finetuned"]),
        foundation=None if before is None else Errors(**before),
        finetuned_predictions=empty,
        foundation_predictions=None if before is None else empty,
    )


def _history(path: Path) -> list[dict[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]
    except ValueError as error:
        raise RunFolderError(f"'{path}' is damaged: {error}.") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunFolderError(f"'{path}' is damaged: {error}.") from error
    return found


def _read_if(path: Path) -> dict[str, Any] | None:
    return _read(path) if path.is_file() else None
