"""All labels of a training set as one column, with predictions and their gradients."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import torch

from finetune.core.errors import TrainingError
from finetune.data.graphs import GraphBatch, concatenate
from finetune.potentials.potential import Potential
from finetune.recipe.loss_options import SUPERVISED

NUMBERS = {"energy": 1, "forces": 3, "stress": 6}
"""Labels of a structure's energy, of an atom's forces, of a structure's stress."""
SYMMETRIC = ((0, 1, 2, 1, 0, 0), (0, 1, 2, 2, 2, 1))
"""The six components of a symmetric tensor, in Voigt's order."""


@dataclass(frozen=True)
class Counted:
    """A batch of different structures, and how often each was there with the same labels ``[B]``.

    Copies, as bootstrapping makes them, carry no information on the noise: m of them are one label
    whose noise has an m-th of the variance.
    """

    batch: GraphBatch
    copies: torch.Tensor

    def __len__(self) -> int:
        return len(self.batch)

    def single(self, index: int) -> Counted:
        """Return structure ``index`` alone."""
        return Counted(self.batch.single(index), self.copies[index : index + 1])


@dataclass(frozen=True)
class Rows:
    """Labels, one in each row; energies first, then forces, then stresses.

    Energies are divided by √n, n the number of atoms: errors of atoms that are independent then
    give every structure the same noise. Rows of structures with m copies are multiplied by √m.

    Attributes:
        residuals: Label minus prediction ``[R]``, float64; eV, eV/Å, eV/Å³.
        kinds: Index into `SUPERVISED` ``[R]``.
        composition: Atoms of each element over √n ``[energies, elements]``: what a change of the
            reference energies adds to the energies, which come first.
        internal: For each structure with forces, an orthonormal basis of what forces can be where
            energies do not change as the structure is moved and turned ``[3 n, 3 n − 3 to 6]``.
        gradients: Of the predictions by the parameters ``[R, P]``; empty if not asked for.
    """

    residuals: torch.Tensor
    kinds: torch.Tensor
    composition: torch.Tensor
    internal: tuple[torch.Tensor, ...]
    gradients: torch.Tensor


def label_rows(
    potential: Potential,
    pieces: Sequence[Counted],
    used: Sequence[str],
    by: Sequence[torch.nn.Parameter] = (),
) -> Rows:
    """Return the labels of batches as rows.

    Args:
        potential: The potential.
        pieces: Batches on its device and in its dtype, see `without_copies`.
        used: Kinds of labels that count.
        by: Parameters to differentiate by; gradients are computed if there are any.

    Raises:
        TrainingError: If a prediction or a gradient is not finite.
    """
    residuals: dict[str, list[torch.Tensor]] = {kind: [] for kind in SUPERVISED}
    gradients = _space(pieces, used, by) if by else {}
    composition, internal = [], []
    for piece in _singles(pieces) if by else pieces:
        compared = _compared(potential, piece, used, differentiable=bool(by))
        if "energy" in compared:
            counts = potential.composition(piece.batch)[piece.batch.has_energy]
            composition.append(counts * _energy_factors(piece)[:, None])
        if "forces" in compared:
            internal += _internal(piece.batch)
        for kind, (label, prediction) in compared.items():
            if by:
                first = sum(map(len, residuals[kind]))
                found = gradients[kind][first : first + len(prediction)]
                fill(found, prediction, by)
                _check_finite(piece, prediction, found)
            residuals[kind].append((label - prediction).detach())
    columns = {kind: torch.cat(found) for kind, found in residuals.items() if found}
    kinds = [torch.full((len(column),), SUPERVISED.index(kind)) for kind, column in columns.items()]
    return Rows(
        residuals=torch.cat([*columns.values()]),
        kinds=torch.cat(kinds),
        composition=torch.cat(composition) if composition else torch.zeros(0, 0),
        internal=tuple(internal),
        gradients=gradients["all"] if by else torch.zeros(0, 0),
    )


