"""Notes on data that can be read but are probably not what was meant."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, islice

import numpy as np
import torch
from numpy.typing import NDArray

from finetune.core.text import counted
from finetune.core.units import Units
from finetune.data.graphs import GraphBatch, batches
from finetune.data.structures import Structure
from finetune.inspection.forces import diagnosis, force_slope
from finetune.potentials.errors import errors, predict
from finetune.potentials.potential import Potential
from finetune.recipe.loss_options import LossOptions

STRANGE = 0.5
"""eV/atom; a foundation further off than this has the wrong reference energies, or the labels
another unit or origin."""
ENOUGH = 5
"""Structures below which a spread of energies, or an epoch chosen by them, says nothing."""
UNITS = {
    name: 1 / Units(energy=name).factors()["energy"] for name in ("Hartree", "kcal/mol", "kJ/mol")
}
"""What one eV is in the units that energies in eV are mistaken for."""
RELATIVE, ATOMISATION = 0.5, 10.0
"""eV/atom, the largest that relative energies and atomisation energies come to."""
_TRAINED = {"train": "training", "valid": "validation"}
TOLERANCE = 2.5
"""Factor by which the spread of labels may differ from the foundation's."""


def notes(
    potential: Potential,
    graphs: Sequence[GraphBatch],
    structures: Mapping[str, Sequence[Structure]],
    idling: Mapping[str, str],
) -> list[str]:
    """Return everything worth telling about a run's data before it starts.

    Args:
        potential: The foundation, in evaluation mode.
        graphs: The training structures.
        structures: All structures by split: train, valid, test, unlabelled.
        idling: What is lacking, by the names of the recipe's idle losses; see `idle`.
    """
    return [
        *few_to_validate(structures["valid"]),
        *free_atoms(structures),
        *(f"note: {lack}; the loss '{name}' is idle." for name, lack in idling.items()),
        *mixed_levels(structures),
        *ignored_inputs(potential, (item for items in structures.values() for item in items)),
        *strange_forces(structures["train"]),
        *strange_origin(potential, graphs),
        *strange_spread(potential, graphs),
    ]


def few_to_validate(valid: Sequence[Structure]) -> list[str]:
    """Tell of validation sets that are too small to choose by."""
    if len(valid) >= ENOUGH:
        return []
    return [
        f"note: {counted(len(valid), 'structure')} to validate on: which epoch is best is then "
        "much of chance. Name more in data.valid, or a larger fraction."
    ]


def free_atoms(structures: Mapping[str, Sequence[Structure]]) -> list[str]:
    """Tell of free atoms that are trained or validated on as other structures are."""
    counts = {
        split: count
        for split in ("train", "valid")
        if (count := sum(len(item) == 1 for item in structures[split]))
    }
    if not counts:
        return []
    told = " and ".join(
        f"{counted(count, f'{_TRAINED[split]} structure')}" for split, count in counts.items()
    )
    one = sum(counts.values()) == 1
    return [
        f"note: {told} {'is a free atom' if one else 'are free atoms'}, used like any other "
        "structure. With reference_energies=isolated the reference energies are taken from free "
        "atoms, which are then not trained on; or leave them out."
    ]


def idle(
    train: Sequence[Structure], unlabelled: Sequence[Structure], losses: Mapping[str, LossOptions]
) -> dict[str, str]:
    """Return what is lacking, by the name of each loss that finds no label, or no cell."""
    found = {}
    periodic = any(bool(item.pbc.all()) for item in chain(train, unlabelled))
    for name, options in losses.items():
        if options.peak_weight == 0:
            continue
        if options.kind in {"energy", "forces", "stress"}:
            if all(getattr(item, options.kind) is None for item in train):
                found[name] = f"no training structure has {options.kind} labels"
        elif options.kind == "strain" and not periodic:
            found[name] = "no structure is periodic in all three directions"
    return found


