"""The report of a run, from all that its folder holds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np
from jinja2 import TemplateError

from finetune import run_files
from finetune.assessment.errors import evaluate
from finetune.assessment.shared import own_files
from finetune.errors import DataError, RunFolderError, system_errors
from finetune.evaluation.evaluated_committee import EvaluatedCommittee
from finetune.evaluation.metrics import Errors, LabelledPredictions
from finetune.evaluation.report import Page, write_report
from finetune.evaluation.scans.outcome import RESULT as SCANS
from finetune.evaluation.stability.outcome import RESULT as STABILITY
from finetune.recipe import Recipe
from finetune.result import Comparison

_RESULT = {"notes": list, "valid": dict, "test": (dict, NoneType), "seconds": (int, float)}
_STABILITY = {"names": list, "summary": list, "length_ps": (int, float)}
_SCANS = {"names": list, "checks": list, "frequencies": list, "forgetting": dict, "curves": list}
"""What a page needs of each file, and the types of it."""


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
    if not all((folder / name).is_file() for name in (run_files.RESULT, run_files.RECIPE)):
        raise RunFolderError(f"'{path}' holds no finished run to report on: name what `run` wrote.")
    result = _read(folder / run_files.RESULT, **_RESULT)
    if "stages" in result:
        for stage in _read(folder / run_files.RESULT, stages=dict)["stages"]:
            report(folder / run_files.STAGES / stage, device, dtype)
        return folder / run_files.REPORT
    members = (
        list(_read(folder / run_files.RESULT, members=dict)["members"])
        if ("members" in result)
        else []
    )
    for member in members:
        report(folder / run_files.MEMBERS / member, device, dtype)
    recipe = Recipe.load(folder / run_files.RECIPE)
    history = [] if members else _history(folder / run_files.METRICS)
    facts = _read(folder / run_files.ENVIRONMENT, versions=dict)
    stability = folder / run_files.STABILITY / STABILITY
    scans = folder / run_files.SCANS / SCANS
    try:
        shown = _shown(folder, recipe, result, device, dtype)
        page = Page(
            name=folder.resolve().name,
            story=result,
            notes=[*result["notes"], *filter(None, [shown.note])],
            history=history,
            shown=shown,
            recipe=recipe,
            environment=facts,
            stability=_read(stability, **_STABILITY) if stability.is_file() else None,
            scans=_read(scans, **_SCANS) if scans.is_file() else None,
            calibrations=shown.calibrations if isinstance(shown, EvaluatedCommittee) else {},
            members=members,
        )
        write_report(page, folder / run_files.REPORT)
    except (AttributeError, LookupError, TypeError, ValueError, TemplateError) as error:
        raise RunFolderError(
            f"a result in '{folder}' is damaged ({type(error).__name__}: {error}). Make it anew "
            "or remove it."
        ) from error
    return folder / run_files.REPORT


def _shown(
    folder: Path, recipe: Recipe, result: dict[str, Any], device: str, dtype: str
) -> Comparison:
    kind = "test" if result["test"] is not None else "valid"
    stored = result[kind]
    files = getattr(recipe.data, kind)
    note = ""
    if not isinstance(files, float):
        try:
            named = own_files(folder, files)
            found = evaluate(folder, named, device=device, dtype=dtype)
            return replace(found, source=stored["source"])
        except DataError as error:
            note = f"note: these are the errors on record, not measured again: {error}"
    nothing = np.zeros((2, 0))
    empty = LabelledPredictions(nothing, np.zeros(0), nothing, nothing)
    before = stored["foundation"]
    return Comparison(
        source=stored["source"],
        finetuned=Errors(**stored["finetuned"]),
        foundation=None if before is None else Errors(**before),
        finetuned_predictions=empty,
        foundation_predictions=None if before is None else empty,
        note=note,
    )


def _history(path: Path) -> list[dict[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        found = [json.loads(line) for line in lines]
    except ValueError as error:
        raise RunFolderError(f"'{path}' is damaged: {error}.") from error
    for number, line in enumerate(found, 1):
        if not isinstance(line, dict):
            raise RunFolderError(f"'{path}' is damaged: line {number} is no mapping.")
    return found


def _read(path: Path, **wanted: Any) -> dict[str, Any]:
    """Return the mapping in a JSON file, whose keys must have values of the types wanted."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunFolderError(f"'{path}' is damaged: {error}.") from error
    if not isinstance(found, dict):
        raise RunFolderError(f"'{path}' is damaged: it holds no mapping.")
    for key, kind in wanted.items():
        if not isinstance(found.get(key), kind):
            raise RunFolderError(
                f"'{path}' is damaged: '{key}' is {'wrong' if key in found else 'missing'}."
            )
    return found
