"""Several potentials that predict together: their mean, and the spread of their predictions."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field, field_validator

from finetune.core.errors import FoundationError
from finetune.core.files import write_atomically
from finetune.core.options import Options
from finetune.core.run_files import COMMITTEE
from finetune.core.units import Prediction
from finetune.data.graphs import GraphBatch
from finetune.potentials import storage
from finetune.potentials.potential import Interaction, Potential
from finetune.potentials.storage import StoredConfig, read_record


def share(potential: Potential, foundation: Potential) -> None:
    """Let parameters and buffers that equal the foundation's share its memory.

    The potential is on the foundation's device and is not trained further; the foundation may be
    inside a `WrappedPotential`.
    """
    own = {**dict(foundation.named_parameters()), **dict(foundation.named_buffers())}
    for name, tensor in (*potential.named_parameters(), *potential.named_buffers()):
        other = own.get(name, own.get(name.removeprefix("base.")))  # of a `WrappedPotential`
        if "reference_energies" in name or other is None:
            continue
        alike = tensor.dtype == other.dtype and tensor.device == other.device
        if alike and torch.equal(tensor, other):
            tensor.data = other.data


class CommitteeRecord(Options):
    """What ``committee.json`` holds.

    ``members`` are the folders of the stored potentials, relative to the file. ``scale`` (by
    ``energy`` and ``forces``; None where validation had no labels) is the factor that brings
    standard deviations to the size of errors on the validation set.
    """

    format: Literal["piwsl-finetune/committee"] = "piwsl-finetune/committee"
    format_version: Literal[1] = 1
    members: tuple[str, ...] = Field(min_length=2)
    scale: dict[Literal["energy", "forces"], float | None] = Field(default_factory=dict)

    @field_validator("members")
    @classmethod
    def _inside(cls, members: tuple[str, ...]) -> tuple[str, ...]:
        for name in members:
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise ValueError(f"the member '{name}' lies outside the folder")
        return members


class CommitteePotential(Potential):
    """The mean of potentials of one foundation; weights that they share are in memory once.

    There are two members or more, for the same elements, else a `FoundationError`. For ``scale``
    see `CommitteeRecord`.
    """

    def __init__(
        self,
        members: Sequence[Potential],
        scale: Mapping[Literal["energy", "forces"], float | None] | None = None,
    ) -> None:
        if len(members) < 2:
            raise FoundationError("a committee has at least two members.")
        first = members[0]
        if any(set(item.elements) != set(first.elements) for item in members):
            raise FoundationError("the members of a committee must know the same elements.")
        super().__init__(max(item.cutoff for item in members), first.references())
        self.members = torch.nn.ModuleList(members)
        self.scale: dict[Literal["energy", "forces"], float | None] = dict(scale or {})
        self._mean_references()
        self._share()

    @property
    def further_inputs(self) -> frozenset[str]:
        """See `Potential.further_inputs`."""
        return self.predicting[0].further_inputs

    @property
    def direct_forces(self) -> bool:
        """See `Potential.direct_forces`; as of the first member."""
        return self.predicting[0].direct_forces

    @property
    def feature_size(self) -> int:
        """See `Potential.feature_size`; that of the first member."""
        return self.predicting[0].feature_size

    def set_references(self, energies: Mapping[int, float]) -> None:
        """Move the reference energies (eV) of all members to give the mean that is asked for."""
        before = self.references()
        for item in self.predicting:
            own = item.references()
            item.set_references({n: own[n] + value - before[n] for n, value in energies.items()})
        self._mean_references()

    def predictions(
        self,
        batch: GraphBatch,
        forces: bool = True,
        stress: bool = False,
        create_graph: bool | None = None,
        gradient: bool | Literal["held"] = False,
    ) -> list[Prediction]:
        """Return what each member predicts; arguments and errors of `Potential.forward`."""
        return [item(batch, forces, stress, create_graph, gradient) for item in self.predicting]

    def forward(
        self,
        batch: GraphBatch,
        forces: bool = True,
        stress: bool = False,
        create_graph: bool | None = None,
        gradient: bool | Literal["held"] = False,
    ) -> Prediction:
        """Predict the mean over the members; arguments and errors of `Potential.forward`."""
        return mean(self.predictions(batch, forces, stress, create_graph, gradient))

    def interaction(self, batch: GraphBatch, element: torch.Tensor, strain: bool) -> Interaction:
        """Refuse: each member has positions of its own to differentiate by."""
        raise FoundationError("a committee cannot be part of another potential. Name a member.")

    def interaction_and_features(
        self, batch: GraphBatch, element: torch.Tensor, strain: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor]:
        """See `Potential.interaction_and_features`; those of the first member."""
        return self.predicting[0].interaction_and_features(batch, element, strain)

    @property
    def predicting(self) -> list[Potential]:
        """The members."""
        return list(self.members)  # type: ignore[arg-type]

    def _mean_references(self) -> None:
        own = [item.references() for item in self.predicting]
        super().set_references(
            {number: sum(item[number] for item in own) / len(own) for number in self.elements}
        )

    def _share(self) -> None:
        for item in self.predicting[1:]:
            share(item, self.predicting[0])

    def _apply(self, fn, recurse: bool = True):  # type: ignore[no-untyped-def]
        """Share weights again that were moved one by one."""
        super()._apply(fn, recurse)
        self._share()
        return self


def mean(found: Sequence[Prediction]) -> Prediction:
    """Return the mean of predictions of one batch."""
    means = {}
    for field in fields(Prediction):
        values = [getattr(item, field.name) for item in found]
        if values[0] is not None:
            means[field.name] = torch.stack(values).mean(dim=0)
    return Prediction(**means)


def read_committee(folder: Path) -> CommitteeRecord:
    """Read ``committee.json``; a `FoundationError` if it is missing, damaged or of another kind."""
    return read_record(folder / COMMITTEE, CommitteeRecord)


def write_committee(folder: Path, record: CommitteeRecord) -> None:
    """Write ``committee.json``."""
    content = record.model_dump_json(indent=2) + "\n"
    write_atomically(folder / COMMITTEE, content.encode())


def open_committee(
    folder: Path, dtype: torch.dtype = torch.float64, head: str | None = None
) -> tuple[CommitteePotential, StoredConfig]:
    """Open the members that ``committee.json`` names.

    The configuration is the first member's, with the sha256 over the fingerprints of all. Raises
    FoundationError for missing, damaged or foreign files, naming the file.
    """
    record = read_committee(folder)
    opened = [storage.load(folder / name, dtype, head) for name in record.members]
    potential = CommitteePotential([item for item, _ in opened], record.scale)
    configs = [config for _, config in opened]
    joined = " ".join(config.fingerprint for config in configs)
    fingerprint = hashlib.sha256(joined.encode()).hexdigest()
    return potential.eval(), configs[0].model_copy(update={"fingerprint": fingerprint})
