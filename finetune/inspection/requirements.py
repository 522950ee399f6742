"""Whether structures suit the recipe and the foundation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from ase.data import chemical_symbols
from ase.symbols import Symbols

from finetune.adapters.adapter import AdaptedPotential
from finetune.core.devices import free_memory
from finetune.core.environment import process_count
from finetune.core.errors import DataError, FoundationError, RecipeError
from finetune.core.text import counted
from finetune.data.graphs import identity
from finetune.data.structures import Structure
from finetune.potentials.loading import Foundation
from finetune.recipe.loss_options import SUPERVISED
from finetune.recipe.optimisers import used_labels
from finetune.recipe.recipe import Recipe

LEAST_LABELS = 3
"""Labels that a restraint can be chosen from."""
VECTORS = 8
"""Vectors of all weights that a Gauss-Newton step holds beside the gradients."""


def check_adapted(adapted: object, kind: str) -> None:
    """Refuse what an adapter's ``attach`` returned if it cannot be trained.

    Raises:
        RecipeError: Saying what it lacks.
    """
    if not isinstance(adapted, AdaptedPotential):
        raise RecipeError(
            f"attach of the adapter '{kind}' returned a {type(adapted).__name__}, not a "
            "finetune.AdaptedPotential."
        )
    if not adapted.trainable_parameters():
        raise RecipeError(
            f"the adapter '{kind}' leaves nothing to train: none of the parameters that it names "
            "can change."
        )


def check_single(foundation: Foundation) -> None:
    """Refuse a committee where one potential is to be trained.

    Raises:
        FoundationError: Naming a member.
    """
    if foundation.members:
        raise FoundationError(
            f"'{foundation.name}' holds a committee; a run starts from one potential. Name a "
            f"member: foundation={foundation.members[0]}"
        )


def check_labels(
    recipe: Recipe, train: Sequence[Structure], valid: Sequence[Structure] | None
) -> None:
    """Refuse a recipe whose supervised losses, or validation measure, find no labels.

    Args:
        recipe: The recipe.
        train: What is trained on.
        valid: What validates; None where that has been checked.

    Raises:
        DataError: Saying which labels are there.
    """
    used = [
        kind
        for kind in SUPERVISED
        if any(loss.kind == kind and loss.peak_weight > 0 for loss in recipe.losses.values())
    ]
    switched_off = [name for name, loss in recipe.losses.items() if loss.kind in SUPERVISED]
    if not used and switched_off:
        raise DataError(
            f"no loss on labels has a weight above 0 (losses.{switched_off[0]}.weight is 0), and "
            "without labels nothing is learnt of their level of theory. Give it a weight."
        )
    monitored = recipe.train.monitor.partition("_")[0]
    for name, structures, wanted in (
        ("training", train, used),
        ("validation", valid, used if monitored == "loss" else [monitored]),
    ):
        if structures is None:
            continue
        if not any(getattr(item, kind) is not None for item in structures for kind in wanted):
            present = [
                kind
                for kind in SUPERVISED
                if any(getattr(item, kind) is not None for item in structures)
            ]
            raise DataError(
                f"the {name} set has no {' or '.join(wanted) or 'supervised'} labels, which the "
                f"recipe's losses and train.monitor={recipe.train.monitor} need. "
                f"It has: {', '.join(present) or 'none'}."
            )


def check_solvable(recipe: Recipe, train: Sequence[Structure], adapted: AdaptedPotential) -> None:
    """Refuse what ``train.optimiser: gauss-newton`` cannot solve at once.

    Raises:
        DataError: If the energies are fewer than what reference energies explain of them needs.
        RecipeError: If the gradients of all labels do not fit into memory, or several processes
            are to share the work.
    """
    if process_count() > 1:
        raise RecipeError(
            "train.optimiser=gauss-newton works in one process. Run it without torchrun or "
            "accelerate, or set train.optimiser=adamw."
        )
    used = used_labels(recipe.losses)
    different = {identity(item): item for item in train}.values()
    energies = [item for item in different if item.energy is not None and "energy" in used]
    further = sum(
        (3 * len(item) - _rigid_motions(item)) * (item.forces is not None and "forces" in used)
        + 6 * (item.stress is not None and "stress" in used)
        for item in different
    )
    elements = sorted({int(number) for item in energies for number in item.numbers})
    counts = [[int((item.numbers == number).sum()) for number in elements] for item in energies]
    offsets = int(np.linalg.matrix_rank(counts)) if counts else 0
    free = len(energies) - offsets
    if free + further < LEAST_LABELS:
        raise DataError(
            f"train.optimiser=gauss-newton learns from {counted(free, 'label')} of different "
            f"structures beyond those that settle the reference energies; it needs {LEAST_LABELS}. "
            "Add labels, or set train.optimiser=adamw."
        )
    tensors = [item.numel() for item in adapted.trainable_parameters().values()]
    size, weights = 8 if recipe.train.precision == "float64" else 4, sum(tensors)
    rows = len(energies) + further
    gradients = rows * weights + len(energies) * max(tensors)
    needed = (gradients + (3 * offsets + VECTORS) * weights) * size + 6 * rows**2 * 8
    there = free_memory(adapted.potential.device)
    if needed > there:
        raise RecipeError(
            f"train.optimiser=gauss-newton needs {needed / 2**30:.1f} GiB for the gradients of "
            f"{rows:,} labels by {weights:,} weights, and there are "
            f"{there / 2**30:.1f}. Use train.precision=float32, take fewer structures, leave "
            "forces out (losses.forces.weight=0), train fewer weights (adapter readout or lora), "
            "or set train.optimiser=adamw."
        )


def _rigid_motions(structure: Structure) -> int:
    """Return the force components that are zero because moving and turning cost nothing."""
    return 3 if structure.pbc.any() else min(6, 3 * len(structure))


def formula(structure: Structure) -> str:
    """Return the composition of a structure."""
    return str(Symbols(structure.numbers).get_chemical_formula())


def foreign_compositions(structures: Sequence[Structure], known: Sequence[str]) -> list[str]:
    """Return the compositions of structures that are not among the known ones."""
    return sorted({formula(item) for item in structures} - set(known))


def check_elements(structures: Mapping[str, Sequence[Structure]], foundation: Foundation) -> None:
    """Refuse structures with elements that the foundation does not know.

    Raises:
        DataError: Naming the first structure.
    """
    known = set(foundation.potential.elements)
    for items in structures.values():
        for item in items:
            unknown = sorted(set(item.numbers.tolist()) - known)
            if unknown:
                symbols = ", ".join(chemical_symbols[number] for number in unknown)
                covered = " ".join(chemical_symbols[number] for number in sorted(known))
                raise DataError(
                    f"{item.where} holds {symbols}, which the foundation '{foundation.name}' does "
                    f"not know (it knows {covered}). Choose another foundation or drop it."
                )
