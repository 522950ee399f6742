"""Write what a finished run leaves behind: adapter, fine-tuned potential, report, result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from finetune.core import run_files
from finetune.core.environment import versions
from finetune.core.files import write_json
from finetune.evaluation.report_page import Page, write_curve, write_report
from finetune.potentials import domain, storage
from finetune.potentials.adapter_folder import (
    AdapterRecord,
    Origin,
    reference_record,
    weight_digests,
    write_record,
)
from finetune.potentials.loading import told
from finetune.potentials.potential import Potential
from finetune.recipe.plugins import training_defaults
from finetune.runs.preparation import Preparation
from finetune.runs.result import RunResult


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
        f"{train.forces} with forces); {len(prepared.data.valid)} validate, "
        f"{len(prepared.test)} test"
    )


def described(prepared: Preparation) -> list[str]:
    """Lines on what is trained on what, from where, and what the kind of adapter decides."""
    steps = told(prepared.lineage)
    descent = f"continues from {' → '.join(steps)}" if len(steps) > 1 else ""
    return [
        line for line in (summary(prepared), trained(prepared), descent, defaults(prepared)) if line
    ]


def trained(prepared: Preparation) -> str:
    """One line on which blocks of the model are trained, and their shares."""
    number, own, added = prepared.parameters
    beside = number == added
    blocks = ", ".join(
        f"{name} {count:,}" + ("" if count == size or beside else f" ({100 * count / size:.1f} %)")
        for name, (count, size) in prepared.adapted.shares().items()
        if count
    )
    if beside:
        return f"trained: {blocks}; added, {100 * added / own:.3g} % of the foundation's number"
    return f"trained: {blocks}; {100 * number / (own + added):.3g} % of all parameters"


def defaults(prepared: Preparation) -> str:
    """One line on what adapter or optimiser decides of the training, and why; or nothing."""
    chosen, kind = prepared.recipe.adapter_defaults, prepared.recipe.adapter["kind"]
    values = ", ".join(
        f"{name} {'none' if value is None else f'{value:g}'}" for name, value in chosen.items()
    )
    by, reason = kind, training_defaults(kind).reason
    if prepared.recipe.train.optimiser == "gauss-newton":
        by, reason = "gauss-newton", "whole steps; restraint and noise come from the labels"
    return f"defaults of '{by}': {values} ({reason})" if chosen else ""


def _counts(prepared: Preparation) -> str:
    number, own, added = prepared.parameters
    if not added:
        return f"{number:,} of {own:,} parameters"
    if number == added:
        return f"{added:,} parameters added to the foundation's {own:,}, which stay,"
    return f"{number:,} of {own + added:,} parameters, {added:,} of them added,"


CITATION = (
    "M. Takamoto, V. Zaverkin, M. Niepert, Physics-Informed Weakly Supervised Learning for "
    "Interatomic Potentials, ICML 2025, arXiv 2408.05215; I. Batatia et al., MACE: Higher Order "
    "Equivariant Message Passing Neural Networks, NeurIPS 2022, arXiv 2206.07697"
)


def write(
    prepared: Preparation,
    tuned: Potential,
    result: RunResult,
    needed: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write everything, the result last.

    Args:
        prepared: The run.
        tuned: Its merged potential, with MACE's own layers.
        result: What it found.
        needed: Adapters that the merged potential needs beyond a plain MACE.

    Raises:
        OSError: If the folder cannot be written to.
    """
    recipe, folder = prepared.recipe, prepared.folder
    write_potential(prepared, tuned, result.as_dict(), needed)
    page = Page(
        name=folder.name,
        story=result.as_dict(),
        notes=result.notes,
        history=result.history,
        shown=result.shown,
        recipe=recipe,
        environment=prepared.environment,
    )
    write_report(page, folder / run_files.REPORT)
    write_curve(result.history, result.best_epoch, folder / run_files.CURVE)
    write_json(folder / run_files.RESULT, result.as_dict())


def write_potential(
    prepared: Preparation,
    tuned: Potential,
    metrics: Mapping[str, Any],
    needed: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write the adapter and the fine-tuned potential, each with where it comes from.

    Args:
        prepared: The run.
        tuned: Its merged potential, with MACE's own layers.
        metrics: What it was found to be worth, ready for JSON.
        needed: Adapters that the merged potential needs beyond a plain MACE.

    Raises:
        OSError: If the folder cannot be written to.
    """
    recipe, folder, foundation = prepared.recipe, prepared.folder, prepared.foundation
    origin = Origin(
        name=foundation.location, head=foundation.head, fingerprint=foundation.fingerprint
    )
    metadata = {
        "name": folder.name,
        "level_of_theory": prepared.levels,
        "compositions": prepared.compositions if prepared.ambiguous else None,
        "foundation": origin.model_dump(),
        "lineage": prepared.lineage,
        "recipe": recipe.model_dump(mode="json"),
        "trained": trained(prepared),
        "metrics": metrics,
        "versions": versions(),
        "citation": CITATION,
    }
    record = _save_adapter(prepared, tuned, origin, metadata)
    metadata["adapter"] = {**record.adapter, "sha256": record.sha256}
    bundle = folder / run_files.BUNDLE
    stored = storage.save(tuned, bundle, metadata, adapters=needed)
    trained_on = domain.summarise(tuned, prepared.data.train, prepared.data.valid)
    domain.write(trained_on, bundle, stored.fingerprint)


def _save_adapter(
    prepared: Preparation, tuned: Potential, origin: Origin, metadata: Mapping[str, Any]
) -> AdapterRecord:
    recipe, folder = prepared.recipe, prepared.folder / run_files.ADAPTER
    adapted = prepared.adapted
    if getattr(adapted.potential, "acceleration", "none") != "none":
        adapted = prepared.adapter.attach(deepcopy(tuned))  # the same weights in MACE's own layers
    adapted.save(folder)
    record = AdapterRecord(
        kind=recipe.adapter["kind"],
        options={key: value for key, value in recipe.adapter.items() if key != "kind"},
        foundation=origin,
        reference_energies=reference_record(prepared.reference.references()),
        precision=recipe.train.precision,
        sha256=weight_digests(folder),
        metadata=dict(metadata),
    )
    write_record(folder, record)
    return record
