"""The report of a run, from all that its folder holds."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import TemplateError

from finetune.core import run_files
from finetune.core.errors import DataError, RunFolderError, system_errors
from finetune.core.files import write_atomically
from finetune.evaluation.calibration import TITLES as QUANTITIES
from finetune.evaluation.calibration import Calibration, Quantity, rounded
from finetune.evaluation.comparison import Comparison
from finetune.evaluation.curves import Curve
from finetune.evaluation.dynamics import RESULT as STABILITY
from finetune.evaluation.evaluation import Evaluated, EvaluatedCommittee, evaluate
from finetune.evaluation.pair import own_files
from finetune.evaluation.plots import calibration, learning_curve, parity, write_png
from finetune.evaluation.scans import RESULT as SCANS
from finetune.evaluation.scans import TITLES, figure
from finetune.evaluation.statistics import QUANTITIES as STATISTICS
from finetune.potentials.errors import Errors, LabelledPredictions
from finetune.recipe.recipe import Recipe

if TYPE_CHECKING:
    from jinja2 import Template
    from matplotlib.figure import Figure


NOTICED = 0.02
"""Share by which an error has to grow before a report warns of it."""
_TOLD = (
    ("energy_per_atom_mae", "energy MAE", "meV/atom"),
    ("forces_mae", "force MAE", "meV/Å"),
    ("stress_mae", "stress MAE", "meV/Å³"),
)


def sentences(
    shown: Comparison,
    stability: Mapping[str, Any] | None = None,
    scans: Mapping[str, Any] | None = None,
) -> list[str]:
    """Return what the run, its dynamics and its scans found, a sentence each.

    Args:
        shown: The comparison that speaks for the run.
        stability: Content of ``stability.json``, if there is one.
        scans: Content of ``scans.json``, if there is one.
    """
    found = []
    for name, title, unit in _TOLD:
        before = getattr(shown.foundation, name) if shown.foundation is not None else None
        after = getattr(shown.finetuned, name)
        if after is None:
            continue
        if not before:
            found.append(f"On the {shown.source} set the {title} is {1000 * after:.1f} {unit}.")
            continue
        change = 100 * (after / before - 1)
        if after == before:
            found.append(f"On the {shown.source} set the {title} stayed {1000 * after:.1f} {unit}.")
            continue
        verb = "fell" if after < before else "rose" if after > before else "went"  # to NaN
        found.append(
            f"On the {shown.source} set the {title} {verb} from {1000 * before:.1f} to "
            f"{1000 * after:.1f} {unit} ({change:+.0f} %)."
        )
    for row in (stability or {}).get("summary", []):
        found.append(
            f"In {row['ensemble'].upper()} dynamics at {row['temperature']:g} K, "
            f"{row['survived']} of {row['trajectories']} trajectories of the {row['potential']} "
            f"potential held; mean time to failure {row['stable_ps']:.2f} of "
            f"{stability['length_ps']:g} ps."  # type: ignore[index]
        )
    if scans is not None:
        found += _scan_sentences(scans)
    return found


def _scan_sentences(scans: Mapping[str, Any]) -> list[str]:
    found = []
    tuned = scans["names"][-1]
    walls = [item for item in scans["checks"] if "hole_at" in item and item["potential"] == tuned]
    holes = [item for item in walls if item["hole_at"] is not None]
    if walls:
        found.append(
            f"Of {len(walls)} repulsive walls of the {tuned} potential, {len(holes)} "
            f"{'has a hole' if len(holes) == 1 else 'have holes'}."
        )
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
    """Return what to beware of: the run's own warnings, and where the foundation was better."""
    found = [note.removeprefix("warning: ") for note in notes if note.startswith("warning: ")]
    for name, title, _ in _TOLD:
        before = getattr(shown.foundation, name) if shown.foundation is not None else None
        after = getattr(shown.finetuned, name)
        if before and after is not None and not after <= (1 + NOTICED) * before:
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


