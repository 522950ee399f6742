"""Write the tables of losses.md from stored results: ``python docs/make_tables.py``.

Each goes between ``<!-- table NAME -->`` and ``<!-- end -->``.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parent / "losses.md"
RESULTS = Path(__file__).parents[1] / "tests" / "benchmarks" / "results"


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


def sweep(stored: dict[str, Any], level: str) -> list[str]:
    """Errors relative to energies alone: geometric mean, and range in brackets."""
    runs = stored["runs"]
    arms = dict.fromkeys(name.partition(" | ")[0] for name in runs)
    cases = dict.fromkeys(name.partition(" | ")[2] for name in runs)
    cases = [case for case in cases if f", {level}, " in case]
    arms = [arm for arm in arms if all(f"{arm} | {case}" in runs for case in cases)]
    alone = arms[0]
    fields = {"finetuned energy_mae": "energy MAE", "finetuned forces_mae": "force MAE"}
    fields = {f: shown for f, shown in fields.items() if runs[f"{alone} | {cases[0]}"][f]}
    heads = [f"{level}, relative to {alone}", *fields.values()]
    lines = [f"| {' | '.join(heads)} |", "|---|" + "---:|" * len(fields)]
    for arm in arms:
        cells = []
        for field in fields:
            ratios = [runs[f"{arm} | {c}"][field] / runs[f"{alone} | {c}"][field] for c in cases]
            mean = math.exp(statistics.mean(math.log(ratio) for ratio in ratios))
            cells.append(f"{mean:.2f} ({min(ratios):.2f}–{max(ratios):.2f})")
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


TABLES: dict[str, tuple[str, Callable[[dict[str, Any]], list[str]]]] = {
    "loss_cost": ("loss_cost", costs),
    "weak_sweep CCSD(T)": ("weak_sweep", partial(sweep, level="CCSD(T)")),
    "weak_sweep PBE0": ("weak_sweep", partial(sweep, level="PBE0")),
    "energies_only": ("energies_only", energies_only),
}


def page() -> str:
    """Return the page with every table as the stored results have it."""
    text = PAGE.read_text(encoding="utf-8")
    for name, (file, table) in TABLES.items():
        stored = json.loads((RESULTS / f"{file}.json").read_text(encoding="utf-8"))
        written = "\n".join([f"<!-- table {name} -->", *table(stored), "<!-- end -->"])
        before, begin, rest = text.partition(f"<!-- table {name} -->")
        _, end, after = rest.partition("<!-- end -->")
        if not begin or not end:
            raise ValueError(f"{PAGE.name} has no place for the table {name}")
        text = before + written + after
    return text


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
