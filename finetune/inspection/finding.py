"""What an inspection has to say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """One thing worth knowing.

    Attributes:
        level: ``ok`` for what was checked and is right, ``note`` to know, ``warning`` to mend.
        text: In plain words, with the structure and the mend.
    """

    level: Literal["ok", "note", "warning"]
    text: str

    def __str__(self) -> str:
        return f"{self.level}: {self.text}."
