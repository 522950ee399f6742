"""One HTML page on a run, readable from disk without a network."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.environment import versions
from finetune.evaluation.plots import learning_curve, parity, write_png
from finetune.files import write_atomically

if TYPE_CHECKING:
    from jinja2 import Template
    from matplotlib.figure import Figure

    from finetune.recipe import Recipe
    from finetune.result import RunResult


def write_report(result: RunResult, recipe: Recipe, path: Path) -> None:
    """Write ``report.html``: the table, learning and parity plots, the recipe, versions."""
    shown = result.shown
    page = _template("report.html").render(
        result=result,
        shown=shown,
        rows=shown.rows(),
        curve=_svg(learning_curve(result.history, result.best_epoch)),
        parity=_svg(parity(shown.foundation_predictions, shown.finetuned_predictions)),
        recipe=recipe.dump(),
        foundation=recipe.foundation,
        versions=versions(),
    )
    write_atomically(path, page.encode())


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
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
