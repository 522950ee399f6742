"""The validation error that a tuning makes small."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

from finetune.data.labels import Structure
from finetune.evaluation.metrics import Errors
from finetune.losses.options import SUPERVISED, LossOptions
from finetune.recipe import Recipe
from finetune.training.progress import Record
from finetune.training.records import validation_loss

_TITLES = {
    "energy_mae": ("energy MAE", "meV"),
    "energy_rmse": ("energy RMSE", "meV"),
    "energy_per_atom_mae": ("energy MAE per atom", "meV/atom"),
    "energy_per_atom_rmse": ("energy RMSE per atom", "meV/atom"),
    "forces_mae": ("force MAE", "meV/Å"),
    "forces_rmse": ("force RMSE", "meV/Å"),
    "stress_mae": ("stress MAE", "meV/Å³"),
    "stress_rmse": ("stress RMSE", "meV/Å³"),
}
"""Title, and the unit of what is shown: a thousandth of the measure's own."""


@dataclass(frozen=True)
class Measure:
    """A validation error in eV and Å; ``loss`` is weighted as in the untouched recipe throughout.

    Attributes:
        name: Field of `Errors`, or ``loss``.
        losses: Of the untouched recipe.
    """

    name: str
    losses: Mapping[str, LossOptions]

    @classmethod
    def of_recipe(cls, recipe: Recipe) -> Measure:
        """Return what a recipe asks for."""
        return cls(recipe.tune.measure or recipe.train.monitor, recipe.losses)

    def value(self, record: Record) -> float:
        """Return the measure in the record of an epoch; infinite where it is not finite."""
        if self.name != "loss":
            found = record[f"valid/{self.name}"]
            return math.inf if found is None else float(found)
        names = [field.name for field in fields(Errors)]
        measured = Errors(**{name: record[f"valid/{name}"] for name in names})
        labelled = {
            "energy": measured.labelled_energies,
            "forces": measured.labelled_forces,
            "stress": measured.labelled_stresses,
        }
        rmse = (measured.energy_per_atom_rmse, measured.forces_rmse, measured.stress_rmse)
        if any(labelled[kind] and item is None for kind, item in zip(labelled, rmse, strict=True)):
            return math.inf
        return validation_loss(measured, self.losses)

    @property
    def kinds(self) -> list[str]:
        """Labels of which a validation structure needs one: energy, forces, stress."""
        if self.name != "loss":
            return [self.name.partition("_")[0]]
        used = {item.kind for item in self.losses.values() if item.peak_weight > 0}
        return [kind for kind in SUPERVISED if kind in used]

    def judges(self, structure: Structure) -> bool:
        """Return whether a structure has a label that the measure needs."""
        return any(getattr(structure, kind) is not None for kind in self.kinds)

    @property
    def title(self) -> str:
        """What people call it, with the unit of `shown`."""
        if self.name == "loss":
            return "validation loss"
        return "{} [{}]".format(*_TITLES[self.name])

    def shown(self, value: float | None) -> str:
        """Return a value as people read it, in the unit of `title`."""
        if value is None:
            return ""
        return f"{value:.3g}" if self.name == "loss" else f"{1000 * value:.2f}"
