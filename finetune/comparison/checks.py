"""Open and check everything that the arms of a comparison name, before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune.adapters.base import AdaptedPotential
from finetune.comparison.draws import Draws
from finetune.comparison.varied import Arm
from finetune.errors import DataError, FinetuneError, system_errors
from finetune.preparation import Preparation, check_draw
from finetune.recipe import Recipe
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


def check_arms(
    arms: Sequence[Arm], output: Path, draws: Draws, seeds: Sequence[int]
) -> dict[str, Checked]:
    """Do for every arm what a run does before it trains; return what each starts from, by name.

    Arms that differ in the number of labels alone are prepared once, with all labels; what each of
    them draws with each seed is checked by itself.

    Args:
        arms: The arms; names in their recipes do not depend on a folder.
        output: A folder that is not there, and is not made.
        draws: The labels of each seed.
        seeds: Of the runs.

    Raises:
        FinetuneError: What is wrong, naming the arms unless it is the same for all.
    """
    foundations = Foundations(None)
    found: dict[str, Checked | FinetuneError] = {}
    for group in dict.fromkeys(arm.group for arm in arms):
        found |= _check(
            [arm for arm in arms if arm.group == group], output, foundations, draws, seeds
        )
    faults = {arm.name: item for arm in arms if isinstance(item := found[arm.name], FinetuneError)}
    if faults:
        first = next(iter(faults.values()))
        if len(faults) == len(arms) and len(set(map(str, faults.values()))) == 1:
            raise first
        told = [f"the arm {name}: {fault}" for name, fault in faults.items()]
        more = [f"and {len(told) - MOST} more arms"] if len(told) > MOST else []
        raise type(first)("\n".join(told[:MOST] + more))
    return {arm.name: item for arm in arms if isinstance(item := found[arm.name], Checked)}


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


def _check(
    arms: Sequence[Arm],
    output: Path,
    foundations: Foundations,
    draws: Draws,
    seeds: Sequence[int],
) -> dict[str, Checked | FinetuneError]:
    """Return what arms that differ in the number of labels start from, or why they cannot."""
    drawing = any(arm.labels is not None for arm in arms)
    try:
        prepared = _prepared(arms[0].recipe, output, foundations, whole=not drawing)
    except FinetuneError as error:
        return {arm.name: error for arm in arms}
    checked = Checked(
        prepared.data_fingerprint, prepared.foundation.fingerprint, tuple(prepared.notes)
    )
    found: dict[str, Checked | FinetuneError] = {arm.name: checked for arm in arms}
    for arm in arms if drawing else ():
        try:
            _check_draws(arm, prepared.adapted, draws, seeds)
        except FinetuneError as error:
            found[arm.name] = error
    return found


@system_errors()
def _prepared(recipe: Recipe, output: Path, foundations: Foundations, whole: bool) -> Preparation:
    recipe = recipe.model_copy(update={"output": str(output)})
    return Preparation(recipe, None, False, opened=foundations.of(recipe), whole=whole)


def _check_draws(arm: Arm, adapted: AdaptedPotential, draws: Draws, seeds: Sequence[int]) -> None:
    """Refuse an arm that cannot be trained on what a seed draws.

    Raises:
        FinetuneError: Naming the seed.
    """
    for seed in seeds:
        train = arm.recipe.train.model_copy(update={"seed": seed})
        recipe = arm.recipe.model_copy(update={"train": train})
        try:
            check_draw(recipe, draws.structures_of(seed, arm.labels), adapted)
        except DataError as error:
            raise DataError(f"with what seed {seed} draws, {error}") from error
