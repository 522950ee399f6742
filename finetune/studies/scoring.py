"""What the trials of a tuning are judged on: a validation set, or folds of all labels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from finetune.adapters.adapter import AdaptedPotential
from finetune.core.errors import DataError
from finetune.core.text import counted
from finetune.data.duplicates import clusters
from finetune.data.reading import Reader
from finetune.data.splitting import hold_out
from finetune.data.structures import Structure, View
from finetune.data.writing import write_structures
from finetune.potentials.errors import GRADIENT_ROWS, ROWS, Errors
from finetune.recipe.loss_options import SUPERVISED, LossOptions
from finetune.recipe.optimisers import used_labels
from finetune.recipe.recipe import Recipe
from finetune.recipe.sections import DataRecipe
from finetune.runs.preparation import check_draw
from finetune.studies.tuning_folder import FOLDS
from finetune.training.records import Record, monitored, validation_loss

_TITLES = {
    field: (title.removesuffix(" per structure").removesuffix(" (components)"), unit)
    for title, field, unit in (*ROWS, *GRADIENT_ROWS)
}
"""Title, and the unit of what is shown: a thousandth of the measure's own."""
_TITLES["inconsistency"] = _TITLES["inconsistency_mae"]
_TITLES["energy_and_inconsistency"] = ("energy and inconsistency", "√(meV/atom · meV/Å)")


@dataclass(frozen=True)
class Measure:
    """A validation error in eV and Å; ``loss`` has the weights of the untouched recipe's losses."""

    name: str
    losses: Mapping[str, LossOptions]

    @classmethod
    def of_recipe(cls, recipe: Recipe) -> Measure:
        """Return the measure that a recipe names; ``loss`` while ``monitor`` is ``auto``."""
        name = recipe.tune.measure or recipe.train.monitor
        return cls("loss" if name == "auto" else name, recipe.losses)

    def value(self, record: Record) -> float:
        """Return the measure in the record of an epoch; infinite where it is not finite."""
        if self.name != "loss":
            return monitored(record, self.name)
        names = [item.name for item in fields(Errors) if f"valid/{item.name}" in record]
        found = Errors(**{name: record[f"valid/{name}"] for name in names})
        counted_errors = (
            (found.labelled_energies, found.energy_per_atom_rmse),
            (found.labelled_forces, found.forces_rmse),
            (found.labelled_stresses, found.stress_rmse),
        )
        unknown = any(count and rmse is None for count, rmse in counted_errors)
        return math.inf if unknown else validation_loss(found, self.losses)

    @property
    def kinds(self) -> list[str]:
        """Labels of which a validation structure needs one: energy, forces, stress; or none."""
        if self.name != "loss":
            return [kind for kind in SUPERVISED if kind == self.name.partition("_")[0]]
        return used_labels(self.losses)

    def judges(self, structure: Structure) -> bool:
        """Return whether a structure has a label that the measure needs."""
        kinds = self.kinds
        return not kinds or any(getattr(structure, kind) is not None for kind in kinds)

    @property
    def title(self) -> str:
        """Its usual name, with the unit of `shown`."""
        return "validation loss" if self.name == "loss" else "{} [{}]".format(*_TITLES[self.name])

    def shown(self, value: float | None) -> str:
        """Return a value in the unit of `title`."""
        if value is None:
            return ""
        return f"{value:.3g}" if self.name == "loss" else f"{1000 * value:.2f}"


