"""What was read from a source of structures, and what was left out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class FileRecord:
    """What was read from a file, folder or pattern.

    Attributes:
        source: As it was named.
        format: Of its files.
        units: What its labels were in, by quantity.
        structures: How many were read.
        files: How many files they are from.
        left_out: Why structures, and which files of a folder, were not taken.
        unlabelled: Structures without any label that were left out, of a set where that is usual.
    """

    source: str
    format: str = ""
    units: dict[str, Any] = field(default_factory=dict)
    structures: int = 0
    files: int = 0
    left_out: list[str] = field(default_factory=list)
    unlabelled: int = 0

    def notes(self) -> list[str]:
        """Say what was left out."""
        found = []
        if self.unlabelled:
            found.append(
                f"note: {self.unlabelled} of {self.unlabelled + self.structures} structures of "
                f"'{self.source}' have none of the labels asked for and are left out."
            )
        if self.left_out:
            listed = " ".join(f"[{item}]" for item in self.left_out[:10])
            more = f" and {len(self.left_out) - 10} more" if len(self.left_out) > 10 else ""
            found.append(
                f"warning: left out of '{self.source}', {len(self.left_out)} in all: {listed}{more}"
            )
        return found
