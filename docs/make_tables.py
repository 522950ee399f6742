"""Write the tables of the docs from stored results: ``python docs/make_tables.py``.

Each goes between ``<!-- table NAME -->`` and ``<!-- end -->``.
"""

from __future__ import annotations

import json
import math
import statistics
import textwrap
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import benchmark_tables

DOCS = Path(__file__).parent
MOLECULES = ("methanol", "ethanol")
LABELS = (10, 25, 100)
ENERGIES = "{}, {} energies"
PUBLISHED = ("acetylacetone, 25 energies", "formaldehyde, 25 energies")
ACETYLACETONE = ("600 K", "dihedral", "proton transfer")
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
    """Errors relative to energies alone: geometric mean of the cases run, and range in brackets."""
    runs = stored["runs"]
    arms = dict.fromkeys(name.partition(" | ")[0] for name in runs)
    cases = dict.fromkeys(name.partition(" | ")[2] for name in runs)
    cases = [case for case in cases if f", {level}, " in case]
    arms = [arm for arm in arms if any(f"{arm} | {case}" in runs for case in cases)]
    alone = arms[0]
    fields = {"finetuned energy_mae": "energy MAE", "finetuned forces_mae": "force MAE"}
    fields = {f: shown for f, shown in fields.items() if runs[f"{alone} | {cases[0]}"][f]}
    heads = [f"{level}, relative to {alone}", *fields.values()]
    lines = [f"| {' | '.join(heads)} |", "|---|" + "---:|" * len(fields)]
    for arm in arms:
        cells = []
        for field in fields:
            ratios = [
                runs[f"{arm} | {case}"][field] / runs[f"{alone} | {case}"][field]
                for case in cases
                if f"{arm} | {case}" in runs
            ]
            mean = math.exp(statistics.mean(math.log(ratio) for ratio in ratios))
            cells.append(f"{mean:.2f} ({min(ratios):.2f}–{max(ratios):.2f})")
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    return lines


def adapter_sizes(stored: dict[str, Any]) -> list[str]:
    """Trained numbers and bytes of every adapter, and their share of the model."""
    models = list(stored["models"].values())
    lines = ["| adapter |" + " trained | file | of the model |" * len(models)]
    lines.append("|---|" + "---:|---:|---:|" * len(models))
    for name in models[0]["adapters"]:
        cells = []
        for model in models:
            row, whole = model["adapters"][name], model["model"]["bytes"]
            share = f"{100 * row['bytes'] / whole:.2g} %" if row["bytes"] < whole else "100 %"
            cells += [f"{row['trained']:,}", _bytes(row["bytes"]), share]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    cells = []
    for model in models:
        cells += [f"{model['model']['parameters']:,}", _bytes(model["model"]["bytes"]), ""]
    return [*lines, "| complete model | " + " | ".join(cells) + " |"]


def _bytes(count: int) -> str:
    return f"{count / 1e6:.2f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"


