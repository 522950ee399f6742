"""A potential and the one it is compared with."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import torch

from finetune.core import run_files
from finetune.core.errors import DataError, FoundationError, RunFolderError
from finetune.core.files import read_json
from finetune.core.units import Units
from finetune.data.graphs import GraphBatch
from finetune.data.reading import read_structures
from finetune.data.sources import find_files
from finetune.data.structures import Structure
from finetune.evaluation.comparison import Comparison
from finetune.inspection.requirements import check_elements
from finetune.potentials.errors import errors, predict
from finetune.potentials.loading import Foundation, load_foundation
from finetune.potentials.potential import Potential
from finetune.recipe.sections import label_keys

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


def folder_for(path: str | Path, to: str | Path | None, kind: str) -> Path:
    """Return the folder that a test of a potential writes to.

    Args:
        path: Run folder, or what else names a potential.
        to: The folder, if it is named.
        kind: Its name within a run folder.

    Raises:
        RunFolderError: If there is no run folder and no other is named, or a file or the top level
            of a run folder is in the way.
    """
    if to is None and not (Path(path) / run_files.RECIPE).is_file():
        raise RunFolderError(f"'{path}' is no run folder: name a folder to write to with --to.")
    folder = Path(path) / kind if to is None else Path(to)
    if folder.exists() and not folder.is_dir():
        raise RunFolderError(f"'{folder}' is a file; name a folder.")
    if (folder / run_files.RECIPE).is_file():
        raise RunFolderError(f"'{folder}' is a run folder; choose another --to, '{folder / kind}'.")
    return folder


def check_ours(folder: Path, ours: re.Pattern[str]) -> None:
    """Refuse a folder that holds files, and no earlier test.

    Args:
        folder: To write to.
        ours: What the names of a test's files look like.

    Raises:
        RunFolderError: Naming a file that is there.
    """
    inside = chain(folder.glob("*"), folder.glob("*/*"))  # a test has no deeper ones
    names = sorted(item.name for item in inside if not item.is_dir())
    if names and not any(map(ours.fullmatch, names)):
        raise _other_files(folder, names[0])


def empty(folder: Path, ours: re.Pattern[str]) -> None:
    """Remove an earlier test.

    Args:
        folder: Where it is, if it is.
        ours: What the names of its files look like.

    Raises:
        RunFolderError: If anything else is there.
    """
    files = [item for item in folder.rglob("*") if not item.is_dir()]
    strange = sorted(item.name for item in files if not ours.fullmatch(item.name))
    if strange:
        raise _other_files(folder, strange[0])
    if files:
        shutil.rmtree(folder)


def _other_files(folder: Path, name: str) -> RunFolderError:
    return RunFolderError(
        f"'{folder}' holds other files ('{name}') than a test; choose another --to."
    )


def own_files(path: str | Path, sources: str | Sequence[str]) -> list[str]:
    """Return the data files of a run as they can be found from here.

    Those that are not where their relative path says are looked for where the run was started, and
    beside its recipe, as ``environment.json`` has it.

    Args:
        path: Of the run, or what else names a potential, which brings no such record.
        sources: As in the recipe.
    """
    try:
        folders = read_json(Path(path) / run_files.ENVIRONMENT)["data"]["folders"]
    except (OSError, ValueError, LookupError, TypeError):
        folders = []
    found = []
    for source in [sources] if isinstance(sources, str) else sources:
        places = [source, *(str(Path(folder) / source) for folder in folders)]
        found.append(next(filter(_is_there, places), source))
    return found


def _is_there(source: str) -> bool:
    try:
        return bool(find_files(source))
    except DataError:
        return False


def structures_for(
    pair: Pair, path: str | Path, files: str | Path | Sequence[str | Path]
) -> Sequence[Structure]:
    """Read structures, of the run's own test if none are named, and check their elements.

    Args:
        pair: The potentials.
        path: Of the first of them.
        files: The structures.

    Raises:
        DataError: If there are none, or a potential does not know an element.
    """
    data = pair.tuned.metadata.get("recipe", {}).get("data", {})
    own = data.get("test") or data.get("valid")
    if not files and not isinstance(own, (str, list)):
        raise DataError("no structures are named, and the potential brings none: name a file.")
    keys, units = label_keys(trained_keys(pair)), trained_units(pair)
    named = files or own_files(path, own)
    found = read_structures(named, keys, need_labels=False, units=units)
    check_pair(pair, found)
    return found


def check_pair(pair: Pair, structures: Sequence[Structure]) -> None:
    """Refuse structures with elements that a potential does not know.

    Raises:
        DataError: Naming the first.
    """
    for opened in (pair.tuned, pair.reference):
        if opened is not None:
            check_elements({"data": structures}, opened)


def trained_keys(pair: Pair) -> dict[str, str]:
    """Return the names of the labels in the recipe that a potential was tuned with."""
    return dict(pair.tuned.metadata.get("recipe", {}).get("data", {}).get("keys", {}))


def trained_units(pair: Pair) -> Units:
    """Return the units in the recipe that a potential was tuned with."""
    data = pair.tuned.metadata.get("recipe", {}).get("data", {})
    return Units.model_validate(data.get("units", {}))


def chosen_structures(structures: Sequence[Structure], number: int) -> list[Structure]:
    """Return so many structures, evenly spaced from the first to the last."""
    places = np.linspace(0, len(structures) - 1, number).round().astype(int)
    return [structures[index] for index in np.unique(places).tolist()]
