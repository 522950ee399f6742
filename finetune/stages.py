"""What the stages of a recipe may be called and may change."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from finetune.errors import suggestion

KEYS = ("adapter", "data", "losses", "reference_energies", "train")


def check_stages(stages: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse names that are no folder's and keys that cannot differ between stages.

    Raises:
        ValueError: Naming the stage.
    """
    for name, stage in stages.items():
        if not re.fullmatch("[A-Za-z0-9][A-Za-z0-9_-]*", name):
            raise ValueError(f"the stage name '{name}' must be letters, digits, - and _")
        for key in ("data", "train"):
            if not isinstance(stage.get(key), Mapping | None):
                raise ValueError(f"stages.{name}.{key} must be a mapping, not {stage[key]!r}")
        for key in sorted(set(stage) - set(KEYS)):
            raise ValueError(
                f"stages.{name}: '{key}' cannot differ between stages.{suggestion(key, KEYS)} "
                f"A stage may give: {', '.join(KEYS)}."
            )
