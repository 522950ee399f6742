"""How carefully a run goes on after steps that went wrong."""

from __future__ import annotations

import math
from dataclasses import dataclass

BACK_OFF = 0.5
"""What a skipped step does to the learning rate."""
RECOVERY = 1.02
"""What a good step does to a learning rate that was lowered."""
STRIKES = 5
"""Skipped steps in a row that are more than bad luck."""
ROLLBACK = 0.3
"""What a return to the best weights does to the learning rate, for good."""
DIVERGED = 100.0
"""A validation measure this many times that of the foundation is a diverged run."""
SMALL = 1e-6
"""Validation measures below this count as this: a good foundation must not make a run look bad."""


def diverged(value: float, first: float) -> bool:
    """Return whether a validation measure speaks of a ruined model, given the foundation's."""
    return not math.isfinite(value) or value > DIVERGED * max(first, SMALL)


@dataclass
class Guard:
    """Skips, backs off, and says when only a return to the best weights helps.

    Attributes:
        factor: What the schedule's learning rate is multiplied by.
        ceiling: What the factor recovers to.
        strikes: Steps skipped in a row.
        skipped: Steps skipped in all.
        rollbacks: Returns to the best weights.
        trouble: What went wrong last.
    """

    factor: float = 1.0
    ceiling: float = 1.0
    strikes: int = 0
    skipped: int = 0
    rollbacks: int = 0
    trouble: str = ""

    @property
    def diverging(self) -> bool:
        """Whether skipping does not help any more."""
        return self.strikes >= STRIKES

    def step_went_well(self) -> None:
        """Recover a little."""
        self.strikes = 0
        self.factor = min(self.ceiling, self.factor * RECOVERY)

    def step_was_skipped(self, trouble: str) -> None:
        """Back off."""
        self.trouble = trouble
        self.strikes += 1
        self.skipped += 1
        self.factor *= BACK_OFF

    def rolled_back(self) -> None:
        """Go on from the best weights at a lower learning rate."""
        self.rollbacks += 1
        self.strikes = 0
        self.ceiling *= ROLLBACK
        self.factor = self.ceiling