def mixed_levels(structures: Mapping[str, Sequence[Structure]]) -> list[str]:
    """Say where the files name more than one level of theory."""
    levels = {
        split: sorted({item.level_of_theory for item in items if item.level_of_theory is not None})
        for split, items in structures.items()
        if split != "unlabelled"
    }
    if len({level.casefold() for found in levels.values() for level in found}) < 2:
        return []
    listed = "; ".join(f"{split}: {', '.join(found)}" for split, found in levels.items() if found)
    return [f"warning: the labels are of different levels of theory ({listed})."]


def ignored_inputs(potential: Potential, structures: Iterable[Structure]) -> list[str]:
    """Warn of charges and spins that the potential knows nothing of, but for those of free atoms.

    The spin of a free atom follows from its element.
    """
    usual = {"charge": 0, "spin": 1}
    ignored = {name: usual[name] for name in usual.keys() - potential.further_inputs}
    counts = dict.fromkeys(sorted(ignored), 0)
    for item in structures if ignored else ():
        for name, value in ignored.items():
            free = name == "spin" and len(item) == 1
            counts[name] += getattr(item, name) != value and not free
    return [
        f"warning: {count} structure{'' if count == 1 else 's'} ha{'s' if count == 1 else 've'} a "
        f"{name} other than {ignored[name]}, which the foundation ignores: it has no input for it. "
        "Leave these structures out, or choose a foundation that has one (mace-omol-0)."
        for name, count in counts.items()
        if count
    ]


def strange_forces(train: Sequence[Structure], limit: int = 600) -> list[str]:
    """Warn where energies of near structures do not change as their forces say."""
    some = list(islice(train, limit))
    slope = force_slope(some)
    if slope is None or not slope.told or slope.right:
        return []
    sizes = {len(item) for item in some}
    why = diagnosis(slope.value, sizes.pop() if len(sizes) == 1 else None, slope.tolerance)
    return [
        f"warning: energies change by {slope.value:.3g} times −F·ΔR between near structures, not "
        f"1: {why or 'do energies and forces belong together?'}. See `data inspect`."
    ]


Frames = Mapping[str, NDArray[np.int64]]
"""Hashes of the geometries of the splits train, valid and test."""


def frames(structures: Mapping[str, Sequence[Structure]]) -> Frames:
    """Return the hash of each geometry, rounded to 1e-6 Å, by split."""
    return {
        split: np.fromiter(map(_identity, structures[split]), np.int64)
        for split in ("train", "valid", "test")
    }


def shared_frames(
    found: Frames, trained: NDArray[np.int64], where: str = "in the training set too"
) -> list[str]:
    """Count the validation and test structures that were trained on."""
    counts = {split: np.isin(found[split], trained).sum() for split in ("valid", "test")}
    return [
        f"warning: {count} of the {split} structures {'is' if count == 1 else 'are'} {where}."
        for split, count in counts.items()
        if count
    ]


@torch.no_grad()
def energy_spread(
    potential: Potential, graphs: Sequence[GraphBatch], limit: int = 64
) -> float | None:
    """Return the spread of labelled energies over that of predicted ones.

    What composition alone explains is taken off both, so that levels of theory do not matter.
    None where there are too few structures of like composition, or they hardly differ.
    """
    labelled = list(islice((item for item in graphs if bool(item.has_energy.any())), limit))
    if not labelled:
        return None
    counts, pairs = [], []
    for batch in batches(labelled, 16):
        moved = batch.to(potential.device, potential.dtype)
        counts.append(potential.composition(moved).cpu())
        predicted = potential(moved, forces=False).energy.cpu()
        pairs.append(torch.stack([batch.energy, predicted], dim=1))
    composition, energies = torch.cat(counts), torch.cat(pairs)
    rank = int(torch.linalg.matrix_rank(composition))
    if len(energies) - rank < ENOUGH:
        return None
    basis = torch.linalg.svd(composition, full_matrices=False)[0][:, :rank]
    left = energies - basis @ (basis.T @ energies)
    labels, predictions = left.norm(dim=0).tolist()
    return labels / predictions if predictions > 1e-3 * len(energies) ** 0.5 else None


