"""A potential under test, its baseline, and the structures that both are tested on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from finetune.core import run_files
from finetune.core.devices import choose_device, choose_dtype
from finetune.core.errors import DataError, FoundationError, HeadError
from finetune.core.files import read_json
from finetune.core.units import Units
from finetune.data.reading import find_files, read_structures
from finetune.data.structures import Structure
from finetune.inspection.requirements import check_elements
from finetune.potentials.loading import Foundation, load_foundation
from finetune.potentials.potential import Potential
from finetune.recipe.sections import label_keys

NAMES = TUNED, FOUNDATION = "fine-tuned", "foundation"
"""What tables call a potential and the foundation that it was fine-tuned from."""


@dataclass(frozen=True)
class Pair:
    """A potential under test and its baseline, both opened."""

    tested: Foundation
    baseline: Foundation | None
    names: tuple[str, str]  # of the two, in tables
    note: str = ""  # why the baseline is missing, if there should be one

    @property
    def opened(self) -> dict[str, Foundation]:
        """Both by name, the baseline first."""
        baseline = {} if self.baseline is None else {self.names[1]: self.baseline}
        return {**baseline, self.names[0]: self.tested}

    @property
    def potentials(self) -> dict[str, Potential]:
        """The potentials by name, the baseline first."""
        return {name: item.potential for name, item in self.opened.items()}

    @property
    def data(self) -> dict[str, Any]:
        """The section ``data`` of the recipe of the tested potential; empty without a recipe."""
        found: dict[str, Any] = self.tested.metadata.get("recipe", {}).get("data", {})
        return found

    @property
    def keys(self) -> dict[str, str]:
        """The names of the labels in that recipe."""
        return dict(self.data.get("keys", {}))

    @property
    def units(self) -> Units:
        """The units in that recipe."""
        return Units.model_validate(self.data.get("units", {}))


def open_pair(
    path: str | Path,
    against: str | Path | None,
    head: str | None,
    against_head: str | None,
    device: str,
    dtype: str,
) -> Pair:
    """Open a potential and its baseline; the arguments are those of `evaluate`.

    A foundation gets the reference energies of the potential that was tuned from it, so that only
    the weights differ; any other baseline keeps its own.
    """
    opened_as = choose_dtype(dtype), choose_device(device)
    if against is None and against_head is not None:
        raise FoundationError(
            f"'{against_head}' is a head of the baseline, but no baseline is named. Name one with "
            "--against."
        )
    tested = load_foundation(path, *opened_as, head=head)
    origin = tested.metadata.get("foundation") or {}
    if against is not None:
        try:
            other = load_foundation(against, *opened_as, head=against_head)
        except HeadError as error:
            raise HeadError(str(error).replace("--head", "--against-head")) from error
        heads = {other.head, origin.get("head")} - {None}  # an only head need not be named
        if other.fingerprint == origin.get("fingerprint") and len(heads) < 2:
            return _with_foundation(tested, other)
        return Pair(tested, other, _distinct_names((path, head), (against, against_head)))
    if not origin:
        return Pair(tested, None, (Path(str(path)).name, FOUNDATION))
    name = origin["name"]
    try:
        other = load_foundation(name, *opened_as, head=origin.get("head"))
    except FoundationError:
        note = f"without its foundation '{name}', which can no longer be opened"
        return Pair(tested, None, NAMES, note)
    if other.fingerprint != origin["fingerprint"]:
        note = f"without its foundation '{name}', which has changed since"
        return Pair(tested, None, NAMES, note)
    return _with_foundation(tested, other)


def _with_foundation(tuned: Foundation, foundation: Foundation) -> Pair:
    foundation.potential.set_references(tuned.potential.references())
    return Pair(tuned, foundation, NAMES)


def _distinct_names(*opened: tuple[str | Path, str | None]) -> tuple[str, str]:
    """Return different names for two potentials: by file, by path or by head."""
    for shown in (lambda path: Path(str(path)).name, str):
        first, second = (shown(path) for path, _ in opened)
        if first != second:
            return first, second
    first, second = (f"{path} ({head})" if head else str(path) for path, head in opened)
    if first == second:
        raise FoundationError(
            f"'{first}' is compared with itself. Name another potential with --against."
        )
    return first, second


def structures_for(
    pair: Pair, path: str | Path, files: str | Path | Sequence[str | Path]
) -> Sequence[Structure]:
    """Read structures, by default those of the run's test; refuse none, and unknown elements."""
    if not files:
        own = pair.data.get("test") or pair.data.get("valid")
        if not isinstance(own, (str, list)):
            raise DataError("no structures are named, and the potential records none. Name a file.")
        files = own_files(path, own)
    found = read_structures(files, label_keys(pair.keys), need_labels=False, units=pair.units)
    check_known_elements(pair, found)
    return found


def own_files(path: str | Path, sources: str | Sequence[str]) -> list[str]:
    """Return a run's data files: as named, from where it was started, or next to its recipe."""
    try:
        folders = read_json(Path(path) / run_files.ENVIRONMENT)["data"]["folders"]
    except (OSError, ValueError, LookupError, TypeError):
        folders = []
    found = []
    for source in [sources] if isinstance(sources, str) else sources:
        places = [source, *(str(Path(folder) / source) for folder in folders)]
        found.append(next(filter(_exists, places), source))
    return found


def _exists(source: str) -> bool:
    try:
        return bool(find_files(source))
    except DataError:
        return False


def check_known_elements(pair: Pair, structures: Sequence[Structure]) -> None:
    """Refuse structures with elements that a potential does not know, naming the first."""
    for opened in pair.opened.values():
        check_elements({"data": structures}, opened.name, opened.potential.elements)


def evenly_spaced(structures: Sequence[Structure], number: int) -> list[Structure]:
    """Return ``number`` structures, evenly spaced from the first to the last."""
    places = np.linspace(0, len(structures) - 1, number).round().astype(int)
    return [structures[index] for index in np.unique(places).tolist()]
