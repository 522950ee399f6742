"""Open and check everything that a recipe names, before anything is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

from ase.data import chemical_symbols

from finetune.adapters.adapter import AdaptedPotential
from finetune.core import output_folder
from finetune.core.devices import choose_device, training_dtype
from finetune.core.environment import run_environment
from finetune.core.errors import DataError, RecipeError, RunFolderError
from finetune.data.graphs import graph
from finetune.data.reading import Reader
from finetune.data.sequences import Joined, View, mapped
from finetune.data.splitting import drawn, hold_out, representative
from finetune.data.structures import Structure, coverage, fingerprint
from finetune.inspection import data_warnings as sanity
from finetune.inspection.requirements import (
    check_adapted,
    check_elements,
    check_labels,
    check_single,
    check_solvable,
    formula,
)
from finetune.losses import sizing
from finetune.losses.total import TotalLoss
from finetune.potentials import loading as lineage
from finetune.potentials import reference_energies
from finetune.potentials.errors import errors, predict
from finetune.potentials.loading import Foundation, load_foundation
from finetune.potentials.mace import acceleration
from finetune.potentials.mace.potential import MacePotential
from finetune.potentials.potential import Potential
from finetune.potentials.storage import mace_inside
from finetune.recipe.plugins import adapters
from finetune.recipe.recipe import Recipe
from finetune.runs import run_folder
from finetune.training.batches import TrainingData
from finetune.training.optimisers.adamw import build_optimiser
from finetune.training.tracking import check_installed


def labelled(recipe: Recipe, reader: Reader) -> dict[str, Sequence[Structure]]:
    """Read what a recipe trains, validates and tests on: ``train``, ``valid``, ``test``.

    Raises:
        DataError: For files that cannot be used.
    """
    data = recipe.data
    train, valid = _divided(recipe, reader.read(data.train))
    if not isinstance(data.valid, float):
        valid = reader.read(data.valid)
    test = reader.read(data.test) if data.test else []
    return {"train": train, "valid": valid, "test": test}


def pool(recipe: Recipe, reader: Reader) -> Sequence[Structure]:
    """Read the geometries that a recipe has for weak losses, without labels.

    Raises:
        DataError: For files that cannot be used.
    """
    named = recipe.data.unlabelled
    return mapped(_without_labels, reader.read(named, need_labels=False)) if named else []


def _divided(
    recipe: Recipe, structures: Sequence[Structure]
) -> tuple[Sequence[Structure], Sequence[Structure]]:
    """Return what is trained on of the training set, drawn, and what is held out of it."""
    held: Sequence[Structure] = []
    if isinstance(recipe.data.valid, float):
        structures, held = hold_out(structures, recipe.data.valid, recipe.split_seed)
    return _drawn(recipe, structures), held


def _drawn(recipe: Recipe, structures: Sequence[Structure]) -> Sequence[Structure]:
    if recipe.data.bootstrap is None:
        return structures
    isolated = recipe.reference_energies == "isolated"
    atoms = [place for place, item in enumerate(structures) if isolated and len(item) == 1]
    return drawn(structures, recipe.data.bootstrap, atoms)


def check_draw(
    recipe: Recipe,
    structures: Sequence[Structure],
    adapted: AdaptedPotential,
    valid: Sequence[Structure] | None = None,
) -> None:
    """Refuse a training set that leaves nothing to learn or to validate on.

    Args:
        recipe: What decides which structures are held out and which are drawn.
        structures: The training set.
        adapted: What is trained.
        valid: What validates, if nothing is to be held out for that.

    Raises:
        FinetuneError: See `check_labels` and `check_solvable`.
    """
    if valid is not None:
        train = _drawn(recipe, structures)
    else:
        train, held = _divided(recipe, structures)
        valid = held if isinstance(recipe.data.valid, float) else None
    if recipe.reference_energies == "isolated":
        _, train = reference_energies.take_free_atoms(train)
        valid = None if valid is None else reference_energies.take_free_atoms(valid)[1]
    check_labels(recipe, train, valid)
    if recipe.train.optimiser == "gauss-newton":
        check_solvable(recipe, train, adapted)


def _without_labels(structure: Structure) -> Structure:
    return replace(structure, energy=None, forces=None, stress=None)


REFERENCE_STRUCTURES = 2000
"""Structures that reference energies are fitted to, if there are more."""


class Preparation:
    """A recipe with its foundation opened and its data read, checked and turned into graphs.

    Its ``recipe`` is the one given with displacement sizes filled in that are chosen from the data,
    its ``lineage`` the potentials that the foundation descends from, itself last, its ``idle`` what
    is lacking by the names of losses that find no label, or no cell.

    Args:
        recipe: The recipe.
        beside: Its folder.
        overwrite: Whether an earlier run in the output folder may be replaced.
        resume: Whether the run goes on from a checkpoint there.
        opened: The recipe's foundation where it is open already; it is copied, not changed.
        find_names: Whether a label that the recipe names and that no file has is an error, not a
            note.
        whole: Whether all of the training set is trained on; otherwise whoever draws from it sees
            to it that ``train.optimiser: gauss-newton`` can solve the draws.
    """

    def __init__(
        self,
        recipe: Recipe,
        beside: Path | None,
        overwrite: bool,
        resume: run_folder.Resume = "no",
        opened: Foundation | None = None,
        find_names: bool = True,
        whole: bool = True,
    ) -> None:
        self.recipe = recipe
        self.folder = output_folder.place(recipe.output)
        self.resuming = run_folder.check_output(self.folder, overwrite, resume)
        check_installed(recipe.track)
        device = choose_device(recipe.train.device)
        dtype = training_dtype(recipe.train.precision, device)
        self.notes: list[str] = []
        places = (Path.cwd(), (beside or Path()).resolve())
        self.folders = list(dict.fromkeys(map(str, places)))
        reader = Reader.of(recipe.data, beside)
        structures = labelled(recipe, reader)
        if find_names:
            reader.check_named()
        self.notes += [f"note: {lack} in the files read." for lack in reader.unnamed().values()]
        structures["unlabelled"] = pool(recipe, reader)
        self.files = reader.as_dicts()
        self.notes += reader.notes()
        self.data_fingerprint = fingerprint(structures)
        free_atoms: dict[int, float] = {}
        if recipe.reference_energies == "isolated":
            known = Joined([structures["valid"], structures["train"]])  # as valid may be a fraction
            free_atoms, _ = reference_energies.take_free_atoms(known)
            for split in ("train", "valid"):
                structures[split] = reference_energies.take_free_atoms(structures[split])[1]
        self.coverage = {split: coverage(items) for split, items in structures.items() if items}
        self.levels = sorted(
            {s.level_of_theory for s in structures["train"] if s.level_of_theory is not None}
        )
        check_labels(recipe, structures["train"], structures["valid"])
        if opened is not None:
            self.foundation = replace(opened, potential=deepcopy(opened.potential))
        else:
            self.foundation = load_foundation(
                recipe.foundation, dtype, device, beside, recipe.head, recipe.trust
            )
        check_single(self.foundation)
        check_elements(structures, self.foundation)
        if Path(self.foundation.location).is_relative_to(self.folder.resolve()):
            raise RunFolderError(
                f"the foundation lies in the output '{self.folder}'; choose another output."
            )
        self.lineage = lineage.lineage(self.foundation)
        self._build_graphs(structures)
        self.frames = sanity.frames(structures)
        self.notes += sanity.shared_frames(self.frames, self.frames["train"])
        self.idle = sanity.idle(structures["train"], structures["unlabelled"], recipe.losses)
        self.notes += sanity.notes(
            self.foundation.potential, self.data.train, structures, self.idle
        )
        self.compositions = sorted({formula(item) for item in structures["train"]})
        self._for_references = representative(structures["train"], REFERENCE_STRUCTURES)
        self.own_references = self.foundation.potential.references()
        self.ambiguous = False
        if isinstance(recipe.reference_energies, dict):
            free_atoms = reference_energies.by_symbol(recipe.reference_energies)
        if recipe.reference_energies == "estimate":
            self._refit_references()
        elif recipe.reference_energies != "keep":
            reference_energies.replace(self.foundation.potential, free_atoms, structures["train"])
        self.notes += sanity.strange_energies(
            self.foundation.potential, self.data.train, recipe.reference_energies
        )
        if sizing.to_be_chosen(recipe.losses):
            self._choose_sizes()
            self._build_graphs(structures)
        if self.resuming:
            self.notes += run_folder.check_origin(self.folder, self.recipe, self.environment)
        self.reference = deepcopy(self.foundation.potential).requires_grad_(False)
        adapter = adapters.get(recipe.adapter["kind"])
        given = {key: value for key, value in recipe.adapter.items() if key != "kind"}
        self.adapter = adapter(adapter.Options.model_validate(given))
        self.adapted = self.adapter.attach(self._accelerated(recipe))
        check_adapted(self.adapted, recipe.adapter["kind"])
        if recipe.train.optimiser == "gauss-newton" and whole:
            check_solvable(recipe, structures["train"], self.adapted)
        build_optimiser(self.adapted, recipe.train)  # refuses factors that name nothing
        mace_inside(self.adapted.potential)  # what cannot be stored is not trained
        self.notes += self.adapted.notes

    def _accelerated(self, recipe: Recipe) -> Potential:
        """Return the foundation with the layers that the recipe asks for.

        Raises:
            RecipeError: If the adapter needs MACE's own layers.
            FoundationError: If a package is missing or the model cannot be converted.
        """
        potential, asked = self.foundation.potential, recipe.train.acceleration
        kind = acceleration.choose(asked, potential.device)
        if kind == "none":
            return potential
        plain = recipe.adapter["kind"] in {"full", "readout", "frozen"}
        if not plain or not isinstance(potential, MacePotential):
            if asked == "auto":
                return potential
            raise RecipeError(
                f"train.acceleration={asked} goes with a plain MACE and the adapters full, readout "
                f"and frozen, not with {recipe.adapter['kind']}. Set train.acceleration=none."
            )
        return acceleration.accelerate(potential, kind)

    def _build_graphs(self, structures: Mapping[str, Sequence[Structure]]) -> None:
        cutoff = self.foundation.potential.cutoff
        skin = TotalLoss(self.recipe.losses).skin(cutoff)
        graphs = {name: mapped(graph, items, cutoff, skin) for name, items in structures.items()}
        self.data = TrainingData(graphs["train"], graphs["valid"], graphs["unlabelled"])
        self.test = graphs["test"]

    def _choose_sizes(self) -> None:
        """Settle the displacement sizes that the recipe leaves to the data.

        Raises:
            DataError: If there is no energy to compare with.
        """
        potential, graphs = self.foundation.potential, self.data.train
        error = errors(predict(potential, graphs), len(graphs)).energy_per_atom_rmse
        if error is None:
            raise DataError(
                "a displacement size cannot be chosen from the data: no training structure has an "
                "energy. Give the size as a number in Å."
            )
        sizes = sizing.chosen_sizes(self.recipe.losses, potential, graphs, error)
        if min(sizes.values()) <= sizing.SMALLEST:
            raise DataError(
                f"a displacement size cannot be chosen from the data: the foundation's energy "
                f"error, {1000 * error:.2g} meV/atom, is too small to compare with. Are there too "
                "few structures with energies? Give the size as a number in Å."
            )
        losses = sizing.with_sizes(self.recipe.losses, sizes)
        self.recipe = self.recipe.model_copy(update={"losses": losses})
        self.notes += [
            f"note: the displacement size of '{name}' is {size:g} Å, chosen from the data (the "
            f"foundation's energy error is {1000 * error:.2g} meV/atom)."
            for name, size in sizes.items()
        ]

    def _refit_references(self) -> None:
        chosen = View(self.data.train, self._for_references)
        fit = reference_energies.estimate(self.foundation.potential, chosen)
        reference_energies.apply(self.foundation.potential, fit)
        self.ambiguous = fit.ambiguous
        if fit.ambiguous:
            self.notes.append(
                f"note: {fit.identified} independent composition"
                f"{'s do' if fit.identified > 1 else ' does'} not fix the reference energies of "
                f"{len(fit.change)} elements; energies of other compositions will mean nothing. "
                "Combinations that no label tells stay as in the foundation: "
                f"{'; '.join(map(_combination, fit.undetermined))}."
            )

    @property
    def parameters(self) -> tuple[int, int, int]:
        """How many parameters are trained, the foundation has, and the adapter has added."""
        trained, now = (sum(counts) for counts in zip(*self.adapted.shares().values(), strict=True))
        own = sum(item.numel() for item in self.reference.parameters())
        return trained, own, now - own

    @property
    def environment(self) -> dict[str, Any]:
        """The content of the run's ``environment.json``."""
        return run_environment(
            str(self.foundation.potential.device),
            self.recipe.train.seed,
            self.foundation.name,
            self.foundation.fingerprint,
            {
                "fingerprint": self.data_fingerprint,
                "files": self.files,
                "folders": self.folders,
            },
            self.lineage,
        )


def _combination(weights: Mapping[int, int]) -> str:
    """Return a combination of elements as text: ``3 C − O``."""
    terms = []
    for number, weight in weights.items():
        count = "" if abs(weight) == 1 else f"{abs(weight)} "
        terms.append(f"{'−' if weight < 0 else '+'} {count}{chemical_symbols[number]}")
    return " ".join(terms).removeprefix("+ ")
