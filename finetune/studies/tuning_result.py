"""What a tuning found, as the object that the command prints and the files that it writes."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from finetune.core.files import write_atomically, write_json
from finetune.core.text import counted
from finetune.recipe.recipe import Recipe
from finetune.studies.scoring import Measure
from finetune.studies.space import Dimension
from finetune.studies.study import Tried
from finetune.studies.tuning_folder import RESULT, STUDY, TRIALS_TABLE, TUNED


@dataclass(frozen=True)
class TuningResult:
    """A tuning so far.

    ``recipe`` is the tuned one, or the untouched one if no trial beat it; ``measure`` was
    minimised, on what ``judged`` says in words. ``importances`` are shares of the difference
    between good and other trials that settings explain; empty with too few trials. ``begun`` has
    the data, foundation, seed and versions that the tuning began with.
    """

    folder: Path
    recipe: Recipe
    measure: Measure
    judged: str
    space: Mapping[str, Dimension]
    tried: Sequence[Tried]
    importances: Mapping[str, float]
    begun: Mapping[str, Any]

    @property
    def best(self) -> Tried:
        """The trial with the smallest measure; of equal ones the first."""
        return best_of(self.tried)

    @property
    def untouched(self) -> Tried:
        """The trial of the untouched recipe."""
        return self.tried[0]

    @property
    def path(self) -> Path:
        """The tuned recipe's file."""
        return self.folder / TUNED

    @property
    def summary(self) -> str:
        """What came out, in one line."""
        counts = ", ".join(f"{count} {name}" for name, count in _states(self.tried).items())
        before, after = self.untouched.value, self.best.value
        assert before is not None
        assert after is not None
        change = f", {100 * (after / before - 1):+.0f} %" if before > 0 else ""
        return (
            f"{len(self.tried)} trials ({counts}), judged by {self.measure.title} on "
            f"{self.judged}: {self.measure.shown(before)} untouched, {self.measure.shown(after)} "
            f"tuned (trial {self.best.number}{change})"
        )

    def notes(self) -> list[str]:
        """Return a line on the trials that kept the foundation: they learnt nothing."""
        done = [item for item in self.tried if item.done and item.kept]
        folds = [kept for item in done for kept in item.kept]
        if not any(folds):
            return []
        count = sum(all(item.kept) for item in done)
        of_folds = "" if len(folds) == len(done) else f" ({sum(folds)} of their {len(folds)} folds)"
        tuned = self.best.kept and all(self.best.kept)
        return [
            "note: no epoch validated better than the foundation, whose weights were kept, in "
            f"{count} of {counted(len(done), 'finished trial')}{of_folds}"
            + ("; the tuned recipe is one of them: search other settings." if tuned else ".")
        ]

    def table(self) -> Table:
        """Return each setting untouched and tuned, with its range and importance."""
        table = Table(title=Text("what was tuned", style="table.title"), title_justify="left")
        table.add_column("setting")
        for name in ("untouched", "tuned", "searched", "importance"):
            table.add_column(name, justify="right")
        for path in sorted(self.space, key=lambda path: -self.importances.get(path, 0.0)):
            item = self.space[path]
            tuned = self.best.values.get(path, item.untouched)
            share = self.importances.get(path)
            table.add_row(
                *map(Text, (path, shown(item.untouched), shown(tuned), _searched(item))),
                "" if share is None else f"{100 * share:.0f} %",
            )
        return table

    def as_dict(self) -> dict[str, Any]:
        """Return everything (eV, Å, s), ready for JSON."""
        return {
            "folder": str(self.folder),
            "measure": self.measure.name,
            "judged": self.judged,
            "untouched": self.untouched.value,
            "tuned": self.best.value,
            "best": self.best.number,
            "importances": dict(self.importances),
            "notes": self.notes(),
            "trials": [asdict(item) for item in self.tried],
            "begun": dict(self.begun),
        }

    def write(self) -> None:
        """Write the tuned recipe, ``result.json`` and ``trials.csv``."""
        head = (
            f"# Tuned by piwsl-finetune: {self.summary}\n"
            f"# Study: {self.folder.resolve() / STUDY}; see tune.origin below.\n"
            f"#\n#   piwsl-finetune run {self.path}\n"
        )
        write_atomically(self.path, (head + self.recipe.dump()).encode())
        rows: list[list[Any]] = [
            ["trial", "state", self.measure.name, "seconds", *self.space, "fault"]
        ]
        for item in self.tried:
            values = [item.values.get(path, self.space[path].untouched) for path in self.space]
            cells = [value if isinstance(value, (int, float)) else shown(value) for value in values]
            seconds = round(item.seconds, 2)
            rows.append([item.number, item.state, item.value, seconds, *cells, item.fault])
        write_atomically(self.folder / TRIALS_TABLE, csv_of(rows))
        write_json(self.folder / RESULT, self.as_dict())


def best_of(tried: Sequence[Tried]) -> Tried:
    """Return the trial with the smallest measure; of equal ones the first."""
    return min(
        (item for item in tried if item.value is not None), key=lambda item: item.value or 0.0
    )


def origin(result: TuningResult) -> dict[str, Any]:
    """Return where the values of a tuned recipe come from, for its ``tune.origin``."""
    return {
        "study": str(result.folder.resolve() / STUDY),
        "trial": result.best.number,
        "measure": result.measure.name,
        "untouched": result.untouched.value,
        "tuned": result.best.value,
        "judged": result.judged,
        "trials": _states(result.tried),
        "changed": {
            path: {"untouched": result.space[path].untouched, "tuned": value}
            for path, value in result.best.values.items()
        },
        **result.begun,
    }


def _states(tried: Sequence[Tried]) -> dict[str, int]:
    """Return how many trials ended in which way."""
    states = Counter(item.state for item in tried)
    return {name: states[name] for name in ("done", "pruned", "failed")}


def csv_of(rows: Sequence[Sequence[Any]]) -> bytes:
    """Return rows as CSV."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue().encode()


def shown(value: Any) -> str:
    """Return a value of a recipe as people read it."""
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value)


def _searched(item: Dimension) -> str:
    if isinstance(item.searched, tuple):
        return " | ".join(map(shown, item.searched))
    scale = " log" if item.searched.log else ""
    return f"{item.searched.low:g} … {item.searched.high:g}{scale}"