def adapters(stored: dict[str, Any]) -> list[str]:
    """Test errors as mean ± sample standard deviation over draws, and times, by labels and kind."""
    cells = {name: row for name, row in stored["runs"].items() if "draws" in row}
    sizes = dict.fromkeys(name.partition(" | ")[2] for name in cells)
    lines = [
        *textwrap.wrap(
            f"Test errors on ethanol, CCSD(T), after {stored['steps']} steps on energies alone: "
            "mean ± sample standard deviation over three draws of the labels. The learning rate is "
            "chosen by the validation energies of the first draw. The time is the processor time "
            "of a run (`tests/benchmarks/adapters.py`).",
            119,
        ),
        "",
        "| labels | kind | learning rate | energy MAE [meV] | force MAE [meV/Å] | time [s] |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for size in sizes:
        rows = {n.partition(" | ")[0]: r for n, r in cells.items() if n.endswith(f" | {size}")}
        some = next(iter(rows.values()))["draws"]
        count = size.removesuffix(" labels")
        lines.append(f"| {count} | none: the foundation | | {_errors(some, 'foundation')} | |")
        for kind, row in rows.items():
            seconds = statistics.mean(draw["seconds"] for draw in row["draws"])
            rate = f"{row['learning rate']:.1g}"
            errors = _errors(row["draws"], "finetuned")
            lines.append(f"| {count} | `{kind}` | {rate} | {errors} | {seconds:.0f} |")
    return lines


def _errors(draws: list[dict[str, Any]], side: str) -> str:
    values = [[draw[f"{side} {field}"] for draw in draws] for field in ("energy_mae", "forces_mae")]
    return " | ".join(f"{statistics.mean(v):.1f} ± {statistics.stdev(v):.1f}" for v in values)


def _cases(name: str, labels: Sequence[int]) -> list[str]:
    return [name.format(molecule, count) for count in labels for molecule in MOLECULES]


FORCES = _cases("{}, PBE0, {} energies and forces", [25])
LADDER = _cases(ENERGIES + " after PBE0", [10, 25])
GOAL = [*_cases(ENERGIES, [10, 25]), *LADDER, *PUBLISHED]
FURTHER = [*FORCES, *LADDER, *PUBLISHED]
GROUPS = {
    **{f"{labels} energies": _cases(ENERGIES, [labels]) for labels in LABELS},
    "25 energies and forces": FORCES,
    "10 and 25 energies after PBE0": LADDER,
    "published sets, 25 energies": PUBLISHED,
}


Table = Callable[[dict[str, Any]], list[str]]
TABLES: dict[str, dict[str, tuple[str, Table]]] = {
    "losses.md": {
        "loss_cost": ("loss_cost", costs),
        "weak_sweep CCSD(T)": ("weak_sweep", partial(sweep, level="CCSD(T)")),
        "weak_sweep PBE0": ("weak_sweep", partial(sweep, level="PBE0")),
    },
    "adapters.md": {
        "adapter_sizes": ("adapter_sizes", adapter_sizes),
        "adapters": ("adapters", adapters),
    },
    "benchmarks.md": {
        **{
            f"weak_losses {labels}": (
                "weak_losses",
                partial(benchmark_tables.weak_losses, cases=_cases(ENERGIES, [labels])),
            )
            for labels in (10, 25, 100)
        },
        "gauss_newton": (
            "weak_losses",
            partial(
                benchmark_tables.against,
                groups=GROUPS,
                arm="Gauss-Newton",
                others=[benchmark_tables.ALONE, benchmark_tables.LONG],
            ),
        ),
        "goal": ("weak_losses", partial(benchmark_tables.goal, cases=GOAL)),
        "chosen": ("weak_losses", partial(benchmark_tables.chosen, cases=_cases(ENERGIES, LABELS))),
        "chosen further": ("weak_losses", partial(benchmark_tables.chosen, cases=FURTHER)),
        "scans": (
            "weak_losses",
            partial(benchmark_tables.further, cases=_cases(ENERGIES, LABELS), tests=["scan"]),
        ),
        "stability": (
            "stability",
            partial(benchmark_tables.stability, cases=_cases(ENERGIES, LABELS)),
        ),
        "stability 3000": (
            "stability_3000",
            partial(benchmark_tables.stability, cases=_cases(ENERGIES, [25])),
        ),
        "weak_rows": ("weak_rows", benchmark_tables.weak_rows),
        "forces": (
            "weak_losses",
            partial(benchmark_tables.weak_losses, cases=FORCES),
        ),
        "published": (
            "weak_losses",
            partial(benchmark_tables.weak_losses, cases=PUBLISHED),
        ),
        "published further": (
            "weak_losses",
            partial(benchmark_tables.further, cases=PUBLISHED[:1], tests=ACETYLACETONE),
        ),
        "ladder": (
            "weak_losses",
            partial(benchmark_tables.weak_losses, cases=LADDER),
        ),
    },
}


def page(file_name: str) -> str:
    """Return a page with every table as the stored results have it, where there are some."""
    text = (DOCS / file_name).read_text(encoding="utf-8")
    for name, (file, table) in TABLES[file_name].items():
        results = RESULTS / f"{file}.json"
        if not results.is_file():
            continue
        stored = json.loads(results.read_text(encoding="utf-8"))
        written = "\n".join([f"<!-- table {name} -->", *table(stored), "<!-- end -->"])
        before, begin, rest = text.partition(f"<!-- table {name} -->")
        _, end, after = rest.partition("<!-- end -->")
        if not begin or not end:
            raise ValueError(f"{file_name} has no place for the table {name}")
        text = before + written + after
    return text


if __name__ == "__main__":
    for page_name in TABLES:
        (DOCS / page_name).write_text(page(page_name), encoding="utf-8")
