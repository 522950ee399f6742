"""Open and check everything that the arms of a comparison name, before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune.comparison.varied import Arm
from finetune.errors import FinetuneError, system_errors
from finetune.preparation import Preparation
from finetune.tuning.training import Foundations

MOST = 5
"""Faulty arms that are told of."""


@dataclass(frozen=True)
class Checked:
    """What an arm starts from.

    Attributes:
        data: sha256 of its structures.
        foundation: Fingerprint of its foundation.
        notes: On both.
    """

    data: str
    foundation: str
    notes: tuple[str, ...]


def check_arms(arms: Sequence[Arm], output: Path) -> dict[str, Checked]:
    """Do for every arm what a run does before it trains; return what each starts from, by name.

    Arms that differ in the number of labels alone are checked once, with all labels.

    Args:
        arms: The arms; names in their recipes do not depend on a folder.
        output: A folder that is not there, and is not made.

    Raises:
        FinetuneError: What is wrong, naming the arms unless it is the same for all.
    """
    foundations = Foundations(None)
    found: dict[str, Checked | FinetuneError] = {}
    for arm in arms:
        if arm.group not in found:
            try:
                found[arm.group] = _check(arm, output, foundations)
            except FinetuneError as error:
                found[arm.group] = error
    faults = {arm.name: item for arm in arms if isinstance(item := found[arm.group], FinetuneError)}
    if faults:
        first = next(iter(faults.values()))
        if len(faults) == len(arms) and len(set(map(str, faults.values()))) == 1:
            raise first
        told = [f"the arm {name}: {fault}" for name, fault in faults.items()]
        more = [f"and {len(told) - MOST} more arms"] if len(told) > MOST else []
        raise type(first)("\n".join(told[:MOST] + more))
    return {arm.name: item for arm in arms if isinstance(item := found[arm.group], Checked)}


def notes_of(checked: dict[str, Checked]) -> list[str]:
    """Return the notes on all arms, those that are not on all of them with the arms' names."""
    arms: dict[str, list[str]] = {}
    for name, item in checked.items():
        for note in item.notes:
            arms.setdefault(note, []).append(name)
    return [
        note if len(names) == len(checked) else f"{'; '.join(names)}: {note}"
        for note, names in arms.items()
    ]


@system_errors()
def _check(arm: Arm, output: Path, foundations: Foundations) -> Checked:
    recipe = arm.recipe.model_copy(update={"output": str(output)})
    prepared = Preparation(recipe, None, False, opened=foundations.of(recipe))
    return Checked(
        prepared.data_fingerprint, prepared.foundation.fingerprint, tuple(prepared.notes)
    )
