"""The report of a run: one page with all that its folder contains, in words, tables and figures."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import TemplateError

from finetune.core import run_files
from finetune.core.errors import DataError, RunFolderError, system_errors
from finetune.core.files import read_json, write_atomically
from finetune.evaluation.baseline import own_files
from finetune.evaluation.calibration import TITLES as CALIBRATED
from finetune.evaluation.calibration import Calibration, Quantity, rounded
from finetune.evaluation.curves import Curve
from finetune.evaluation.dynamics import RESULT as STABILITY
from finetune.evaluation.evaluation import Comparison, Evaluated, EvaluatedCommittee, evaluate
from finetune.evaluation.plots import calibration, curves, learning_curve, parity
from finetune.evaluation.scans import RESULT as SCANS
from finetune.evaluation.scans import TITLES
from finetune.evaluation.statistics import quantities
from finetune.potentials.errors import Errors, LabelledPredictions
from finetune.recipe.recipe import Recipe

if TYPE_CHECKING:
    from jinja2 import Template
    from matplotlib.figure import Figure

NOTICED = 0.02
"""Share by which an error has to grow before a report warns of it."""
_SHOWN = (
    ("energy MAE", "energy_per_atom_mae", "meV/atom"),
    ("force MAE", "forces_mae", "meV/Å"),
    ("force MAE of −dE/dr", "gradient_forces_mae", "meV/Å"),
    ("force inconsistency", "inconsistency_mae", "meV/Å"),
    ("stress MAE", "stress_mae", "meV/Å³"),
)
_RESULT = {"notes": list, "valid": dict, "test": (dict, NoneType), "seconds": (int, float)}
_STABILITY = {"names": list, "summary": list, "length_ps": (int, float)}
_SCANS = {"names": list, "checks": list, "frequencies": list, "forgetting": dict, "curves": list}
"""The keys of each file that a page needs, and the types of their values."""


@system_errors()
def report(path: str | Path, device: str = "auto", dtype: str = "float64") -> Path:
    """Write ``report.html`` again, with the dynamics and scans that were run since.

    Errors are measured again on the files that the recipe names, if they can still be read; else
    the page shows the errors on record. The stages of a run in stages get their reports, too.

    Args:
        path: A run folder, or the folder of a run in stages.
        device: ``auto``, ``cpu`` or a CUDA device.
        dtype: ``float64`` or ``float32``.

    Raises:
        RunFolderError: If there is no finished run, or its files are damaged.
    """
    folder = Path(path)
    if not all((folder / name).is_file() for name in (run_files.RESULT, run_files.RECIPE)):
        raise RunFolderError(
            f"there is no finished run in '{path}'. Name a folder that `run` wrote."
        )
    result = _read(folder / run_files.RESULT, **_RESULT)
    if "stages" in result:
        for stage in _read(folder / run_files.RESULT, stages=dict)["stages"]:
            report(folder / run_files.STAGES / stage, device, dtype)
        return folder / run_files.REPORT
    wanted = {"members": dict} if "members" in result else {}
    members = list(_read(folder / run_files.RESULT, **wanted).get("members", ()))
    for member in members:
        report(folder / run_files.MEMBERS / member, device, dtype)
    recipe = Recipe.load(folder / run_files.RECIPE)
    history = [] if members else _history(folder / run_files.METRICS)
    facts = _read(folder / run_files.ENVIRONMENT, versions=dict)
    stability = folder / run_files.STABILITY / STABILITY
    scans = folder / run_files.SCANS / SCANS
    try:
        shown = _errors(folder, recipe, result, device, dtype)
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
            f"a result in '{folder}' is damaged ({type(error).__name__}: {error}). Compute it "
            "again or remove it."
        ) from error
    return folder / run_files.REPORT


def _read(path: Path, **wanted: Any) -> dict[str, Any]:
    """Return the mapping in a JSON file; its keys must have values of the types wanted."""
    try:
        found = read_json(path)
    except ValueError as error:
        raise RunFolderError(f"'{path}' is damaged: {error}.") from error
    for key, kind in wanted.items():
        if not isinstance(found.get(key), kind):
            fault = "wrong" if key in found else "missing"
            raise RunFolderError(f"'{path}' is damaged: '{key}' is {fault}.")
    return found


def _history(path: Path) -> list[dict[str, Any]]:
    try:
        found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except ValueError as error:
        raise RunFolderError(f"'{path}' is damaged: {error}.") from error
    for number, line in enumerate(found, 1):
        if not isinstance(line, dict):
            raise RunFolderError(f"'{path}' is damaged: line {number} is no mapping.")
    return found


def _errors(
    folder: Path, recipe: Recipe, result: dict[str, Any], device: str, dtype: str
) -> Comparison:
    """Return the errors on the test set, else on the validation set: measured, or on record."""
    kind = "test" if result["test"] is not None else "valid"
    stored, files, note = result[kind], getattr(recipe.data, kind), ""
    if not isinstance(files, float):
        try:
            found = evaluate(folder, own_files(folder, files), device=device, dtype=dtype)
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


@dataclass(frozen=True)
class Page:
    """What the report of a run shows."""

    name: str
    story: Mapping[str, Any]  # of the training: epochs, ending, best_epoch, seconds
    notes: Sequence[str]
    history: Sequence[dict[str, Any]]  # one record for each epoch
    shown: Comparison  # an `Evaluated` adds elements, subsets and the worst structures
    recipe: Recipe
    environment: Mapping[str, Any]
    stability: Mapping[str, Any] | None = None  # content of stability.json
    scans: Mapping[str, Any] | None = None  # content of scans.json
    calibrations: Mapping[Quantity, Calibration] = field(default_factory=dict)  # of a committee
    members: Sequence[str] = ()


def write_report(page: Page, path: Path) -> None:
    """Write a page that opens from disk without a network: summary, tables, figures, recipe."""
    shown, figures = page.shown, {}
    if page.history:
        figures["curve"] = _svg(learning_curve(page.history, page.story["best_epoch"]))
    if page.calibrations:
        figures["calibration"] = _svg(calibration(page.calibrations))
    if shown.finetuned_predictions.energy.size + shown.finetuned_predictions.forces.size:
        figures["parity"] = _svg(parity(shown.foundation_predictions, shown.finetuned_predictions))
    scans: dict[str, list[str]] = {}  # one figure for each curve, so that they wrap on a phone
    for item in (page.scans or {}).get("curves", []):
        scans.setdefault(TITLES[item["kind"]], []).append(_svg(curves([Curve.from_dict(item)])))
    groups = shown.groups() if isinstance(shown, Evaluated) else {}
    text = template("report.html").render(
        page=page,
        shown=shown,
        rows=shown.rows(),
        sentences=sentences(shown, page.stability, page.scans),
        warnings=warnings(shown, page.notes, page.stability, page.scans),
        notes=[note for note in page.notes if not note.startswith("warning: ")],
        quantities=quantities(item["all"]["all"] for item in groups.values()),
        groups=groups,
        worst=shown.worst() if isinstance(shown, Evaluated) else {},
        calibrations=[
            (*CALIBRATED[name], rounded(item)) for name, item in page.calibrations.items()
        ],
        **figures,
        scans=scans,
        recipe=page.recipe.dump(),
        foundation=page.recipe.foundation,
    )
    write_atomically(path, text.encode())


@cache
def template(name: str) -> Template:
    """Return a page template of the package."""
    from jinja2 import Environment, PackageLoader

    loader = PackageLoader("finetune.evaluation", "templates")
    return Environment(loader=loader, autoescape=True).get_template(name)


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", dpi=150, metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def sentences(
    shown: Comparison,
    stability: Mapping[str, Any] | None = None,
    scans: Mapping[str, Any] | None = None,
) -> list[str]:
    """Return what a run, its dynamics and its scans found, a sentence each; see `Page`."""
    found = []
    for title, unit, before, after in shown.rows(_SHOWN):
        where = f"On the {shown.source} set the {title}"
        if not before:
            found.append(f"{where} is {after:.1f} {unit}.")
        elif after == before:
            found.append(f"{where} stayed {after:.1f} {unit}.")
        else:
            verb = "fell" if after < before else "rose" if after > before else "went"  # to NaN
            change = f"{100 * (after / before - 1):+.0f} %"
            found.append(f"{where} {verb} from {before:.1f} to {after:.1f} {unit} ({change}).")
    if asymmetry := shown.asymmetry():
        found.append(f"{asymmetry[0].upper()}{asymmetry[1:]}.")
    for row in (stability or {}).get("summary", []):
        found.append(
            f"In {row['ensemble'].upper()} dynamics at {row['temperature']:g} K, "
            f"{row['survived']} of {row['trajectories']} trajectories of the {row['potential']} "
            f"potential held; mean time to failure {row['stable_ps']:.2f} of "
            f"{stability['length_ps']:g} ps."  # type: ignore[index]
        )
    if scans is None:
        return found
    tuned = scans["names"][-1]
    walls = [item for item in scans["checks"] if "hole_at" in item and item["potential"] == tuned]
    holes = sum(item["hole_at"] is not None for item in walls)
    if walls:
        have = "has a hole" if holes == 1 else "have holes"
        found.append(f"Of {len(walls)} repulsive walls of the {tuned} potential, {holes} {have}.")
    away = scans["forgetting"].get("elsewhere")
    if away is not None and away["relative"] is not None:
        found.append(
            f"On {away['structures']} structures away from the training set, forces changed by "
            f"{100 * away['relative']:.1f} % of the foundation's."
        )
    return found


def warnings(
    shown: Comparison,
    notes: Sequence[str],
    stability: Mapping[str, Any] | None = None,
    scans: Mapping[str, Any] | None = None,
) -> list[str]:
    """Return a run's warnings, and in what its potential is worse or unphysical; see `Page`."""
    found = [note.removeprefix("warning: ") for note in notes if note.startswith("warning: ")]
    for title, _, before, after in shown.rows(_SHOWN):
        if before and not after <= (1 + NOTICED) * before:
            found.append(f"The {title} on the {shown.source} set is worse than the foundation's.")
    found += _less_stable(stability or {})
    for item in (scans or {}).get("checks", []):
        if item.get("hole_at") is not None and item["potential"] == scans["names"][-1]:  # type: ignore[index]
            found.append(_hole(item))
    for item in (scans or {}).get("frequencies", []):
        tuned = list(item["potentials"].values())[-1]
        if not tuned["relaxed"]:
            found.append(f"{item['structure']} could not be relaxed.")
        elif tuned["imaginary"]:
            found.append(f"The minimum of {item['structure']} has imaginary frequencies.")
    return found


