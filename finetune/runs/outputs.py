"""Write the files of a finished run: adapter, fine-tuned potential, report, result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from finetune.core import run_files
from finetune.core.files import write_json
from finetune.evaluation.plots import learning_curve, write_png
from finetune.evaluation.report_page import Page, write_report
from finetune.potentials import domain, storage
from finetune.potentials.adapter_folder import (
    AdapterRecord,
    Origin,
    reference_record,
    weight_digests,
    write_record,
)
from finetune.potentials.family import family, versions
from finetune.potentials.potential import Potential
from finetune.potentials.storage import family_potential
from finetune.runs.preparation import Preparation, trained
from finetune.runs.result import RunResult

CITATION = (
    "M. Takamoto, V. Zaverkin, M. Niepert, Physics-Informed Weakly Supervised Learning for "
    "Interatomic Potentials, ICML 2025, arXiv 2408.05215"
)


def write(
    prepared: Preparation,
    tuned: Potential,
    result: RunResult,
    needed: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write everything, the result last.

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
    write_png(learning_curve(result.history, result.best_epoch), folder / run_files.CURVE)
    write_json(folder / run_files.RESULT, result.as_dict())


def write_potential(
    prepared: Preparation,
    tuned: Potential,
    metrics: Mapping[str, Any],
    needed: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write the adapter and the fine-tuned potential, each with where it comes from.

    Raises:
        OSError: If the folder cannot be written to.
    """
    recipe, folder, foundation = prepared.recipe, prepared.folder, prepared.foundation
    origin = Origin(
        name=foundation.location, head=foundation.head, fingerprint=foundation.fingerprint
    )
    metadata = {
        "name": folder.name,
        "family": family_potential(tuned).family,
        "level_of_theory": prepared.levels,
        "compositions": prepared.compositions if prepared.ambiguous else None,
        "foundation": origin.model_dump(),
        "lineage": prepared.lineage,
        "recipe": recipe.model_dump(mode="json"),
        "trained": trained(prepared),
        "metrics": metrics,
        "versions": versions(),
        "citation": f"{CITATION}; {family(family_potential(tuned).family).citation}",
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
        adapted = prepared.adapter.attach(deepcopy(tuned))  # the same weights in plain layers
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
