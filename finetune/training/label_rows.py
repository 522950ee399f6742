"""All labels of a training set as one column, with what the potential says and its gradients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import torch

from finetune.data.graphs import GraphBatch
from finetune.foundation.potential import Potential

KINDS = ("energy", "forces", "stress")
SYMMETRIC = ((0, 1, 2, 1, 0, 0), (0, 1, 2, 2, 2, 1))
"""The six components of a symmetric tensor, in Voigt's order."""


@dataclass(frozen=True)
class Rows:
    """Labels, one in each row; energies first, then forces, then stresses.

    Energies are divided by √n, n the number of atoms: errors of atoms that are independent then
    give every structure the same noise.

    Attributes:
        residuals: Label minus prediction ``[R]``, float64; eV, eV/Å, eV/Å³.
        kinds: Index into `KINDS` ``[R]``.
        composition: Atoms of each element over √n ``[energies, elements]``: what a change of the
            reference energies adds to the energies, which come first.
        gradients: Of the predictions by the parameters ``[R, P]``; empty if not asked for.
    """

    residuals: torch.Tensor
    kinds: torch.Tensor
    composition: torch.Tensor
    gradients: torch.Tensor


def label_rows(
    potential: Potential,
    pieces: Sequence[GraphBatch],
    used: Sequence[str],
    by: Sequence[torch.nn.Parameter] = (),
) -> Rows:
    """Return the labels of batches as rows.

    Args:
        potential: The potential.
        pieces: Batches on its device and in its dtype.
        used: Kinds of labels that count.
        by: Parameters to differentiate by; gradients are computed if there are any.
    """
    residuals: dict[str, list[torch.Tensor]] = {kind: [] for kind in KINDS}
    gradients: dict[str, list[torch.Tensor]] = {kind: [] for kind in KINDS}
    composition = []
    for batch in _singles(pieces) if by else pieces:
        compared = _compared(potential, batch, used, differentiable=bool(by))
        if "energy" in compared:
            counts = potential.composition(batch)[batch.has_energy]
            composition.append(counts / _root(batch)[:, None])
        for kind, (label, prediction) in compared.items():
            residuals[kind].append((label - prediction).detach())
            if by:
                gradients[kind].append(gradients_of(prediction, by))
    found = [kind for kind in KINDS if residuals[kind]]
    columns = [torch.cat(residuals[kind]) for kind in found]
    kinds = [
        torch.full((len(column),), KINDS.index(kind))
        for kind, column in zip(found, columns, strict=True)
    ]
    return Rows(
        residuals=torch.cat(columns),
        kinds=torch.cat(kinds),
        composition=torch.cat(composition) if composition else torch.zeros(0, 0),
        gradients=torch.cat([*chain(*gradients.values())]) if by else torch.zeros(0, 0),
    )


def energy_rows(potential: Potential, batch: GraphBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the labelled energies of a batch and what the potential says, as in `Rows`."""
    root = _root(batch)
    predicted = potential(batch, forces=False).energy[batch.has_energy]
    return batch.energy[batch.has_energy] / root, predicted / root


def _compared(
    potential: Potential, batch: GraphBatch, used: Sequence[str], differentiable: bool
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Return label and prediction of each kind that the batch has, as columns."""
    has = {kind: kind in used and bool(getattr(batch, f"has_{kind}").any()) for kind in KINDS}
    if not any(has.values()):
        return {}
    with torch.set_grad_enabled(differentiable):
        predicted = potential(
            batch, forces=has["forces"], stress=has["stress"], create_graph=differentiable
        )
    found = {}
    if has["energy"]:
        labelled, root = batch.has_energy, _root(batch)
        found["energy"] = (batch.energy[labelled] / root, predicted.energy[labelled] / root)
    for kind in ("forces", "stress"):
        if has[kind]:
            chosen = getattr(batch, f"has_{kind}")
            label, prediction = getattr(batch, kind)[chosen], getattr(predicted, kind)[chosen]
            if kind == "stress":
                row, column = SYMMETRIC
                label, prediction = label[:, row, column], prediction[:, row, column]
            found[kind] = (label.double().reshape(-1), prediction.double().reshape(-1))
    return found


def _root(batch: GraphBatch) -> torch.Tensor:
    return batch.atoms[batch.has_energy].double().sqrt()


def _singles(pieces: Sequence[GraphBatch]) -> Iterator[GraphBatch]:
    for batch in pieces:
        for index in range(len(batch)):
            yield batch.single(index)


def gradients_of(values: torch.Tensor, parameters: Sequence[torch.nn.Parameter]) -> torch.Tensor:
    """Return the gradient of each value by all parameters, side by side ``[values, P]``."""
    rows = []
    for value in values:
        found = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
        parts = [
            torch.zeros_like(parameter) if part is None else part
            for part, parameter in zip(found, parameters, strict=True)
        ]
        rows.append(torch.cat([part.reshape(-1) for part in parts]))
    return torch.stack(rows)
