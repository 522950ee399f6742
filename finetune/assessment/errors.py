"""Errors on labelled structures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from finetune.assessment.shared import check_pair, trained_keys, trained_units
from finetune.data.graphs import graph
from finetune.data.labels import Structure
from finetune.data.reading import Reader
from finetune.devices import choose_device, choose_dtype
from finetune.errors import DataError, system_errors
from finetune.evaluation.calibration import calibrations
from finetune.evaluation.evaluated import Evaluated
from finetune.evaluation.evaluated_committee import EvaluatedCommittee
from finetune.evaluation.metrics import predict
from finetune.evaluation.side_by_side import compare, open_pair
from finetune.foundation import lineage
from finetune.foundation.committee import CommitteePotential
from finetune.result import Comparison
from finetune.sanity import ignored_inputs, strange_spread
from finetune.sections import label_keys
from finetune.suitability import foreign_compositions

SUBSETS = "config_type"
"""Tag that names the subset of a structure, unless another one is named."""
OTHER_ORIGIN = (
    "note: the labels have another zero of energy than the potential (another level of theory, "
    "other reference energies): of the energies, read those with the mean error removed."
)


@system_errors()
def evaluate(
    path: str | Path,
    files: str | Path | Sequence[str | Path],
    keys: Mapping[str, str] | None = None,
    device: str = "auto",
    dtype: str = "float64",
    *,
    against: str | Path | None = None,
    head: str | None = None,
    against_head: str | None = None,
    subset_key: str = SUBSETS,
    worst: int = 5,
) -> Evaluated:
    """Evaluate a potential, and its foundation or another one beside it, on labelled structures.

    The foundation gets the fine-tuned potential's reference energies, so that only what was learnt
    by the weights differs.

    Args:
        path: Run folder, stored potential, ``.model`` file, or name in the catalogue.
        files: One or several files of labelled structures.
        keys: Names of the labels (``energy``, ``forces``, ``stress``) where they differ from those
            in the run's recipe.
        device: ``auto``, ``cpu`` or a CUDA device.
        dtype: ``float64`` or ``float32``.
        against: The potential beside it; by default the foundation that ``path`` was tuned from.
        head: Name of the head of ``path`` that predicts.
        against_head: Name of the head of ``against`` that predicts.
        subset_key: What names the subset of a structure in the files.
        worst: How many of the worst structures are listed.

    Returns:
        The errors; for a committee an `EvaluatedCommittee`, with the calibration of its standard
        deviations.

    Raises:
        FoundationError: If there is no potential at ``path``, or an element is unknown to it.
        DataError: For files that cannot be used.
    """
    opened_as = choose_dtype(dtype), choose_device(device)
    pair = open_pair(path, against, *opened_as, head, against_head)
    label_names = label_keys({**trained_keys(pair), **(keys or {})})
    reader = Reader(label_names, trained_units(pair))
    structures = reader.read(files)
    reader.check_named(keys or ())
    check_pair(pair, structures)
    _check_subsets(structures, subset_key)
    cutoff = max(potential.cutoff for potential in pair.potentials.values())
    graphs = [graph(item, cutoff) for item in structures]
    note = pair.note
    known = pair.tuned.metadata.get("compositions") or []
    foreign = foreign_compositions(structures, known) if known else []
    if foreign:
        note = (
            f"warning: trained on {', '.join(known)} alone, so total energies of "
            f"{', '.join(foreign)} mean nothing; forces and energy differences may. {note}"
        )
    ignored = ignored_inputs(pair.tuned.potential, structures)
    strange = strange_spread(pair.tuned.potential, graphs, "the potential")
    note = " ".join(filter(None, [*strange, *ignored, note, *reader.notes()]))
    named = [files] if isinstance(files, (str, Path)) else files
    found = compare(
        ", ".join(map(str, named)),
        pair.tuned.potential,
        pair.reference.potential if pair.reference is not None else None,
        graphs,
        note,
    )
    found = replace(found, lineage=lineage.told(lineage.lineage(pair.tuned)))
    if _other_origin(found):
        found = replace(found, note=" ".join(filter(None, (OTHER_ORIGIN, note))))
    shown: dict[str, Any] = {
        **vars(found),
        "structures": structures,
        "subset_key": subset_key,
        "listed": worst,
        "names": pair.names,
    }
    committee = pair.tuned.potential
    if isinstance(committee, CommitteePotential):
        members = [predict(member, graphs) for member in committee.predicting]
        spread = calibrations(members, committee.scale)
        return EvaluatedCommittee(**shown, calibrations=spread)
    return Evaluated(**shown)


def _check_subsets(structures: Sequence[Structure], key: str) -> None:
    """Refuse a tag that was named and that no structure has."""
    if key == SUBSETS or any(key in item.tags for item in structures):
        return
    listed = ", ".join(sorted({name for item in structures for name in item.tags})) or "none at all"
    raise DataError(f"no structure has a '{key}' to name its subset. Tags present: {listed}.")


@np.errstate(invalid="ignore")
def _other_origin(found: Comparison) -> bool:
    predictions = found.finetuned_predictions
    errors = (predictions.energy[0] - predictions.energy[1]) / predictions.atoms
    if errors.size < 2:
        return False
    mean = errors.mean()
    return bool(abs(mean) > 1.0 and abs(mean) > 20 * np.abs(errors - mean).mean())
