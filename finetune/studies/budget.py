"""How long a tuning lasts: a number of trials, or a time."""

from __future__ import annotations

import re
from dataclasses import dataclass

from finetune.core.errors import FinetuneError

_SECONDS = {"h": 3600.0, "min": 60.0, "s": 1.0}
_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(h|min|s)")
_COUNT = re.compile(r"[0-9]{1,6}")
MOST = 100_000
"""Trials."""


@dataclass(frozen=True)
class Budget:
    """When a tuning ends.

    Attributes:
        trials: Trials in all, the untouched recipe's included; None without a limit.
        seconds: Time spent on all trials, s; None without a limit.
    """

    trials: int | None = None
    seconds: float | None = None

    def spent(self, trials: int, seconds: float) -> bool:
        """Return whether trials and time reach the budget."""
        if self.trials is not None and trials >= self.trials:
            return True
        return self.seconds is not None and seconds >= self.seconds


def parse_budget(text: str | int, least: int = 1) -> Budget:
    """Read a budget such as ``30`` (trials), ``2h``, ``45min``, ``90s`` or ``1h30min``.

    Args:
        text: The budget.
        least: The smallest number of trials.

    Raises:
        FinetuneError: If it is neither a number of trials nor a time above zero.
    """
    given = str(text).strip()
    if _COUNT.fullmatch(given) and least <= int(given) <= MOST:
        return Budget(trials=int(given))
    parts = _PART.findall(given)
    whole = re.sub(r"\s", "", given) == "".join(number + unit for number, unit in parts)
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    if whole and seconds > 0:
        return Budget(seconds=seconds)
    raise FinetuneError(
        f"the budget '{given}' is neither a number of trials from {least} on (30; at most {MOST}) "
        "nor a time (2h, 45min, 90s, 1h30min)."
    )
