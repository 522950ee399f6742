"""What a stability test found: a table and JSON."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from finetune.files import write_json

RESULT = "stability.json"


@dataclass(frozen=True)
class Stability:
    """The trajectories of a test, potentials side by side.

    Attributes:
        folder: Where the trajectories lie, a folder for each potential.
        length: ps of a whole trajectory.
        names: The potentials, the foundation first.
        trajectories: By potential, the records of `trajectory.record`.
        floor: Distance between two halves of the reference, by structure and temperature: what
            chance alone makes of the distance between distributions.
        periodic: Whether any starting structure has a cell in all directions.
        note: What a reader should know.
    """

    folder: Path
    length: float
    names: tuple[str, ...]
    trajectories: dict[str, list[dict[str, Any]]]
    floor: dict[str, float]
    periodic: bool
    note: str = ""

    def summary(self) -> list[dict[str, Any]]:
        """Return one row for each ensemble, temperature and potential.

        ``stable_ps`` is the mean time to failure (ps), in which trajectories that held count with
        the length of the test; ``drift`` the mean absolute drift of the total energy (meV/atom/ps)
        of trajectories without a thermostat; ``bond_distance`` (Å) and ``distribution_distance``
        means over trajectories long enough to have them; None where nothing was measured.
        """
        rows = []
        conditions = {
            (item["ensemble"], item["temperature"]): None
            for items in self.trajectories.values()
            for item in items
        }
        for ensemble, temperature in conditions:
            for name in self.names:
                chosen = [
                    item
                    for item in self.trajectories[name]
                    if (item["ensemble"], item["temperature"]) == (ensemble, temperature)
                ]
                drifts = [None if r["drift"] is None else abs(r["drift"]) for r in chosen]
                rows.append(
                    {
                        "ensemble": ensemble,
                        "temperature": temperature,
                        "potential": name,
                        "trajectories": len(chosen),
                        "survived": sum(item["failure"] is None for item in chosen),
                        "failures": dict(Tally(r["failure"] for r in chosen if r["failure"])),
                        "stable_ps": _mean([item["stable_ps"] for item in chosen]),
                        "drift": _mean(drifts),
                        "mean_temperature": _mean([item["mean_temperature"] for item in chosen]),
                        "bond_distance": _mean([item["bond_distance"] for item in chosen]),
                        "distribution_distance": _mean(
                            [item["distribution_distance"] for item in chosen]
                        ),
                    }
                )
        return rows

    def table(self) -> Table:
        """Return the summary as a table for the terminal."""
        title = Text(f"stability, trajectories of {self.length:g} ps", style="table.title")
        table = Table(title=title, title_justify="left")
        table.add_column("dynamics")
        table.add_column("potential")
        distribution = "g(r)" if self.periodic else "h(r)"
        for name in (
            *("held", "stable\nps", "drift*", "T\nK"),
            *("bonds\nmÅ", f"{distribution}\noff"),
        ):
            table.add_column(name, justify="right")
        before = ""
        for row in self.summary():
            dynamics = f"{row['ensemble'].upper()} {row['temperature']:g} K"
            if before and dynamics != before:
                table.add_section()
            table.add_row(
                dynamics if dynamics != before else "",
                Text(row["potential"]),
                f"{row['survived']}/{row['trajectories']}",
                f"{row['stable_ps']:.2f}",
                _shown(row["drift"], 3),
                _shown(row["mean_temperature"], 0),
                _shown(row["bond_distance"], 1, 1000.0),
                _shown(row["distribution_distance"], 3),
            )
            before = dynamics
        table.caption, table.caption_justify = "\n".join(self.remarks()), "left"
        return table

    def remarks(self) -> list[str]:
        """Return what explains the table, and how trajectories failed."""
        lines = ["* of the total energy, meV/atom/ps"]
        rows = self.summary()
        for row in rows:
            if row["failures"]:
                causes = ", ".join(f"{count} × {name}" for name, count in row["failures"].items())
                dynamics = f"{row['ensemble'].upper()} {row['temperature']:g} K"
                lines.append(f"{row['potential']}, {dynamics}, failed by: {causes}")
        if self.floor and any(row["distribution_distance"] is not None for row in rows):
            floor = ", ".join(f"{value:.3f} ({name})" for name, value in self.floor.items())
            lines.append(f"last column: two halves of the reference differ by {floor}")
        return lines

    def as_dict(self) -> dict[str, Any]:
        """Return summary and trajectories, ready for JSON."""
        return {
            "folder": str(self.folder),
            "length_ps": self.length,
            "names": list(self.names),
            "summary": self.summary(),
            "reference_against_itself": self.floor,
            "trajectories": self.trajectories,
            "note": self.note,
        }

    def write(self) -> None:
        """Write ``stability.json`` into the folder."""
        write_json(self.folder / RESULT, self.as_dict())


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _shown(value: float | None, digits: int, factor: float = 1.0) -> str:
    return "–" if value is None else f"{factor * value:.{digits}f}"
