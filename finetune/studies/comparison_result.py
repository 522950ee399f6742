"""What a comparison found: statistics over seeds, tables, learning curves, JSON and CSV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table
from rich.text import Text
from scipy import stats

from finetune.core.files import write_atomically, write_json
from finetune.core.text import counted
from finetune.evaluation.plots import FAINT, write_png
from finetune.potentials.errors import GRADIENT_ROWS, ROWS
from finetune.studies.arms import LABELS, Arm
from finetune.studies.tuning_result import csv_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RESULT, TABLE, RUNS, CURVE = "result.json", "table.csv", "runs.csv", "learning-curve.png"
FILES = (RESULT, TABLE, RUNS, CURVE)
FOUNDATION = "foundation"
SHOWN = ("energy_mae", "forces_mae", "inconsistency_mae", "stress_mae")
"""Errors that have a table each; JSON and CSV have all."""
TITLES = {field: (title, unit) for title, field, unit in (*ROWS, *GRADIENT_ROWS)}
ROUNDING = 1e-6
"""Share of the largest difference below which differences count as equal."""


@dataclass(frozen=True)
class Difference:
    """Mean paired difference to the baseline over the seeds that both have (``pairs``).

    ``low`` and ``high`` are the ends of its 95 % confidence interval (Student's t), ``p`` is the
    two-sided p of a paired t-test, and ``p_holm`` the same after Holm's correction for the number
    of arms. They are None with one pair, and where the differences do not vary: seeds that change
    nothing are no repetition.
    """

    mean: float
    low: float | None
    high: float | None
    p: float | None
    p_holm: float | None
    pairs: int


def difference(values: Mapping[int, float], baseline: Mapping[int, float]) -> Difference | None:
    """Compare two arms by seed; None where they share none."""
    found = np.array([values[seed] - baseline[seed] for seed in values if seed in baseline])
    if not found.size:
        return None
    mean, pairs = float(found.mean()), len(found)
    if not np.ptp(found) > ROUNDING * np.abs(found).max():
        return Difference(mean, None, None, None, None, pairs)
    test = stats.ttest_1samp(found, 0.0)
    low, high = map(float, test.confidence_interval(0.95))
    return Difference(mean, low, high, float(test.pvalue), None, pairs)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Correct p values for their number (Holm, Scand. J. Stat. 6, 65 (1979)); None stays None."""
    known = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    found: list[float | None] = [None] * len(p_values)
    least = 0.0
    for rank, (p, place) in enumerate(known):
        least = max(least, min(1.0, p * (len(known) - rank)))
        found[place] = least
    return found


@dataclass(frozen=True)
class Cell:
    """One arm by one measure (field of `Errors`), on the test set; eV and Å.

    ``spread`` is the standard deviation over seeds, None for one; ``difference`` is to the
    baseline, None for the baseline itself.
    """

    arm: str
    measure: str
    values: dict[int, float]
    mean: float
    spread: float | None
    difference: Difference | None = None


Cells = Mapping[tuple[str, str], Cell]
"""By arm and measure."""


def evaluated(
    arms: Sequence[Arm], outcomes: Mapping[str, Mapping[int, Mapping[str, Any]]]
) -> tuple[Cells, Cells]:
    """Return the cells of all arms, with differences to their baselines, and of the foundation."""
    cells: dict[tuple[str, str], Cell] = {}
    foundation: dict[tuple[str, str], Cell] = {}
    firsts = {arm.values.get(LABELS): arm.name for arm in reversed(arms)}
    for measure in TITLES:
        found = {arm.name: _cell(arm.name, measure, outcomes[arm.name], "test") for arm in arms}
        differences = {}
        for arm in arms:
            own, first = found[arm.name], found[arm.baseline]
            if arm.baseline != arm.name and own and first:
                differences[arm.name] = difference(own.values, first.values)
        corrected = holm([item.p if item else None for item in differences.values()])
        for (name, item), p in zip(differences.items(), corrected, strict=True):
            own = found[name]
            if own is not None and item is not None:
                found[name] = replace(own, difference=replace(item, p_holm=p))
        cells.update({(name, measure): cell for name, cell in found.items() if cell})
        for name in reversed(firsts.values()):
            cell = _cell(name, measure, outcomes[name], FOUNDATION)
            if cell is not None:
                foundation[name, measure] = cell
    return cells, foundation


def _cell(
    arm: str, measure: str, outcomes: Mapping[int, Mapping[str, Any]], side: str
) -> Cell | None:
    values = {
        seed: float(item[side][measure])
        for seed, item in outcomes.items()
        if item.get(side) and item[side].get(measure) is not None
    }
    if not values:
        return None
    numbers = np.array(list(values.values()))
    spread = float(numbers.std(ddof=1)) if len(numbers) > 1 else None
    return Cell(arm, measure, values, float(numbers.mean()), spread)


def varies_labels(arms: Sequence[Arm]) -> bool:
    """Return whether arms differ in the number of labels."""
    return len({arm.values.get(LABELS) for arm in arms}) > 1


@dataclass(frozen=True)
class ComparisonResult:
    """A finished comparison.

    The first seed is the one that was tuned on. ``choices`` are what tuning chose, by arm (its
    ``choice.json``), ``outcomes`` what each run found, by arm and seed (``fault`` if it failed),
    ``cells`` the errors by arm and measure, and ``foundation`` those of the foundation, with the
    reference energies of the first arm of each number of labels, by that arm.
    """

    folder: Path
    arms: Sequence[Arm]
    seeds: Sequence[int]
    choices: Mapping[str, Mapping[str, Any]]
    outcomes: Mapping[str, Mapping[int, Mapping[str, Any]]]
    cells: Cells
    foundation: Cells

    def measures(self) -> list[str]:
        """Return the errors that there are labels for, in the order of tables."""
        return [name for name in TITLES if any(key[1] == name for key in self.cells)]

    def seconds(self, arm: str) -> float | None:
        """Return the mean training time of an arm, s."""
        found = [item["seconds"] for item in self.outcomes[arm].values() if "seconds" in item]
        return float(np.mean(found)) if found else None

    def ratio(self, arm: Arm) -> float | None:
        """Return the training time of an arm over that of its baseline."""
        own, first = self.seconds(arm.name), self.seconds(arm.baseline)
        return own / first if own is not None and first else None

    def failed(self, arm: str) -> int:
        """Return how many runs of an arm failed."""
        return sum("fault" in item for item in self.outcomes[arm].values())

    def notes(self) -> list[str]:
        """Return lines on arms that were not tuned, and on runs that failed or learnt nothing."""
        found, learnt_nothing = [], []
        for arm in self.arms:
            outcomes = self.outcomes[arm.name].values()
            if "fault" in self.choices.get(arm.name, {}):
                fault = self.choices[arm.name]["fault"]
                found.append(f"warning: {arm.name} was not tuned, as it fails untouched: {fault}")
            if faults := [item["fault"] for item in outcomes if "fault" in item]:
                runs = counted(len(self.seeds), "run")
                found.append(f"warning: {len(faults)} of {runs} of {arm.name} failed: {faults[0]}")
            epochs = [item["best_epoch"] for item in outcomes if item.get("test")]
            if kept := epochs.count(0):
                learnt_nothing.append(f"{kept} of {counted(len(epochs), 'run')} of {arm.name}")
        if learnt_nothing:
            found.append(
                "note: no epoch validated better than the foundation, whose weights were kept, in "
                f"{'; '.join(learnt_nothing)}. Give tuning a larger budget, or more epochs."
            )
        return found

    def tables(self) -> list[Table]:
        """Return a table for energies, forces and stress, those with labels."""
        return [self._table(name) for name in self.measures() if name in SHOWN]

    def _table(self, measure: str) -> Table:
        title, unit = TITLES[measure]
        table = Table(title=Text(f"{title} [{unit}], test set", style="table.title"))
        table.title_justify = table.caption_justify = "left"
        table.add_column("arm", overflow="fold")
        for name in ("mean ± sd", "difference [95 %]", "p (Holm)", "time"):
            table.add_column(name, justify="right", no_wrap=True)
        first = [arm.name for arm in self.arms]
        for arm in sorted(self.arms, key=lambda arm: first.index(arm.baseline)):
            if (arm.name, measure) in self.foundation:
                of = f", labels={arm.values[LABELS]}" if varies_labels(self.arms) else ""
                untuned = self.foundation[arm.name, measure]
                table.add_row(Text(FOUNDATION + of, style="dim"), _spread(untuned))
            cell, ratio = self.cells.get((arm.name, measure)), self.ratio(arm)
            lost = f" ({count} failed)" if (count := self.failed(arm.name)) else ""
            time = "" if ratio is None else f"{ratio:.2f} ×"
            table.add_row(Text(arm.name + lost), _spread(cell), *_difference(cell), time)
        same = " with the same number of labels" if len({a.baseline for a in self.arms}) > 1 else ""
        table.caption = (
            f"{counted(len(self.seeds), 'seed')}; differences to the first arm{same} by seed: "
            "Student's t, paired; p corrected for the number of arms"
        )
        return table

    def as_dict(self) -> dict[str, Any]:
        """Return everything (eV, Å, s), ready for JSON."""
        arms = [
            {
                "name": arm.name,
                "folder": str(self.folder / "arms" / arm.folder),
                "values": dict(arm.values),
                "baseline": arm.baseline,
                "choice": self.choices.get(arm.name),
                "seconds": self.seconds(arm.name),
                "time_ratio": self.ratio(arm),
                "failed": self.failed(arm.name),
                "test": {name: asdict(cell) for name, cell in self._cells_of(arm).items()},
            }
            for arm in self.arms
        ]
        return {
            "seeds": list(self.seeds),
            "test": "paired t-test over seeds, two-sided, Holm's correction over arms",
            "arms": arms,
            "notes": self.notes(),
            "foundation": [asdict(cell) for cell in self.foundation.values()],
        }

    def _cells_of(self, arm: Arm) -> dict[str, Cell]:
        names = [name for name in self.measures() if (arm.name, name) in self.cells]
        return {name: self.cells[arm.name, name] for name in names}

    def write(self, available: int) -> None:
        """Write the `FILES`; ``available`` is the number of labels of arms that take all."""
        rows: list[list[Any]] = [
            ["arm", "baseline", "measure", "seeds", "mean", "sd", "difference", "low", "high"]
            + ["p", "p_holm", "time_ratio"]
        ]
        for arm in self.arms:
            for measure, cell in self._cells_of(arm).items():
                numbers = ("mean", "low", "high", "p", "p_holm")
                found = [getattr(cell.difference, name, None) for name in numbers]
                row = [arm.name, arm.baseline, measure, len(cell.values), cell.mean, cell.spread]
                rows.append([*row, *found, self.ratio(arm)])
        write_atomically(self.folder / TABLE, csv_of(rows))
        measures = self.measures()
        runs: list[list[Any]] = [["arm", "seed", *measures, "epochs", "seconds", "fault"]]
        for name, outcomes in self.outcomes.items():
            for seed, outcome in outcomes.items():
                errors = [(outcome.get("test") or {}).get(measure) for measure in measures]
                spent = [outcome.get("epochs"), outcome.get("seconds"), outcome.get("fault", "")]
                runs.append([name, seed, *errors, *spent])
        write_atomically(self.folder / RUNS, csv_of(runs))
        write_json(self.folder / RESULT, self.as_dict())
        if varies_labels(self.arms) and self.cells:
            labels = {arm.name: arm.labels or available for arm in self.arms}
            figure = learning_curves(self.arms, self.cells, self.foundation, labels)
            write_png(figure, self.folder / CURVE)


def _spread(cell: Cell | None) -> str:
    if cell is None:
        return ""
    spread = "" if cell.spread is None else f" ± {1000 * cell.spread:.2f}"
    return f"{1000 * cell.mean:.2f}{spread}"


def _difference(cell: Cell | None) -> tuple[str, str]:
    found = cell.difference if cell else None
    if found is None:
        return "", ""
    ends = ""
    if found.low is not None and found.high is not None:
        ends = f" [{1000 * found.low:+.2f}, {1000 * found.high:+.2f}]"
    p = "" if found.p_holm is None else f"{found.p_holm:.2g}"
    return f"{1000 * found.mean:+.2f}{ends}", p


def learning_curves(
    arms: Sequence[Arm], cells: Cells, foundation: Cells, labels: Mapping[str, int]
) -> Figure:
    """Plot test errors against the number of labels: means over seeds, bands of one deviation.

    Arms that differ only in the number of labels make a line. The foundation's cells are by
    baseline, the numbers of ``labels`` by arm.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullFormatter, ScalarFormatter

    measures = [name for name in SHOWN if any(key[1] == name for key in cells)]
    figure = Figure(figsize=(4.6 * len(measures), 3.8), layout="constrained")
    axes = figure.subplots(1, len(measures), squeeze=False)[0]
    groups = dict.fromkeys(arm.group for arm in arms)
    for axis, measure in zip(axes, measures, strict=True):
        for group in groups:
            found = [
                (labels[arm.name], cells[arm.name, measure])
                for arm in arms
                if arm.group == group and (arm.name, measure) in cells
            ]
            _line(axis, found, group or "fine-tuned")
        untuned = [(labels[name], cell) for (name, of), cell in foundation.items() if of == measure]
        _line(axis, untuned, "foundation", FAINT)
        title, unit = TITLES[measure]
        axis.set(xscale="log", yscale="log", xlabel="labels", ylabel=f"test {title} [{unit}]")
        axis.set_xticks(sorted(set(labels.values())))
        axis.xaxis.set_major_formatter(ScalarFormatter())
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.yaxis.set_minor_formatter(  # at 2, 3 and 5 times a power of ten
            FuncFormatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "235" else "")
        )
    axes[0].legend(frameon=False, fontsize="small")
    return figure


def _line(
    axis: Axes, found: Sequence[tuple[int, Cell]], name: str, colour: str | None = None
) -> None:
    if not found:
        return
    found = sorted(found, key=lambda item: item[0])
    where = [count for count, _ in found]
    means = np.array([1000 * cell.mean for _, cell in found])
    spreads = np.array([1000 * (cell.spread or 0.0) for _, cell in found])
    style = "--" if colour else "-"
    (line,) = axis.plot(where, means, style, marker="o", markersize=3, label=name, color=colour)
    low = np.maximum(means - spreads, 0.05 * means)
    axis.fill_between(where, low, means + spreads, color=line.get_color(), alpha=0.2, linewidth=0)
