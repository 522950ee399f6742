"""Open and check everything that the arms of a comparison name, before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune.adapters.adapter import AdaptedPotential
from finetune.core.errors import DataError, FinetuneError, system_errors
from finetune.data.reading import Reader
from finetune.data.structures import Structure
from finetune.recipe.recipe import Recipe
from finetune.recipe.sections import DataRecipe
from finetune.runs.preparation import Preparation, check_draw
from finetune.studies.arms import Arm, Draws
from finetune.studies.scoring import Measure, judged
from finetune.studies.trial_training import Foundations

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
    arms: Sequence[Arm], output: Path, draws: Draws, seeds: Sequence[int], tunes: bool
) -> dict[str, Checked]:
    """Do for every arm what a run does before it trains; return what each starts from, by name.

    Arms that differ in the number of labels alone are prepared once, with all labels; what each of
    them draws, or holds out, with each seed is checked by itself, and so is what judges its tuning.

    Args:
        arms: The arms; names in their recipes do not depend on a folder.
        output: A folder that is not there, and is not made.
        draws: The labels of each seed.
        seeds: Of the runs; the first one tunes.
        tunes: Whether arms that have something to search are tuned.

    Raises:
        FinetuneError: What is wrong, naming the arms unless it is the same for all.
    """
    checks = _Checks(output, draws, seeds, tunes)
    found: dict[str, Checked | FinetuneError] = {}
    for group in dict.fromkeys(arm.group for arm in arms):
        found |= checks.group([arm for arm in arms if arm.group == group])
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


class _Checks:
    """Opens foundations and reads files once; for the arguments see `check_arms`."""

    def __init__(self, output: Path, draws: Draws, seeds: Sequence[int], tunes: bool) -> None:
        self.output = output
        self.draws = draws
        self.seeds = seeds
        self.tunes = tunes
        self.foundations = Foundations(None)
        self.read: dict[str, tuple[Sequence[Structure], Sequence[Structure] | None]] = {}

    def group(self, arms: Sequence[Arm]) -> dict[str, Checked | FinetuneError]:
        """Return what arms that differ in the number of labels start from, or why they cannot."""
        drawing = any(arm.labels is not None for arm in arms)
        try:
            prepared = self._prepared(arms[0].recipe, whole=not drawing)
        except FinetuneError as error:
            return {arm.name: error for arm in arms}
        checked = Checked(
            prepared.data_fingerprint, prepared.foundation.fingerprint, tuple(prepared.notes)
        )
        found: dict[str, Checked | FinetuneError] = {}
        for arm in arms:
            try:
                self._check(arm, prepared.adapted, drawing)
                found[arm.name] = checked
            except FinetuneError as error:
                found[arm.name] = error
        return found

    @system_errors()
    def _prepared(self, recipe: Recipe, whole: bool) -> Preparation:
        opened = self.foundations.of(recipe)
        recipe = recipe.model_copy(update={"output": str(self.output)})
        return Preparation(recipe, None, False, opened=opened, whole=whole)

    @system_errors()
    def _check(self, arm: Arm, adapted: AdaptedPotential, drawing: bool) -> None:
        """Refuse an arm that a seed leaves too few labels to train, validate or be tuned on.

        Raises:
            FinetuneError: Naming the seed, or the fold.
        """
        train, valid = self._structures(arm.recipe.data)
        for place, seed in enumerate(self.seeds):
            changed = arm.recipe.train.model_copy(update={"seed": seed})
            recipe = arm.recipe.model_copy(update={"train": changed})
            drawn = self.draws.structures_of(seed, arm.labels) if drawing else train
            try:
                check_draw(recipe, drawn, adapted)
                if place == 0 and self.tunes and recipe.tune.space:
                    judged(recipe, drawn, valid, Measure.of_recipe(recipe)).check(recipe, adapted)
            except DataError as error:
                raise DataError(f"with what seed {seed} draws, {error}") from error

    def _structures(
        self, data: DataRecipe
    ) -> tuple[Sequence[Structure], Sequence[Structure] | None]:
        """Return the training set, and the validation files; None for a fraction held out."""
        key = data.model_dump_json()
        if key not in self.read:
            reader = Reader.of(data, None)
            valid = None if isinstance(data.valid, float) else reader.read(data.valid)
            self.read[key] = reader.read(data.train), valid
        return self.read[key]
