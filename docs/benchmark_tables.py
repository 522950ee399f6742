"""Tables of docs/benchmarks.md, from what tests/benchmarks/weak_losses.py has stored."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from scipy.stats import t as student

ALONE, LONG = "labels alone", "labels alone, 5 times the steps"
FOUNDATION = "foundation, references refitted"
THEIRS = ("mace_run_train", "mace_run_train --lora")
ORDER = (
    ALONE,
    LONG,
    "PITC",
    "PITC + PISC",
    "PITC + PISC, scheduled",
    "anchored PITC",
    "anchored PITC, heavier",
    "replay",
    "anchored PITC + replay",
    "PITC + PISC, 5 times the steps",
    "anchored PITC, 5 times the steps",
    "LoRA, labels alone",
    "LoRA, best weak loss",
    "Gauss-Newton",
    "Gauss-Newton, LoRA",
    "from scratch",
    *THEIRS,
)
WEAK = ("PITC", "replay", "weak loss")
"""Words in the names of arms that have weak losses."""
SHOWN = {"energy_mae": "energy", "forces_mae": "forces"}


def weak_losses(stored: dict[str, Any], cases: Sequence[str]) -> list[str]:
    """Test errors of each arm, mean ± sample standard deviation over draws, and paired ratios."""
    found = {case: arms for case in cases if (arms := _arms(stored["runs"], case))}
    if not found:
        return ["Not run yet."]
    lines = [
        "| arm |" + "".join(f" {case}: energy | forces |" for case in found) + " energy, relative |"
        " forces, relative | time, relative |",
        "|---|" + "---:|" * (2 * len(found) + 3),
    ]
    names = _names(found)
    lines.append(_row(FOUNDATION, found, "foundation", ALONE))
    lines += [_row(name, found, "finetuned", name) for name in names]
    return lines


def goal(stored: dict[str, Any], cases: Sequence[str]) -> list[str]:
    """The arm with weak losses that validates best over the one without them that does."""
    found = {case: arms for case in cases if (arms := _arms(stored["runs"], case))}
    lines = [
        "| set | best without weak losses: energy | forces | | best with: energy | forces | "
        "| energy, relative | forces, relative |",
        "|---|---:|---:|---|---:|---:|---|---:|---:|",
    ]
    ratios: dict[str, list[float]] = {field: [] for field in SHOWN}
    for case, arms in found.items():
        names = [_best(arms, weak) for weak in (False, True)]
        draws = [arms[name]["draws"] for name in names]
        cells, relative = [], []
        for name, rows in zip(names, draws, strict=True):
            cells += [_spread([row[f"test finetuned {field}"] for row in rows]) for field in SHOWN]
            cells.append(name)
        for field in SHOWN:
            key = f"test finetuned {field}"
            logs = _logs(draws[1], draws[0], key, key)
            ratios[field] += logs
            relative.append(f"{math.exp(statistics.mean(logs)):.2f}")
        lines.append(f"| {case} | " + " | ".join([*cells, *relative]) + " |")
    total = [_ratio(ratios[field]) for field in SHOWN]
    return [*lines, "| all | | | | | | | " + " | ".join(total) + " |"]


def _best(arms: dict[str, Any], weak: bool) -> str:
    """Return the arm of ours with the smallest mean validation error of energies."""
    names = [
        name for name in arms if any(word in name for word in WEAK) == weak and name not in THEIRS
    ]
    return min(
        names,
        key=lambda name: statistics.mean(row["valid energy_mae"] for row in arms[name]["draws"]),
    )


def chosen(stored: dict[str, Any], cases: Sequence[str]) -> list[str]:
    """What each arm chose by the validation energies of the first draw."""
    found = {case: arms for case in cases if (arms := _arms(stored["runs"], case))}
    if not found:
        return ["Not run yet."]
    lines = ["| arm |" + "".join(f" {case} |" for case in found), "|---|" + "---|" * len(found)]
    for name in _names(found):
        cells = [arms[name]["chosen"] if name in arms else "" for arms in found.values()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def further(stored: dict[str, Any], cases: Sequence[str], tests: Sequence[str]) -> list[str]:
    """Errors away from the training set: energies with the mean error removed, and forces."""
    columns = [
        (case, test, field)
        for case in cases
        for test in tests
        for field in ("energy_shifted_mae", "forces_mae")
        if f"{test} finetuned {field}" in (_first(stored["runs"], case) or {})
    ]
    if not columns:
        return ["Not run yet."]
    heads = [
        f"{case}, {test}: {'energy' if field.startswith('energy') else 'forces'}"
        for case, test, field in columns
    ]
    lines = [f"| arm | {' | '.join(heads)} |", "|---|" + "---:|" * len(heads)]
    found = {case: _arms(stored["runs"], case) for case in cases}
    names = _names(found)
    for title, side, name in [
        (FOUNDATION, "foundation", ALONE),
        *((name, "finetuned", name) for name in names),
    ]:
        cells = []
        for case, test, field in columns:
            draws = found[case].get(name, {}).get("draws", [])
            cells.append(_spread([row[f"{test} {side} {field}"] for row in draws]))
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return lines


def _arms(runs: dict[str, Any], case: str) -> dict[str, Any]:
    """Return the finished arms of a case by name."""
    return {
        name.removeprefix(f"{case} | "): row
        for name, row in runs.items()
        if name.startswith(f"{case} | ") and "draws" in row
    }


def _names(found: dict[str, dict[str, Any]]) -> list[str]:
    """Return the arms that any case has, in the order of the tables."""
    there = dict.fromkeys(name for arms in found.values() for name in arms)
    return sorted(there, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))


def _first(runs: dict[str, Any], case: str) -> dict[str, Any] | None:
    arms = _arms(runs, case)
    return next(iter(arms.values()))["draws"][0] if arms else None


def _row(title: str, found: dict[str, Any], side: str, name: str) -> str:
    cells, times = [], []
    ratios: dict[str, list[float]] = {field: [] for field in SHOWN}
    for arms in found.values():
        draws, plain = (arms.get(arm, {}).get("draws", []) for arm in (name, ALONE))
        for field in SHOWN:
            cells.append(_spread([row[f"test {side} {field}"] for row in draws]))
            ratios[field] += _logs(draws, plain, f"test {side} {field}", f"test finetuned {field}")
        if side == "finetuned":
            times += _logs(draws, plain, "seconds", "seconds")
    cells += ["1" if title == ALONE else _ratio(ratios[field]) for field in SHOWN]
    return f"| {title} | " + " | ".join([*cells, _time(times)]) + " |"


def against(
    stored: dict[str, Any], groups: Mapping[str, Sequence[str]], arm: str, others: Sequence[str]
) -> list[str]:
    """Paired ratios of an arm to others: energy, forces, time."""
    heads = [f"relative to {other}: energy | forces | time" for other in others]
    lines = [f"| labels | {' | '.join(heads)} |", "|---|" + "---:|" * (3 * len(heads))]
    for group, cases in groups.items():
        found = [_arms(stored["runs"], case) for case in cases]
        cells = []
        for other in others:
            pairs = [(arms[arm]["draws"], arms[other]["draws"]) for arms in found if other in arms]
            for field in SHOWN:
                key = f"test finetuned {field}"
                cells.append(_ratio([x for pair in pairs for x in _logs(*pair, key, key)]))
            cells.append(_time([x for pair in pairs for x in _logs(*pair, "seconds", "seconds")]))
        lines.append(f"| {group} | " + " | ".join(cells) + " |")
    return lines


def _logs(
    draws: list[dict[str, float]], others: list[dict[str, float]], key: str, other_key: str
) -> list[float]:
    """Return the logarithms of paired ratios; nothing where the arm was not run or not timed."""
    if not draws or key not in draws[0]:
        return []
    return [math.log(x[key] / y[other_key]) for x, y in zip(draws, others, strict=True)]


def _time(logarithms: list[float]) -> str:
    return f"{math.exp(statistics.mean(logarithms)):.2g}" if logarithms else ""


def _spread(values: list[float]) -> str:
    if not values:
        return ""
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"


def _ratio(logarithms: list[float]) -> str:
    """Geometric mean of paired ratios, and its 95 % interval by Student's t."""
    if len(logarithms) < 2:
        return ""
    mean, low, high = (round(math.exp(value), 2) for value in _interval(logarithms))
    mark = "**" if low > 1 or high < 1 else ""
    return f"{mark}{mean:.2f}{mark} ({low:.2f}–{high:.2f})"


