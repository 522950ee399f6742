"""One HTML page on a run, readable from disk without a network."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.evaluation.calibration import TITLES as QUANTITIES
from finetune.evaluation.calibration import Calibration, Quantity, rounded
from finetune.evaluation.evaluated import Evaluated
from finetune.evaluation.plots import calibration, learning_curve, parity, write_png
from finetune.evaluation.scans.curves import Curve
from finetune.evaluation.scans.outcome import TITLES, figure
from finetune.evaluation.statistics import QUANTITIES as STATISTICS
from finetune.evaluation.summary import sentences, warnings
from finetune.files import write_atomically
from finetune.result import Comparison

if TYPE_CHECKING:
    from jinja2 import Template
    from matplotlib.figure import Figure

    from finetune.recipe import Recipe
    from finetune.result import RunResult


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
    text = _template("report.html").render(
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


def write_ladder(result: RunResult, recipe: Recipe, path: Path) -> None:
    """Write the ``report.html`` of a run in stages: a table for each, links to their reports."""
    page = _template("ladder.html").render(
        result=result, recipe=recipe.dump(), foundation=recipe.foundation
    )
    write_atomically(path, page.encode())


def write_curve(history: Sequence[dict[str, Any]], best_epoch: int, path: Path) -> None:
    """Write the learning curve as a PNG."""
    write_png(learning_curve(history, best_epoch), path)


def _template(name: str) -> Template:
    from jinja2 import Environment, PackageLoader

    loader = PackageLoader("finetune.evaluation", "templates")
    return Environment(loader=loader, autoescape=True).get_template(name)


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", dpi=150, metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