def _less_stable(stability: Mapping[str, Any]) -> list[str]:
    names, rows, found = stability.get("names", []), stability.get("summary", []), []
    conditions = {(row["ensemble"], row["temperature"], row["potential"]): row for row in rows}
    for (ensemble, temperature, name), row in conditions.items():
        if name != names[-1]:
            continue
        other = conditions.get((ensemble, temperature, names[0])) if len(names) == 2 else None
        dynamics = f"{ensemble.upper()} dynamics at {temperature:g} K"
        if other is not None and row["stable_ps"] < other["stable_ps"]:
            found.append(f"{dynamics} fails earlier than with the {names[0]}.")
        elif row["survived"] < row["trajectories"]:
            found.append(f"{dynamics} fails in some trajectories.")
    return found


def _hole(item: Mapping[str, Any]) -> str:
    named = f"The wall of {item['name']} ({item['kind']})"
    if item["hole"] is None:
        return f"{named} has energies that are not finite at {item['hole_at']:.2f}."
    barrier, place = item["hole_behind"], f"{item['hole_at']:.2f} {item.get('unit', '')}".rstrip()
    return (
        f"{named} collapses beyond a barrier of {barrier:.2f} eV: it has a hole of "
        f"{item['hole']:.2f} eV at {place}."
    )