def strange_spread(
    potential: Potential, graphs: Sequence[GraphBatch], named: str = "the foundation"
) -> list[str]:
    """Warn of energies that spread as if they were in another unit; see `energy_spread`."""
    spread = energy_spread(potential, graphs)
    if spread is None or 1 / TOLERANCE < spread < TOLERANCE:
        return []
    nearest = min(UNITS, key=lambda unit: abs(torch.tensor(spread / UNITS[unit]).log()))
    return [
        f"warning: energies of like structures spread {spread:.3g} times as far as {named} "
        f"expects. Are they in eV? One eV is {UNITS[nearest]:.3g} {nearest}."
    ]


def strange_energies(
    potential: Potential,
    graphs: Sequence[GraphBatch],
    reference_energies: str | Mapping[str, float],
) -> list[str]:
    """Warn where the potential, its reference energies settled, is still far from the labels."""
    found = errors(predict(potential, graphs[:32]), len(graphs[:32])).energy_per_atom_mae
    if found is None or found <= STRANGE:
        return []
    settled = reference_energies if isinstance(reference_energies, str) else "given"
    mend = (
        "" if settled == "estimate" else " Set reference_energies=estimate, or check their values."
    )
    return [
        f"warning: the foundation is wrong by {found:.2f} eV/atom before training. Are the "
        "labels total energies in eV (not relative or atomisation energies, not Hartree or "
        f"kcal/mol)? reference_energies is '{settled}'.{mend}"
    ]


@torch.no_grad()
def strange_origin(
    potential: Potential, graphs: Sequence[GraphBatch], limit: int = 64
) -> list[str]:
    """Warn where labels look like relative or atomisation energies instead of total ones.

    Atoms are bound by a few eV each, relative energies are below that, total energies of
    all-electron and of valence-electron methods above. Judged only where the foundation's own
    energies are beyond those sizes.
    """
    suited = (item for item in graphs if bool(item.has_energy.any()) and item.numbers.numel() > 1)
    labelled = list(islice(suited, limit))
    if not labelled:
        return []
    pairs = []
    for batch in batches(labelled, 16):
        moved = batch.to(potential.device, potential.dtype)
        energies = torch.stack([batch.energy, potential(moved, forces=False).energy.cpu()])
        pairs.append((energies / batch.atoms).T)
    label, own = torch.cat(pairs).T
    size, expected = float(label.abs().max()), float(own.mean())
    if size < RELATIVE and abs(expected) > 4 * RELATIVE:
        return [
            f"warning: the energies look like relative ones: they are within {size:.2g} eV/atom of "
            f"zero, where the foundation's are near {expected:.3g} eV/atom. Give total energies. "
            "Only where all structures are of one composition is reference_energies=estimate "
            "enough, which then moves their origin."
        ]
    if size < ATOMISATION and abs(expected) > 1.2 * ATOMISATION:
        sign = "" if float(label.mean()) > 0 else "minus "
        first = "Change their sign and set" if not sign else "Set"
        return [
            f"warning: the energies look like {sign}atomisation energies ({label.mean():.3g} "
            f"eV/atom, where the foundation's are near {expected:.3g}). Give total energies; or "
            f"learn them as they are: {first} the reference energies of all elements to zero, "
            "reference_energies={H: 0, C: 0, …}."
        ]
    return []


def _identity(structure: Structure) -> int:
    found = hashlib.sha256(f"{structure.charge} {structure.spin}".encode())
    for array in (structure.numbers, structure.positions.round(6), structure.cell.round(6)):
        found.update(array.tobytes())
    return int.from_bytes(found.digest()[:8], "big", signed=True)