def _interval(values: list[float]) -> tuple[float, float, float]:
    """Mean, and its 95 % interval by Student's t."""
    mean, count = statistics.mean(values), len(values)
    half = student.ppf(0.975, count - 1) * statistics.stdev(values) / math.sqrt(count)
    return mean, mean - half, mean + half


def stability(stored: dict[str, Any], cases: Sequence[str]) -> list[str]:
    """Trajectories that held, of all, and the mean time to failure in ps."""
    found: dict[str, dict[str, Any]] = {case: {} for case in cases}
    for name, rows in stored["runs"].items():
        case, _, arm = name.partition(" | ")
        found[case][arm] = rows
    heads = [*found, "ps longer than labels alone"]
    lines = [f"| arm | {' | '.join(heads)} |", "|---|" + "---:|" * len(heads)]
    for arm in ["foundation", *(name for name in _names(found) if name != "foundation")]:
        cells = []
        for arms in found.values():
            rows = arms.get(arm, [])
            held, total = (sum(row[key] for row in rows) for key in ("survived", "trajectories"))
            mean = statistics.mean(row["stable_ps"] for row in rows) if rows else 0.0
            cells.append(f"{held} of {total}, {mean:.2f} ps" if rows else "")
        lines.append(f"| {arm} | " + " | ".join([*cells, _longer(found, arm)]) + " |")
    return lines


