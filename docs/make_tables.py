"""Write the tables of losses.md from stored results: ``python docs/make_tables.py``.

Each goes between ``<!-- table NAME -->`` and ``<!-- end -->``.
"""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parent / "losses.md"
RESULTS = Path(__file__).parents[1] / "tests" / "benchmarks" / "results"
Runs = dict[str, dict[str, float]]


def costs(stored: dict[str, Any]) -> list[str]:
    """Ratios of time and memory, and counted passes, a line for each set of losses."""
    kinds = ("forward", "backward", "double backward", "foundation forward")
    lines = [
        "| losses | time / energies | time / energies + forces | memory / energies + forces | "
        "forward | backward | double backward | foundation |",
        "|---|" + "---:|" * 7,
    ]
    for name, row in stored["rows"].items():
        figures = [
            row["time_to_energies"],
            row["time_to_energies_and_forces"],
            row["memory_to_energies_and_forces"],
        ]
        passes = [f"{row['passes'].get(kind, 0):.0f}" for kind in kinds]
        cells = [*(f"{figure:.2f}" for figure in figures), *passes]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def sweep(stored: dict[str, Any]) -> list[str]:
    """Errors and times relative to energies alone: geometric mean, and range in brackets."""
    runs: Runs = stored["runs"]
    arms = list(dict.fromkeys(name.partition(" | ")[0] for name in runs))
    cases = list(dict.fromkeys(name.partition(" | ")[2] for name in runs))
    alone = arms[0]
    lines = [f"| relative to {alone} | energy MAE | force MAE | time |", "|---|---:|---:|---:|"]
    for arm in arms:
        cells = []
        for field in ("energy_mae", "forces_mae", "seconds"):
            ratios = [runs[f"{arm} | {c}"][field] / runs[f"{alone} | {c}"][field] for c in cases]
            mean = math.exp(statistics.mean(math.log(ratio) for ratio in ratios))
            spread = f" ({min(ratios):.2f}–{max(ratios):.2f})"
            cells.append(f"{mean:.2f}" + ("" if field == "seconds" else spread))
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    return lines


def energies_only(stored: dict[str, Any]) -> list[str]:
    """Test errors as mean ± sample standard deviation over draws."""
    fields = ("energy_mae", "forces_mae", "forces_rmse")
    lines = [
        "| ethanol, CCSD(T), 50 energies | energy MAE [meV] | force MAE [meV/Å] | "
        "force RMSE [meV/Å] |",
        "|---|---:|---:|---:|",
    ]
    rows = {"foundation, references refitted": ("foundation", next(iter(stored["arms"].values())))}
    rows |= {name: ("finetuned", row) for name, row in stored["arms"].items()}
    for name, (side, row) in rows.items():
        values = [row[f"{side} {field}"] for field in fields]
        cells = [f"{statistics.mean(v):.1f} ± {statistics.stdev(v):.1f}" for v in values]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


TABLES: dict[str, Callable[[dict[str, Any]], list[str]]] = {
    "loss_cost": costs,
    "weak_sweep": sweep,
    "energies_only": energies_only,
}


def page() -> str:
    """Return the page with every table as the stored results have it."""
    text = PAGE.read_text(encoding="utf-8")
    for name, table in TABLES.items():
        stored = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
        written = "\n".join([f"<!-- table {name} -->", *table(stored), "<!-- end -->"])
        pattern = rf"<!-- table {name} -->.*?<!-- end -->"
        text, found = re.subn(pattern, lambda _: written, text, flags=re.DOTALL)  # noqa: B023
        if found != 1:
            raise ValueError(f"{PAGE.name} has {found} places for the table {name}")
    return text


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
