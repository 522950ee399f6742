"""Open and check everything that a recipe names, before anything is written.

The splits of a recipe are read and drawn here too: structures that train, validate, test, or serve
weak losses without labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

from ase.data import chemical_symbols

from finetune.adapters.adapter import AdaptedPotential
from finetune.core import files
from finetune.core.devices import choose_device, training_dtype
from finetune.core.errors import DataError, RecipeError, RunFolderError
from finetune.data.graphs import graph
from finetune.data.labels import QUANTITIES
from finetune.data.reading import Reader
from finetune.data.splitting import bootstrap, hold_out
from finetune.data.structures import Joined, Structure, View, coverage, fingerprint, mapped
from finetune.inspection import data_warnings
from finetune.inspection.labels import Read
from finetune.inspection.requirements import (
    check_adapted,
    check_direct_forces,
    check_elements,
    check_labels,
    check_single,
    chosen_monitor,
    has_label,
)
from finetune.losses import sizing
from finetune.losses.loss import TotalLoss
from finetune.potentials import reference_energies
from finetune.potentials.errors import errors, predict
from finetune.potentials.family import family, versions
from finetune.potentials.loading import (
    Foundation,
    known_elements,
    lineage,
    lineage_labels,
    load_foundation,
)
from finetune.potentials.potential import FamilyPotential, Potential
from finetune.potentials.storage import family_potential
from finetune.recipe.loss_options import to_be_chosen
from finetune.recipe.optimisers import used_labels
from finetune.recipe.plugins import adapter_rules, adapters
from finetune.recipe.recipe import Recipe
from finetune.runs import run_folder
from finetune.runs.run_folder import run_environment
from finetune.training.batches import TrainingData
from finetune.training.loop import Trainer
from finetune.training.optimisers.optimiser import parameter_groups
from finetune.training.records import Reporter, check_installed

REFERENCE_STRUCTURES = 2000
"""Structures that reference energies are fitted to, if there are more."""


class Preparation:
    """A recipe with its foundation opened and its data read, checked and turned into graphs.

    Its ``recipe`` is the one given with displacement sizes filled in that are chosen from the data,
    its ``lineage`` the potentials that the foundation descends from, itself last, its ``idle`` what
    is lacking by the names of losses that find no label, or no cell.

    Args:
        recipe: The recipe.
        recipe_folder: Its folder.
        overwrite: Whether an earlier run in the output folder may be replaced.
        resume: Whether the run continues from a checkpoint there.
        opened: The recipe's foundation where it is open already; it is copied, not changed.
        find_names: Whether a label that the recipe names and that no file has is an error, not a
            note.
        after: The stage that the run starts from, where ``opened`` only stands in for its result.
        whole: Whether all of the training set is trained on; otherwise the caller checks the draws
            (`check_draw`).
    """

    def __init__(
        self,
        recipe: Recipe,
        recipe_folder: Path | None,
        overwrite: bool,
        resume: run_folder.Resume = "no",
        opened: Foundation | None = None,
        find_names: bool = True,
        whole: bool = True,
        after: str = "",
    ) -> None:
        self.recipe = recipe
        self.after = after
        self.notes: list[str] = []
        self.folder = files.place(recipe.output)
        self.resuming = run_folder.check_output(self.folder, overwrite, resume)
        check_installed(recipe.track)
        structures = self._read(recipe_folder, find_names)
        self._open_foundation(recipe_folder, opened, structures)
        self._settle_monitor(structures["valid"])
        self._build_graphs(structures)
        self._warn(structures)
        self._set_references(structures)
        if to_be_chosen(recipe.losses):
            self._choose_sizes()
            self._build_graphs(structures)
        if self.resuming:
            self.notes += run_folder.check_origin(self.folder, self.recipe, self.environment)
        self.reference = deepcopy(self.foundation.potential).requires_grad_(False)
        self._attach_adapter()
        if whole:
            recipe.optimiser.load().check(recipe, structures["train"], self.adapted)

    def _read(self, recipe_folder: Path | None, find_names: bool) -> dict[str, Sequence[Structure]]:
        """Read every split and check its labels; take free atoms out of them."""
        recipe = self.recipe
        places = (Path.cwd(), (recipe_folder or Path()).resolve())
        self.folders = list(dict.fromkeys(map(str, places)))
        reader = Reader.of(recipe.data, recipe_folder)
        structures = labelled(recipe, reader)
        if find_names:
            reader.check_named()
        self.notes += [f"note: {lack} in the files read." for lack in reader.unnamed().values()]
        structures["unlabelled"] = unlabelled(recipe, reader)
        self.files, self.read = reader.as_dicts(), Read.by(reader)
        self.notes += reader.notes()
        self.data_fingerprint = fingerprint(structures)
        self.free_atoms: dict[int, float] = {}
        if recipe.reference_energies == "isolated":
            known = Joined([structures["valid"], structures["train"]])  # as valid may be a fraction
            self.free_atoms, _ = reference_energies.take_free_atoms(known)
            for split in ("train", "valid"):
                structures[split] = reference_energies.take_free_atoms(structures[split])[1]
        self.coverage = {split: coverage(items) for split, items in structures.items() if items}
        train = structures["train"]
        self.levels = sorted({s.level_of_theory for s in train if s.level_of_theory is not None})
        self.compositions = sorted({item.formula for item in train})
        check_labels(recipe, train, structures["valid"])
        return structures

    def _open_foundation(
        self,
        recipe_folder: Path | None,
        opened: Foundation | None,
        structures: Mapping[str, Sequence[Structure]],
    ) -> None:
        """Open the foundation, and see that it can be trained on the structures."""
        recipe = self.recipe
        device = choose_device(recipe.train.device)
        dtype = training_dtype(recipe.train.precision, device)
        if opened is not None:
            self.foundation = replace(opened, potential=deepcopy(opened.potential))
        else:
            known = known_elements(recipe.foundation, recipe_folder)
            if known is not None:  # told before a model is downloaded or built
                check_elements(structures, recipe.foundation, known)
            self.foundation = load_foundation(
                recipe.foundation, dtype, device, recipe_folder, recipe.head, recipe.trust
            )
        check_single(self.foundation)
        check_elements(structures, self.foundation.name, self.foundation.potential.elements)
        if Path(self.foundation.location).is_relative_to(self.folder.resolve()):
            raise RunFolderError(
                f"the foundation lies in the output '{self.folder}'; choose another output."
            )
        self.lineage = lineage(self.foundation)
        self.own_references = self.foundation.potential.references()

    def _settle_monitor(self, valid: Sequence[Structure]) -> None:
        """Choose the validation measure that ``train.monitor: auto`` leaves to the potential."""
        recipe, foundation = self.recipe, self.foundation
        adds = adapter_rules(recipe.adapter["kind"]).direct_forces
        direct = adds or foundation.potential.direct_forces
        if not direct:
            check_direct_forces(recipe, foundation.name)
        monitor = chosen_monitor(recipe, valid, direct)
        train = recipe.train.model_copy(update={"monitor": monitor})
        self.recipe = recipe.model_copy(update={"train": train})

    def _build_graphs(self, structures: Mapping[str, Sequence[Structure]]) -> None:
        cutoff = self.foundation.potential.cutoff
        skin = TotalLoss(self.recipe.losses).skin(cutoff)
        graphs = {name: mapped(graph, items, cutoff, skin) for name, items in structures.items()}
        self.data = TrainingData(graphs["train"], graphs["valid"], graphs["unlabelled"])
        self.test = graphs["test"]

    def _warn(self, structures: Mapping[str, Sequence[Structure]]) -> None:
        """Note what is unusual in the data."""
        self.frames = data_warnings.frames(structures)
        self.notes += data_warnings.shared_frames(self.frames, self.frames["train"])
        self.idle = data_warnings.idle(
            structures["train"], structures["unlabelled"], self.recipe.losses
        )
        refuse = self.recipe.data.check == "refuse" and not self.resuming
        self.notes += data_warnings.notes(
            self.foundation,
            structures,
            self.idle,
            self.read,
            used_labels(self.recipe.losses) if refuse else (),
        )

    def _set_references(self, structures: Mapping[str, Sequence[Structure]]) -> None:
        """Move the reference energies to the level of theory of the labels, as the recipe says."""
        asked, potential = self.recipe.reference_energies, self.foundation.potential
        self.ambiguous = False
        if isinstance(asked, dict):
            self.free_atoms = reference_energies.by_symbol(asked)
        energies = used_labels(self.recipe.losses) or has_label(structures["train"], "energy")
        if asked == "estimate" and not energies:
            asked = "keep"
            self.notes.append("note: reference energies are kept, as there are no labels.")
        if asked == "estimate":
            self._refit_references(
                reference_energies.representative(structures["train"], REFERENCE_STRUCTURES)
            )
        elif asked != "keep":
            reference_energies.replace(potential, self.free_atoms, structures["train"])
        if not self.after:
            self.notes += data_warnings.large_errors(potential, self.data.train, asked)

    def _refit_references(self, chosen: Sequence[int]) -> None:
        fit = reference_energies.estimate(self.foundation.potential, View(self.data.train, chosen))
        reference_energies.apply(self.foundation.potential, fit)
        self.ambiguous = fit.ambiguous
        if fit.ambiguous:
            plural = fit.identified > 1
            self.notes.append(
                f"note: {fit.identified} independent composition{'s do' if plural else ' does'} "
                f"not fix the reference energies of {len(fit.change)} elements. Fine if you only "
                "use these compositions; do not compare others. Undetermined, as in the "
                f"foundation: {'; '.join(map(_combination, fit.undetermined[:3]))}"
                f"{'; …' if len(fit.undetermined) > 3 else ''}."
            )

    def _choose_sizes(self) -> None:
        """Settle the displacement sizes that the recipe leaves to the data."""
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

    def _attach_adapter(self) -> None:
        """Free or add the weights that are trained."""
        recipe, kind = self.recipe, self.recipe.adapter["kind"]
        adapter = adapters.get(kind)
        given = {key: value for key, value in recipe.adapter.items() if key != "kind"}
        self.adapter = adapter(adapter.Options.model_validate(given))
        self.adapted = self.adapter.attach(self._accelerated())
        check_adapted(self.adapted, kind)
        parameter_groups(self.adapted, recipe.train)  # refuses factors that name nothing
        family_potential(self.adapted.potential)  # what cannot be stored is not trained
        self.notes += self.adapted.notes

    def _accelerated(self) -> Potential:
        """Return the foundation with the layers that the recipe asks for."""
        potential, asked = self.foundation.potential, self.recipe.train.acceleration
        adapter = self.recipe.adapter["kind"]
        if asked == "none" or (asked == "auto" and potential.device.type != "cuda"):
            return potential
        own_layers = adapter_rules(adapter).keeps_layers
        if own_layers and isinstance(potential, FamilyPotential):
            return family(potential.family).accelerate(potential, asked)
        if asked == "auto":
            return potential
        raise RecipeError(
            f"train.acceleration={asked} needs a foundation without adapters of its own and an "
            f"adapter that keeps its layers (full, readout, frozen), not {adapter}. Set "
            "train.acceleration=none."
        )

    def trainer(self, reporter: Reporter) -> Trainer:
        """Return the trainer of the run."""
        return Trainer(self.adapted, self.reference, self.data, self.recipe, self.folder, reporter)

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
            versions(),
        )


def _combination(weights: Mapping[int, int]) -> str:
    """Return a combination of elements as text: ``3 C − O``."""
    terms = []
    for number, weight in weights.items():
        count = "" if abs(weight) == 1 else f"{abs(weight)} "
        terms.append(f"{'−' if weight < 0 else '+'} {count}{chemical_symbols[number]}")
    return " ".join(terms).removeprefix("+ ")


def summary(prepared: Preparation) -> str:
    """One line on what is trained on what."""
    train = prepared.coverage["train"]
    drawn = ""
    if prepared.recipe.data.bootstrap is not None:
        different = len({int(item.identity) for item in prepared.data.train})
        drawn = f", drawn with replacement, {different} of them different"
    return (
        f"{prepared.foundation.name}: {_counts(prepared)} are trained on "
        f"{len(prepared.data.train)} structures{drawn} ({train.energy} with energies, "
        f"{train.forces} with forces){_untrained(prepared)}; {len(prepared.data.valid)} validate, "
        f"{len(prepared.test)} test"
    )


def _untrained(prepared: Preparation) -> str:
    """Name the labels that are there, or left out by a key that is null, and not trained on."""
    recipe, train = prepared.recipe, prepared.coverage["train"]
    used, names = used_labels(recipe.losses), {"energy": "energies", "forces": "forces"}
    found = [
        names.get(kind, kind)
        for kind in QUANTITIES
        if kind not in used and getattr(train, kind) or getattr(recipe.data.keys, kind, "") is None
    ]
    return f", {' and '.join(found)} not trained on" if found else ""


def described(prepared: Preparation) -> list[str]:
    """Lines on what is trained on what, from where, and what the kind of adapter decides."""
    steps = lineage_labels(prepared.lineage)
    descent = f"continues from {' → '.join(steps)}" if len(steps) > 1 else ""
    return [
        line for line in (summary(prepared), trained(prepared), descent, defaults(prepared)) if line
    ]


def trained(prepared: Preparation) -> str:
    """One line on which blocks of the model are trained, and their shares."""
    number, own, added = prepared.parameters
    only_added = number == added
    blocks = ", ".join(
        f"{name} {count:,}"
        + ("" if count == size or only_added else f" ({100 * count / size:.1f} %)")
        for name, (count, size) in prepared.adapted.shares().items()
        if count
    )
    if only_added:
        return f"trained: {blocks}; added, {100 * added / own:.3g} % of the foundation's number"
    return f"trained: {blocks}; {100 * number / (own + added):.3g} % of all parameters"


def defaults(prepared: Preparation) -> str:
    """One line on what adapter or optimiser decides of the training, and why; or nothing."""
    chosen, kind = prepared.recipe.adapter_defaults, prepared.recipe.adapter["kind"]
    values = ", ".join(
        f"{name} {'none' if value is None else f'{value:g}'}" for name, value in chosen.items()
    )
    optimiser = prepared.recipe.optimiser
    by, reason = kind, adapter_rules(kind).training.reason
    if optimiser.defaults:
        by, reason = optimiser.name, optimiser.reason
    return f"defaults of '{by}': {values} ({reason})" if chosen else ""


def _counts(prepared: Preparation) -> str:
    number, own, added = prepared.parameters
    if not added:
        return f"{number:,} of {own:,} parameters"
    if number == added:
        return f"{added:,} parameters added to the foundation's {own:,}, which stay,"
    return f"{number:,} of {own + added:,} parameters, {added:,} of them added,"


def labelled(recipe: Recipe, reader: Reader) -> dict[str, Sequence[Structure]]:
    """Read what a recipe trains, validates and tests on: ``train``, ``valid``, ``test``."""
    data, needed = recipe.data, bool(used_labels(recipe.losses))
    train, valid = _held_out(recipe, reader.read(data.train, needed))
    if not isinstance(data.valid, float):
        valid = reader.read(data.valid, needed)
    test = reader.read(data.test, needed) if data.test else []
    return {"train": train, "valid": valid, "test": test}


def unlabelled(recipe: Recipe, reader: Reader) -> Sequence[Structure]:
    """Read the structures of ``data.unlabelled``, without whatever labels they have."""

    def bare(structure: Structure) -> Structure:
        return replace(structure, energy=None, forces=None, stress=None)

    named = recipe.data.unlabelled
    return mapped(bare, reader.read(named, need_labels=False)) if named else []


def check_draw(
    recipe: Recipe,
    structures: Sequence[Structure],
    adapted: AdaptedPotential,
    valid: Sequence[Structure] | None = None,
) -> None:
    """Refuse a training set that leaves nothing to learn or to validate on.

    Raises:
        FinetuneError: See `check_labels`, and `Optimiser.check` of the recipe's optimiser.
    """
    if valid is not None:
        train = _drawn(recipe, structures)
    else:
        train, held = _held_out(recipe, structures)
        valid = held if isinstance(recipe.data.valid, float) else None
    if recipe.reference_energies == "isolated":
        train = reference_energies.take_free_atoms(train)[1]
        valid = None if valid is None else reference_energies.take_free_atoms(valid)[1]
    check_labels(recipe, train, valid)
    recipe.optimiser.load().check(recipe, train, adapted)


def _held_out(
    recipe: Recipe, structures: Sequence[Structure]
) -> tuple[Sequence[Structure], Sequence[Structure]]:
    """Return what trains of the training set, drawn, and what is held out to validate."""
    held: Sequence[Structure] = []
    if isinstance(recipe.data.valid, float):
        structures, held = hold_out(structures, recipe.data.valid, recipe.split_seed)
    return _drawn(recipe, structures), held


def _drawn(recipe: Recipe, structures: Sequence[Structure]) -> Sequence[Structure]:
    if recipe.data.bootstrap is None:
        return structures
    isolated = recipe.reference_energies == "isolated"
    atoms = [place for place, item in enumerate(structures) if isolated and len(item) == 1]
    return bootstrap(structures, recipe.data.bootstrap, atoms)