def _longer(found: dict[str, dict[str, Any]], arm: str) -> str:
    """Mean paired difference of the time to failure to the labels alone, and its interval."""
    pairs = [
        (row["stable_ps"], other["stable_ps"])
        for arms in found.values()
        if arm not in ("foundation", ALONE) and arm in arms
        for row, other in zip(arms[arm], arms[ALONE], strict=True)
    ]
    if len(pairs) < 2:
        return ""
    mean, low, high = _interval([new - old for new, old in pairs])
    return f"{mean:+.2f} ({low:+.2f} to {high:+.2f})"


def weak_rows(stored: dict[str, Any]) -> list[str]:
    """Errors with weak residuals in the linear solve relative to those without, by variance."""
    heads = [f"variance {strength:g}" for strength in stored["strengths"]]
    lines = [
        "| set | residuals | without: energy | forces | "
        + " | ".join([*heads, "chosen by the evidence"])
        + " |",
        "|---|---|" + "---:|" * (len(heads) + 3),
    ]
    for case, orders in stored["runs"].items():
        for order, draws in orders.items():
            plain = [statistics.mean(draw[0][field] for draw in draws) for field in SHOWN]
            likely = [max(range(len(d)), key=lambda i, d=d: d[i]["log_evidence"]) for d in draws]
            picks = [[number + 1] * len(draws) for number in range(len(heads))]
            cells = [_relative(draws, pick) for pick in [*picks, likely]]
            cells[-1] += f", {likely.count(0)} of {len(draws)} without"
            lines.append(
                f"| {case} | {order} order | {plain[0]:.1f} | {plain[1]:.1f} | "
                + " | ".join(cells)
                + " |"
            )
    return lines


def _relative(draws: list[list[dict[str, float]]], pick: Sequence[int]) -> str:
    """Geometric means over draws of the errors of chosen entries over those of the first."""
    means = [
        statistics.mean(
            math.log(d[i][field] / d[0][field]) for d, i in zip(draws, pick, strict=True)
        )
        for field in SHOWN
    ]
    return " / ".join(f"{math.exp(mean):.2f}" for mean in means)
