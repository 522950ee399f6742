"""A potential and the one it is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from finetune.data.graphs import GraphBatch
from finetune.errors import FoundationError
from finetune.evaluation.metrics import errors, predict
from finetune.foundation.loading import Foundation, load_foundation
from finetune.foundation.potential import Potential
from finetune.result import Comparison

TUNED, FOUNDATION = "fine-tuned", "foundation"


@dataclass(frozen=True)
class Pair:
    """Two opened potentials.

    Attributes:
        tuned: The one in question.
        reference: The one beside it, or None.
        names: What tables call the two.
        note: Why there is none beside it, if there should be.
    """

    tuned: Foundation
    reference: Foundation | None
    names: tuple[str, str]
    note: str = ""

    @property
    def potentials(self) -> dict[str, Potential]:
        """The potentials by name, the foundation first."""
        found: dict[str, Potential] = {self.names[0]: self.tuned.potential}
        if self.reference is not None:
            found = {self.names[1]: self.reference.potential, **found}
        return found

    @property
    def fingerprints(self) -> dict[str, str]:
        """The fingerprints by name, in the same order."""
        found = {self.names[0]: self.tuned.fingerprint}
        if self.reference is not None:
            found = {self.names[1]: self.reference.fingerprint, **found}
        return found


def open_pair(
    path: str | Path,
    against: str | Path | None,
    dtype: torch.dtype,
    device: torch.device,
    head: str | None = None,
    against_head: str | None = None,
) -> Pair:
    """Open a potential, and beside it another one or the foundation that it was tuned from.

    The foundation gets the reference energies of the fine-tuned potential, so that only the weights
    differ; any other potential keeps its own.

    Args:
        path: Run folder, stored potential, ``.model`` file, or name in the catalogue.
        against: The same; by default the foundation, where ``path`` was tuned from one.
        dtype: Type of the weights.
        device: Where to compute.
        head: Name of the head of ``path`` that predicts.
        against_head: Name of the head of ``against`` that predicts.

    Raises:
        FoundationError: If one that is named cannot be opened, or both are the same.
    """
    if against is None and against_head is not None:
        raise FoundationError(
            f"the head '{against_head}' is to be of the potential beside it, but none is named: "
            "name one with --against."
        )
    tuned = load_foundation(path, dtype, device, head=head)
    origin = tuned.metadata.get("foundation") or {}
    if against is not None:
        other = load_foundation(against, dtype, device, head=against_head)
        heads = {other.head, origin.get("head")} - {None}  # one of the only head need not be named
        if other.fingerprint == origin.get("fingerprint") and len(heads) < 2:
            return _tuned_from(tuned, other)
        return Pair(tuned, other, _names((path, head), (against, against_head)))
    if not origin:
        return Pair(tuned, None, (Path(str(path)).name, FOUNDATION))
    name = origin["name"]
    try:
        other = load_foundation(name, dtype, device, head=origin.get("head"))
    except FoundationError:
        note = f"without its foundation '{name}', which cannot be opened any more"
        return Pair(tuned, None, (TUNED, FOUNDATION), note)
    if other.fingerprint != origin["fingerprint"]:
        note = f"without its foundation '{name}', which has changed since"
        return Pair(tuned, None, (TUNED, FOUNDATION), note)
    return _tuned_from(tuned, other)


def _names(*opened: tuple[str | Path, str | None]) -> tuple[str, str]:
    """Return names for two potentials that tell them apart: by file, by path or by head."""
    for shown in (lambda path: Path(str(path)).name, str):
        first, second = (shown(path) for path, _ in opened)
        if first != second:
            return first, second
    first, second = (f"{path} ({head})" if head else str(path) for path, head in opened)
    if first == second:
        raise FoundationError(f"'{first}' is put beside itself: name another one with --against.")
    return first, second


def _tuned_from(tuned: Foundation, foundation: Foundation) -> Pair:
    foundation.potential.set_references(tuned.potential.references())
    return Pair(tuned, foundation, (TUNED, FOUNDATION))


def compare(
    source: str,
    tuned: Potential,
    reference: Potential | None,
    graphs: Sequence[GraphBatch],
    note: str = "",
) -> Comparison:
    """Evaluate two potentials on the same graphs."""
    after = predict(tuned, graphs)
    before = predict(reference, graphs) if reference is not None else None
    return Comparison(
        source=source,
        finetuned=errors(after, len(graphs)),
        foundation=errors(before, len(graphs)) if before is not None else None,
        finetuned_predictions=after,
        foundation_predictions=before,
        note=note,
    )