def energy_rows(potential: Potential, piece: Counted) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the labelled and the predicted energies of a batch, as in `Rows`."""
    batch, factors = piece.batch, _energy_factors(piece)
    predicted = potential(batch, forces=False).energy[batch.has_energy]
    return batch.energy[batch.has_energy] * factors, predicted * factors


def without_copies(pieces: Sequence[GraphBatch]) -> list[Counted]:
    """Return batches in which each structure with its labels is once, counted."""
    singles = [piece.single(index) for piece in pieces for index in range(len(piece))]
    times = Counter(map(_content, singles))
    if len(times) == len(singles):
        return [Counted(piece, torch.ones_like(piece.energy)) for piece in pieces]
    different = list({_content(single): single for single in singles}.items())
    size = max(map(len, pieces))
    found = []
    for first in range(0, len(different), size):
        keys, chosen = zip(*different[first : first + size], strict=True)
        batch = concatenate(chosen)
        found.append(Counted(batch, batch.energy.new_tensor([times[key] for key in keys])))
    return found


def _content(single: GraphBatch) -> Hashable:
    """Return what identifies a structure and its labels."""
    labels = (single.energy, single.forces, single.stress)
    present = (single.has_energy, single.has_forces, single.has_stress)
    kept = [label[has].flatten().tolist() for label, has in zip(labels, present, strict=True)]
    return int(single.identity), tuple(map(tuple, kept))


def _compared(
    potential: Potential, piece: Counted, used: Sequence[str], differentiable: bool
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Return label and prediction of each kind that the batch has, as columns."""
    batch = piece.batch
    has = {kind: kind in used and bool(getattr(batch, f"has_{kind}").any()) for kind in SUPERVISED}
    if not any(has.values()):
        return {}
    with torch.set_grad_enabled(differentiable):
        predicted = potential(
            batch, forces=has["forces"], stress=has["stress"], create_graph=differentiable
        )
    found = {}
    if has["energy"]:
        labelled, factors = batch.has_energy, _energy_factors(piece)
        found["energy"] = (batch.energy[labelled] * factors, predicted.energy[labelled] * factors)
    root = piece.copies.sqrt()
    roots = {"forces": root[batch.structure], "stress": root}
    for kind, root in roots.items():
        if has[kind]:
            chosen = getattr(batch, f"has_{kind}")
            label, prediction = getattr(batch, kind)[chosen], getattr(predicted, kind)[chosen]
            if kind == "stress":
                row, column = SYMMETRIC
                label, prediction = label[:, row, column], prediction[:, row, column]
            factors = root[chosen][:, None]
            found[kind] = tuple((x.double() * factors).reshape(-1) for x in (label, prediction))
    return found


def _check_finite(piece: Counted, predictions: torch.Tensor, gradients: torch.Tensor) -> None:
    ends = torch.stack([*predictions.detach().aminmax(), *gradients.aminmax()])
    if not bool(ends.isfinite().all()):
        raise TrainingError(
            f"{piece.batch.where[0]}: what the potential predicts there, or its gradient by the "
            "weights, is not finite. Take that structure out, or train other weights (adapter)."
        )


def _internal(batch: GraphBatch) -> list[torch.Tensor]:
    """Return `Rows.internal` of a batch: the complement of each structure's rigid motions."""
    found = []
    axes = torch.eye(3, dtype=torch.float64, device=batch.positions.device)
    for index in range(len(batch)):
        chosen = (batch.structure == index) & batch.has_forces
        if chosen.any():
            positions = batch.positions[chosen].double()
            arms = positions - positions.mean(dim=0)
            motions = [axis.expand_as(arms) for axis in axes]
            if not batch.pbc[index].any():
                motions += [torch.linalg.cross(axis.expand_as(arms), arms) for axis in axes]
            found.append(bases(torch.stack(motions).flatten(1).T)[1])
    return found


def bases(columns: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return orthonormal bases of what columns ``[R, q]`` span, and of the rest."""
    if not len(columns):
        return columns, columns
    left, singular, _ = torch.linalg.svd(columns, full_matrices=True)
    rank = int((singular > 1e-9 * singular[0]).sum())
    return left[:, :rank], left[:, rank:]


def _energy_factors(piece: Counted) -> torch.Tensor:
    """Return √(copies / atoms) of the structures with an energy."""
    return (piece.copies / piece.batch.atoms)[piece.batch.has_energy].sqrt()


def _singles(pieces: Sequence[Counted]) -> Iterator[Counted]:
    for piece in pieces:
        for index in range(len(piece)):
            yield piece.single(index)


def _space(
    pieces: Sequence[Counted], used: Sequence[str], by: Sequence[torch.nn.Parameter]
) -> dict[str, torch.Tensor]:
    """Return space for all gradients, and the part of each kind in it, so that none is copied."""
    counts = [
        sum(NUMBERS[kind] * int(getattr(piece.batch, f"has_{kind}").sum()) for piece in pieces)
        if kind in used
        else 0
        for kind in SUPERVISED
    ]
    space = by[0].new_empty(sum(counts), sum(parameter.numel() for parameter in by))
    return {"all": space, **dict(zip(SUPERVISED, torch.split(space, counts), strict=True))}


def fill(
    rows: torch.Tensor, values: torch.Tensor, parameters: Sequence[torch.nn.Parameter]
) -> None:
    """Write the gradient of each value by all parameters, side by side, to ``rows [values, P]``."""
    sizes = [parameter.numel() for parameter in parameters]
    for row, value in zip(rows, values, strict=True):
        found: Sequence[torch.Tensor | None] = torch.autograd.grad(
            value, parameters, retain_graph=True, allow_unused=True
        )
        for place, part in zip(torch.split(row, sizes), found, strict=True):
            if part is None:
                place.zero_()
            else:
                place.copy_(part.reshape(-1))
