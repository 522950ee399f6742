"""One HTML page on a run, readable from disk without a network."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.environment import versions
from finetune.evaluation.plots import learning_curve, parity
from finetune.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from finetune.recipe import Recipe
    from finetune.result import RunResult


def write_report(result: RunResult, recipe: Recipe, path: Path) -> None:
    """Write ``report.html``: the table, learning and parity plots, the recipe, versions."""
    from jinja2 import Environment, PackageLoader

    shown = result.shown
    template = Environment(
        loader=PackageLoader("finetune.evaluation", "templates"), autoescape=True
    ).get_template("report.html")
    page = template.render(
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


def write_curve(history: Sequence[dict[str, Any]], best_epoch: int, path: Path) -> None:
    """Write the learning curve as a PNG."""
    buffer = io.BytesIO()
    learning_curve(history, best_epoch).savefig(buffer, format="png", dpi=110)
    write_atomically(path, buffer.getvalue())


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