def _hole(item: Mapping[str, Any]) -> str:
    named = f"The wall of {item['name']} ({item['kind']})"
    if item["hole"] is None:
        return f"{named} has energies that are not finite at {item['hole_at']:.2f}."
    return (
        f"{named} has a hole at {item['hole_at']:.2f} {item.get('unit', '')}, "
        f"{item['hole']:.2f} eV deep, behind {item['hole_behind']:.2f} eV."
    )


def _less_stable(stability: Mapping[str, Any]) -> list[str]:
    names = stability.get("names", [])
    rows = {
        (row["ensemble"], row["temperature"], row["potential"]): row
        for row in stability.get("summary", [])
    }
    found = []
    for (ensemble, temperature, name), row in rows.items():
        if name != names[-1]:
            continue
        other = rows.get((ensemble, temperature, names[0])) if len(names) == 2 else None
        dynamics = f"{ensemble.upper()} dynamics at {temperature:g} K"
        if other is not None and row["stable_ps"] < other["stable_ps"]:
            found.append(f"{dynamics} holds for less long than with the {names[0]}.")
        elif row["survived"] < row["trajectories"]:
            found.append(f"{dynamics} fails in some trajectories.")
    return found


@dataclass(frozen=True)
class Page:
    """All that the report of a run shows.

    Attributes:
        name: Of the run.
        story: How the training ended: ``epochs``, ``ending``, ``best_epoch``, ``seconds``.
        notes: The run's notes and warnings.
        history: One record for each epoch.
        shown: Errors; an `Evaluated` adds elements, subsets and the worst structures.
        recipe: The recipe.
        environment: Content of ``environment.json``.
        stability: Content of ``stability.json``, if dynamics were run.
        scans: Content of ``scans.json``, if scans were made.
        calibrations: Of a committee, by quantity; empty for a single run.
        members: Names of the members of a committee.
    """

    name: str
    story: Mapping[str, Any]
    notes: Sequence[str]
    history: Sequence[dict[str, Any]]
    shown: Comparison
    recipe: Recipe
    environment: Mapping[str, Any]
    stability: Mapping[str, Any] | None = None
    scans: Mapping[str, Any] | None = None
    calibrations: Mapping[Quantity, Calibration] = field(default_factory=dict)
    members: Sequence[str] = ()


def write_report(page: Page, path: Path) -> None:
    """Write a page that opens from disk without a network: summary, tables, figures, recipe."""
    shown = page.shown
    labelled = shown.finetuned_predictions.energy.size + shown.finetuned_predictions.forces.size
    text = template("report.html").render(
        page=page,
        shown=shown,
        rows=shown.rows(),
        sentences=sentences(shown, page.stability, page.scans),
        warnings=warnings(shown, page.notes, page.stability, page.scans),
        notes=[note for note in page.notes if not note.startswith("warning: ")],
        quantities=STATISTICS,
        groups=shown.groups() if isinstance(shown, Evaluated) else {},
        worst=shown.worst() if isinstance(shown, Evaluated) else {},
        curve=_svg(learning_curve(page.history, page.story["best_epoch"])) if page.history else "",
        calibrations=[
            (*QUANTITIES[name], rounded(item)) for name, item in page.calibrations.items()
        ],
        calibration=_svg(calibration(page.calibrations)) if page.calibrations else "",
        parity=_svg(parity(shown.foundation_predictions, shown.finetuned_predictions))
        if labelled
        else "",
        scans=_scan_figures(page.scans),
        recipe=page.recipe.dump(),
        foundation=page.recipe.foundation,
    )
    write_atomically(path, text.encode())


def _scan_figures(scans: Mapping[str, Any] | None) -> dict[str, list[str]]:
    """Return the figures of each kind of scan, a panel each, so that they wrap on a phone."""
    found: dict[str, list[str]] = {}
    for item in (scans or {}).get("curves", []):
        found.setdefault(TITLES[item["kind"]], []).append(_svg(figure([Curve.from_dict(item)])))
    return found


def write_curve(history: Sequence[dict[str, Any]], best_epoch: int, path: Path) -> None:
    """Write the learning curve as a PNG."""
    write_png(learning_curve(history, best_epoch), path)


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
