"""Foundation and fine-tuned potential on the same structures, as a table and as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from finetune.potentials.errors import ROWS, Errors, LabelledPredictions


@dataclass(frozen=True)
class Comparison:
    """Foundation and fine-tuned potential on the same structures, side by side.

    Attributes:
        source: What was evaluated.
        finetuned: Errors of the fine-tuned potential.
        foundation: Errors of the foundation with the same reference energies, or None where the
            foundation could not be opened.
        finetuned_predictions: What the fine-tuned errors were computed from.
        foundation_predictions: The same for the foundation.
        note: What a reader of the errors should know.
        lineage: The potentials that the fine-tuned one descends from, itself last, a line each.
        baseline: What the foundation is called: in a ladder, the stage before.
    """

    source: str
    finetuned: Errors
    foundation: Errors | None
    finetuned_predictions: LabelledPredictions
    foundation_predictions: LabelledPredictions | None
    note: str = ""
    lineage: tuple[str, ...] = ()
    baseline: str = "foundation"

    def rows(self) -> list[tuple[str, str, float | None, float]]:
        """Return (title, unit, foundation, fine-tuned) for every quantity with labels."""
        found = []
        for title, field, unit in ROWS:
            after = getattr(self.finetuned, field)
            before = getattr(self.foundation, field) if self.foundation is not None else None
            if after is not None:
                found.append((title, unit, None if before is None else 1000 * before, 1000 * after))
        return found

    def table(self) -> Table:
        """Return the rows as a table for the terminal."""
        table = Table(title=self._title(), title_justify="left")
        table.add_column("error")
        if self.foundation is None:
            table.add_column("potential", justify="right")
            for title, unit, _, after in self.rows():
                table.add_row(Text(f"{title} [{unit}]"), f"{after:.2f}")
            return table
        for name in (f"{self.baseline}*", "fine-tuned", "change"):
            table.add_column(name, justify="right")
        for title, unit, before, after in self.rows():
            change = f"{100 * (after / before - 1):+.0f} %" if before else ""
            table.add_row(Text(f"{title} [{unit}]"), f"{before:.2f}", f"{after:.2f}", change)
        table.caption = "* with the fine-tuned potential's reference energies"
        table.caption_justify = "left"
        return table

    def _title(self) -> Text:
        labels = self.finetuned
        title = (
            f"{self.source}: {labels.structures} structures, {labels.labelled_energies} with "
            f"energies, {labels.labelled_forces} atoms with forces"
        )
        return Text(title, style="table.title")

    def as_dict(self) -> dict[str, Any]:
        """Return source and errors (eV, Å), ready for JSON."""
        return {
            "source": self.source,
            "lineage": list(self.lineage),
            "foundation": None if self.foundation is None else self.foundation.as_dict(),
            "finetuned": self.finetuned.as_dict(),
        }
