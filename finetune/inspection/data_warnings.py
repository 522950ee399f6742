"""Notes on the data of a run: readable, but probably not what was meant.

What structures and labels show by themselves is checked in `geometry`, `labels` and `slopes`; here
it is put together with what the foundation expects.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray

from finetune.core.text import counted
from finetune.data.graphs import GraphBatch
from finetune.data.structures import Structure, geometry_hash
from finetune.inspection import agreement, labels
from finetune.inspection.agreement import Factor
from finetune.inspection.labels import ATOMISATION, RELATIVE, Read
from finetune.inspection.requirements import has_label
from finetune.inspection.slopes import force_findings, force_slope
from finetune.potentials.catalogue import covering
from finetune.potentials.errors import LabelledPredictions, errors, predict
from finetune.potentials.loading import Foundation
from finetune.potentials.potential import Potential
from finetune.recipe.loss_options import SUPERVISED, LossOptions

LARGEST_ERROR = 0.5
"""eV/atom; a larger error means wrong reference energies, or labels in another unit or origin."""
ENOUGH = 5
"""Structures needed to choose an epoch."""
Frames = Mapping[str, NDArray[np.int64]]
"""Hashes of the geometries of the splits train, valid and test."""
_SPLITS = {"train": "training", "valid": "validation"}


def notes(
    foundation: Foundation,
    structures: Mapping[str, Sequence[Structure]],
    idling: Mapping[str, str],
    read: Read,
    refused: Collection[str],
) -> list[str]:
    """Return everything worth knowing about a run's data before it starts.

    ``structures`` are those of the splits train, valid, test and unlabelled; ``idling`` is what
    `idle` returned, ``read`` how the labels were read, ``refused`` the quantities whose labels must
    have the foundation's unit and sign (`agreement.check`).
    """
    potential = foundation.potential
    labelled = [structures[split] for split in ("train", "valid", "test")]
    predictions, factors = agreement.compared(potential, labelled, read)
    return [
        *agreement.check(factors, foundation.name, read, refused),
        *few_to_validate(len(structures["valid"])),
        *free_atoms(structures),
        *(f"note: {lack}; the loss '{name}' is idle." for name, lack in idling.items()),
        *map(str, labels.mixed_levels(structures)),
        *unmatched_inputs(potential, chain.from_iterable(structures.values())),
        *inconsistent_forces(structures["train"], factors, read),
        *unusual_origin(predictions),
    ]


def few_to_validate(count: int) -> list[str]:
    """Return a note where a validation set is too small to choose an epoch."""
    if count >= ENOUGH:
        return []
    note = f"note: with {counted(count, 'validation structure')} the best epoch is mostly chance. "
    return [f"{note}Name more in data.valid, or a larger fraction."]


def free_atoms(structures: Mapping[str, Sequence[Structure]]) -> list[str]:
    """Return a note on free atoms that are used for training or validation like any structure."""
    counts = {split: sum(len(item) == 1 for item in structures[split]) for split in _SPLITS}
    found = [counted(n, f"{_SPLITS[split]} structure") for split, n in counts.items() if n]
    if not found:
        return []
    one = sum(counts.values()) == 1
    return [
        f"note: {' and '.join(found)} {'is a free atom' if one else 'are free atoms'}, used like "
        "any other structure. With reference_energies=isolated they give the reference energies "
        "and are not trained on; or leave them out."
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
        if options.kind in SUPERVISED:
            if not has_label(train, options.kind):
                found[name] = f"no training structure has {options.kind} labels"
        elif options.kind == "strain" and not periodic:
            found[name] = "no structure is periodic in all three directions"
    return found


def unmatched_inputs(potential: Potential, structures: Iterable[Structure]) -> list[str]:
    """Tell charges and spins that are no input of the potential, and inputs that files lack.

    Spins of free atoms do not count where they are no input: they follow from the element.
    """
    usual = {"charge": 0, "spin": 1}
    counts, read = dict.fromkeys(usual, 0), potential.further_inputs
    for item in structures:
        for name in usual:
            free = name == "spin" and len(item) == 1
            given = getattr(item, name) != usual[name]
            lacks = not given and name not in item.tags
            counts[name] += lacks if name in read else given and not free
    return [
        f"note: {counted(count, 'structure')} do{'es' if count == 1 else ''} not say the {name}, "
        f"which the foundation reads: {usual[name]} is taken. If it is another one, add it to the "
        f"file (data.keys.{name})."
        if name in read
        else f"warning: {counted(count, 'structure')} ha{'s' if count == 1 else 've'} a {name} "
        f"other than {usual[name]}, which the foundation ignores: it has no input for it. Leave "
        f"these structures out, or choose a foundation that has one ({covering((), [name])})."
        for name, count in counts.items()
        if count
    ]


def inconsistent_forces(
    train: Sequence[Structure],
    factors: Sequence[tuple[str, Factor]] = (),
    read: Read | None = None,
) -> list[str]:
    """Warn where energies of near structures do not change as their forces say.

    Nothing is said where the foundation confirms both, or has shown which is wrong.
    """
    known = {item.quantity for _, item in factors if item.right or item.certain}
    if known >= {"energy", "forces"} or not has_label(train, "forces"):
        return []
    some = list(islice(train, 600))
    found = force_findings(some, force_slope(some), (read or Read()).units)
    return [str(item) for item in found if item.level == "warning"]


def frames(structures: Mapping[str, Sequence[Structure]]) -> Frames:
    """Return the hash of each geometry, rounded to 1e-6 Å, by split."""
    return {
        split: np.array([geometry_hash(item, 6) for item in structures[split]], dtype=np.int64)
        for split in ("train", "valid", "test")
    }


def shared_frames(
    found: Frames, trained: NDArray[np.int64], where: str = "in the training set too"
) -> list[str]:
    """Warn of validation and test structures that were trained on."""
    counts = {split: np.isin(found[split], trained).sum() for split in ("valid", "test")}
    return [
        f"warning: {count} of the {split} structures {'is' if count == 1 else 'are'} {where}."
        for split, count in counts.items()
        if count
    ]


def large_errors(
    potential: Potential,
    graphs: Sequence[GraphBatch],
    reference_energies: str | Mapping[str, float],
) -> list[str]:
    """Warn where the potential, with its final reference energies, is far from the labels."""
    found = errors(predict(potential, graphs[:32]), len(graphs[:32])).energy_per_atom_mae
    if found is None or found <= LARGEST_ERROR:
        return []
    setting = reference_energies if isinstance(reference_energies, str) else "given"
    advice = " Set reference_energies=estimate, or check their values."
    return [
        f"warning: the foundation is wrong by {found:.2f} eV/atom before training. Are the "
        "labels total energies in eV (not relative or atomisation energies, not Hartree or "
        f"kcal/mol)? reference_energies is '{setting}'.{advice if setting != 'estimate' else ''}"
    ]


def unusual_origin(predictions: LabelledPredictions) -> list[str]:
    """Warn where labels look like relative or atomisation energies instead of total ones.

    Atoms are bound by a few eV each: relative energies are smaller, total energies larger. Nothing
    is said where the foundation's own energies are no larger than that.
    """
    several = predictions.atoms > 1
    if not several.any():
        return []
    own, label = predictions.energy[:, several] / predictions.atoms[several]
    size, expected = float(np.abs(label).max()), float(own.mean())
    if size < RELATIVE and abs(expected) > 4 * RELATIVE:
        return [
            f"warning: the energies look like relative ones: they are within {size:.2g} eV/atom of "
            f"zero, where the foundation's are near {expected:.3g} eV/atom. Give total energies. "
            "Only where all structures are of one composition is reference_energies=estimate "
            "enough: it moves their origin."
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
