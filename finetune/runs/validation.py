"""What `validate` measures without training: labels, errors of the foundation, cost of an epoch."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from finetune.core.devices import peak_memory
from finetune.core.text import counted
from finetune.data.structures import Coverage
from finetune.potentials.errors import Errors, errors, predict
from finetune.runs.preparation import Preparation, described, summary, trained
from finetune.training.optimisers.optimiser import count_by_group
from finetune.training.records import Silent

SHOWN = (
    ("energy MAE", "energy_per_atom_mae", "meV/atom"),
    ("force MAE", "forces_mae", "meV/Å"),
    ("force inconsistency", "inconsistency_mae", "meV/Å"),
    ("stress MAE", "stress_mae", "meV/Å³"),
)


@dataclass(frozen=True)
class Validation:
    """What can be said of a recipe before it is run.

    Attributes:
        summary: What is trained on what, in one line.
        trained: The blocks of the model that are trained, and their shares, in one line.
        lineage: The potentials that the foundation descends from, itself last.
        defaults: What the kind of adapter decides of the training, by key of ``train``.
        coverage: Labels by split.
        before: Errors of the foundation on the validation set, its reference energies as the run
            will use them; None for a stage that starts from another one.
        unfitted: The same with the foundation's own reference energies.
        trainable: Number of trainable parameters by block.
        parameters: Number of the foundation's parameters.
        added: Number of those that the adapter has added.
        steps: Steps in an epoch.
        epoch_seconds: Wall time of an epoch with its validation, from one measured step.
        memory: Largest memory in use so far, bytes: of the GPU if one is used, else of the process.
        notes: Warnings, with advice.
        described: Summary, lineage and defaults as lines.
        after: The stage that it starts from, if there is one.
    """

    summary: str
    trained: str
    lineage: list[dict[str, Any]]
    defaults: dict[str, Any]
    coverage: dict[str, Coverage]
    before: Errors | None
    unfitted: Errors | None
    trainable: dict[str, int]
    parameters: int
    added: int
    steps: int
    epoch_seconds: float
    memory: int
    notes: tuple[str, ...]
    described: tuple[str, ...] = field(repr=False)
    after: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return everything (eV, Å, s, bytes), ready for JSON."""
        found = asdict(self)
        del found["described"]
        return found

    def lines(self) -> list[str]:
        """Return everything as lines for the terminal."""
        found = list(self.described)
        for split, item in self.coverage.items():
            found.append(
                f"{split}: {counted(item.structures, 'structure')} of "
                f"{counted(item.compositions, 'composition')}, {counted(item.atoms, 'atom')} of "
                f"{' '.join(item.elements)}; labelled: {item.energy} "
                f"energies, {item.forces} with forces, {item.stress} with stress"
            )
        if self.after:
            found.append(f"before training: not measured: starts from stage {self.after}")
        for title, name, unit in SHOWN if not self.after else ():
            after, without = getattr(self.before, name), getattr(self.unfitted, name)
            if after is not None:
                own = f" ({1000 * without:.1f} with the foundation's own reference energies)"
                found.append(
                    f"before training, validation {title}: {1000 * after:.1f} {unit}"
                    + (own if without != after else "")
                )
        found.append(
            f"an epoch: {counted(self.steps, 'step')}, about {self.epoch_seconds:.1f} s, "
            f"{self.memory / 2**20:.0f} MiB at most (measured on one step)"
        )
        return [*found, *self.notes]


def measured(prepared: Preparation) -> Validation:
    """Measure what a prepared run starts from and what an epoch of it costs.

    Takes a step or two, so the prepared potential is not fit for training afterwards.
    """
    started = time.perf_counter()
    unfitted = _errors(prepared, prepared.own_references)
    validation = time.perf_counter() - started
    adapted = prepared.adapted
    steps, seconds = _step_time(prepared)
    return Validation(
        summary=summary(prepared),
        trained=trained(prepared),
        lineage=prepared.lineage,
        defaults=prepared.recipe.adapter_defaults,
        coverage=prepared.coverage,
        before=None if prepared.after else _errors(prepared, {}),
        unfitted=None if prepared.after else unfitted,
        trainable=count_by_group(adapted.parameter_groups()),
        parameters=prepared.parameters[1],
        added=prepared.parameters[2],
        steps=steps,
        epoch_seconds=steps * seconds + validation,
        memory=peak_memory(adapted.potential.device),
        notes=tuple(prepared.notes),
        described=tuple(described(prepared)),
        after=prepared.after,
    )


def _errors(prepared: Preparation, references: Mapping[int, float]) -> Errors:
    """Return the foundation's errors on the validation set, with other reference energies."""
    potential, graphs = prepared.reference, prepared.data.valid
    fitted = potential.references()
    potential.set_references(references)
    found = errors(predict(potential, graphs), len(graphs))
    potential.set_references(fitted)
    return found


def _step_time(prepared: Preparation) -> tuple[int, float]:
    """Return the steps of an epoch, and the wall time of one, s; the first step is a warm-up."""
    trainer = prepared.trainer(Silent())
    spent = trainer.try_steps(2)
    return trainer.order.steps, spent[-1]