@dataclass(frozen=True)
class Judging:
    """How trials are judged: on ``count`` labelled structures, over all folds.

    ``structures`` are divided into folds: training structures, and those of a validation file.
    ``parts`` has the indices that each fold validates on; empty for a validation set.
    """

    structures: Sequence[Structure]
    parts: tuple[tuple[int, ...], ...]
    count: int

    @property
    def described(self) -> str:
        """What trials are judged on, in words."""
        if self.parts:
            return f"{len(self.parts)}-fold cross-validation on {self.count} labelled structures"
        return counted(self.count, "labelled validation structure")

    def folds(self) -> Iterator[dict[str, Sequence[Structure]]]:
        """Yield what each fold trains and validates on, ``train`` and ``valid``."""
        for held in self.parts:
            kept = sorted(set(range(len(self.structures))) - set(held))
            yield {"train": View(self.structures, kept), "valid": View(self.structures, held)}

    def data(self, recipe: Recipe, folder: Path) -> list[DataRecipe]:
        """Return the data of each training of a trial, without a test set.

        Folds of the untouched recipe are written to ``folds/`` in the folder of the tuning.
        """
        if not self.parts:
            return [recipe.data.model_copy(update={"test": None})]
        found = []
        for place, fold in enumerate(self.folds(), 1):
            here = folder / FOLDS / str(place)
            here.mkdir(parents=True, exist_ok=True)
            given: dict[str, str | None] = {"test": None, "energies": None}
            for name, structures in fold.items():
                path = (here / f"{name}.h5").resolve()
                path.unlink(missing_ok=True)
                write_structures(path, structures)
                given[name] = str(path)
            found.append(recipe.data.model_copy(update=given))
        return found

    def check(self, recipe: Recipe, adapted: AdaptedPotential) -> None:
        """Refuse folds that a recipe cannot be trained or validated on."""
        for place, fold in enumerate(self.folds(), 1):
            try:
                check_draw(recipe, fold["train"], adapted, fold["valid"])
            except DataError as error:
                raise DataError(
                    f"in fold {place} of {len(self.parts)} of the cross-validation, {error} Or "
                    "judge on the validation set, tune.folds=0."
                ) from error


def judging(recipe: Recipe, recipe_folder: Path | None, measure: Measure) -> Judging:
    """Read the labels to train and validate on, and decide what trials are judged on; see `judged`.

    A label's name that no file has may be meant for the test set, which is not opened.
    """
    reader = Reader.of(recipe.data, recipe_folder)
    data, needed = recipe.data, bool(used_labels(recipe.losses))
    train = reader.read(data.train, needed)
    valid = None if isinstance(data.valid, float) else reader.read(data.valid, needed)
    if recipe.data.test is None:
        reader.check_named()
    return judged(recipe, train, valid, measure)


def judged(
    recipe: Recipe, train: Sequence[Structure], valid: Sequence[Structure] | None, measure: Measure
) -> Judging:
    """Decide what trials are judged on; raise DataError for too few labels.

    That is the validation set (files, or for None the fraction held out) if it has
    ``tune.valid_at_least`` structures with labels that the measure needs, or ``tune.folds`` is 0;
    otherwise folds of all labels. Equal structures share a fold. Structures without such a label,
    and the free atoms that give reference energies, are always trained on.
    """

    def judges(item: Structure) -> bool:
        free = recipe.reference_energies == "isolated" and len(item) == 1
        return measure.judges(item) and not free

    folds = recipe.tune.folds
    if valid is None:
        pool = train
        assert isinstance(recipe.data.valid, float)
        _, valid = hold_out(train, recipe.data.valid, recipe.split_seed)
    else:
        pool = [*train, *valid] if folds != 0 else train
    labelled = sum(map(judges, valid))
    if folds == 0 and not labelled:
        raise DataError(
            f"no validation structure has {' or '.join(measure.kinds)} labels, which "
            f"tune.measure={measure.name} needs. Name another measure, or leave tune.folds out."
        )
    if folds == 0 or (folds is None and labelled >= recipe.tune.valid_at_least):
        return Judging((), (), labelled)
    usable = [index for index, item in enumerate(pool) if judges(item)]
    group_of = clusters([pool[index] for index in usable])
    groups: dict[int, list[int]] = {}
    for index, group in zip(usable, group_of.tolist(), strict=True):
        groups.setdefault(group, []).append(index)
    number = min(5, len(groups)) if folds is None else folds
    if len(groups) < max(number, 2):
        raise DataError(
            f"{counted(len(groups), 'different structure')} with {' or '.join(measure.kinds)} "
            f"labels cannot be divided into {max(number, 2)} folds for cross-validation. Add "
            "labels" + (", or lower tune.folds." if folds and len(groups) > 1 else ".")
        )
    order = np.random.default_rng(recipe.tune.seed).permutation(len(groups))
    shuffled = [list(groups.values())[place] for place in order]
    parts: list[list[int]] = [[] for _ in range(number)]
    for members in sorted(shuffled, key=len, reverse=True):
        min(parts, key=len).extend(members)
    return Judging(pool, tuple(tuple(sorted(part)) for part in parts), len(usable))
