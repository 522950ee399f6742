"""Foundation potentials by name or path: opening, and lineage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from finetune.core.errors import FoundationError, HeadError, system_errors
from finetune.core.resources import embedded, find
from finetune.core.run_files import ADAPTER_RECORD, BUNDLE, CHECKPOINTS, COMMITTEE, MEMBERS
from finetune.potentials import catalogue
from finetune.potentials.adapter_folder import adapters_needed, read_adapter, structure_of
from finetune.potentials.committee import open_committee, read_committee
from finetune.potentials.opening import open_file
from finetune.potentials.potential import Potential
from finetune.potentials.published import BY_HEAD, Published
from finetune.potentials.storage import CONFIG, StoredConfig, load, read_config, reopened
from finetune.recipe.plugins import adapter_rules, adapters


@dataclass(frozen=True)
class Foundation:
    """An opened foundation potential, in evaluation mode.

    ``location`` finds it from any folder: its name if embedded, else its full path. ``fingerprint``
    is the sha256 over settings and weights, ``metadata`` what was stored with them: level of
    theory, lineage, … Of several heads, ``head`` predicts. ``adapters`` are those that the
    potential needs beyond a plain one, in order: kind and options. ``members`` are the folders of
    the potentials of a committee; empty for a single one.
    """

    name: str
    location: str
    potential: Potential
    fingerprint: str
    metadata: dict[str, Any]
    head: str | None = None
    adapters: tuple[dict[str, Any], ...] = ()
    members: tuple[Path, ...] = ()


@system_errors()
def load_foundation(
    name: str | Path,
    dtype: torch.dtype = torch.float64,
    device: str | torch.device = "cpu",
    recipe_folder: Path | None = None,
    head: str | None = None,
    trust: bool = False,
) -> Foundation:
    """Open a foundation by its name in the catalogue, or a stored potential by path.

    A path may be a folder with ``config.json`` and ``model.safetensors``; a run folder, whose
    fine-tuned potential becomes the foundation (of a committee the members' mean, a
    `CommitteePotential`, which cannot be trained); the ``adapter`` folder of a run, which is merged
    into the foundation that it names; or a file that a family's own tools wrote. Nothing in such a
    file is executed. A model of the catalogue that this machine lacks is downloaded first, if its
    licence need not be accepted.

    Args:
        name: Name in the catalogue, or path.
        dtype: Type of the weights and of the computation.
        device: Where to put the potential.
        recipe_folder: Folder of the recipe, where relative paths are looked up too.
        head: Name of the head that predicts; may be left out where there is one, or where the
            stored potential names it.
        trust: Whether a file that cannot be opened safely may be loaded as torch does, which runs
            whatever code it contains.

    Raises:
        FoundationError: For an unknown name or head, or files that are missing, damaged or of
            another kind.
    """
    place, entry = locate(str(name), recipe_folder), listed(str(name))
    members: tuple[Path, ...] = ()
    potential: Potential
    try:
        if (place / COMMITTEE).is_file():
            potential, config = open_committee(place, dtype, head)
            members = tuple(place / member for member in read_committee(place).members)
        elif place.is_file():
            sha256 = entry.sha256 if entry else None
            potential, config = open_file(place, dtype, head, sha256, trust)
        elif (place / CONFIG).exists():
            potential, config = load(place, dtype, head)
        else:
            potential, config = merged_adapter(place, dtype, head)
    except HeadError as error:
        raise HeadError(str(error).replace("the foundation", f"'{name}'", 1)) from error
    return Foundation(
        name=str(name),
        location=str(name) if entry or str(name) in embedded() else str(place.resolve()),
        potential=potential.to(device),
        fingerprint=config.fingerprint,
        metadata=entry.metadata if entry else config.metadata,
        head=head or config.head,
        adapters=config.adapters,
        members=members,
    )


def merged_adapter(
    folder: Path, dtype: torch.dtype = torch.float64, head: str | None = None
) -> tuple[Potential, StoredConfig]:
    """Open an adapter's foundation, unless it has changed, and merge the adapter as its run did."""
    record = read_adapter(folder)
    _check_descent(folder)
    origin, precision = record.foundation, getattr(torch, record.precision)
    try:
        foundation = load_foundation(origin.name, precision, head=origin.head)
    except FoundationError as error:
        raise FoundationError(
            f"the adapter in '{folder}' needs its foundation '{origin.name}': {error}"
        ) from error
    record.check_foundation(foundation.fingerprint, foundation.name, folder)
    before = structure_of(foundation.potential)
    tuned = record.attach(foundation.potential, folder).merge()
    needed = adapters_needed(before, tuned, foundation.adapters, record.adapter)
    metadata = {**record.metadata, "adapter": {**record.adapter, "sha256": record.sha256}}
    return reopened(tuned, dtype, head, metadata, needed)


def _check_descent(folder: Path) -> None:
    """Refuse an adapter that is its own foundation, directly or through others."""
    seen: list[Path] = []
    while (folder / ADAPTER_RECORD).is_file() and not (folder / CONFIG).exists():
        if folder.resolve() in seen:
            raise FoundationError(
                f"'{folder / ADAPTER_RECORD}' is damaged: the adapter names itself as its "
                "foundation, directly or through others. Get a fresh copy of the folder."
            )
        seen.append(folder.resolve())
        origin = read_adapter(folder).foundation.name
        found = embedded().get(origin) or find(origin, None)
        if found is None:
            return  # opening it reports this
        folder = found


def locate(name: str, recipe_folder: Path | None = None) -> Path:
    """Return the file or folder of a foundation; download it if necessary.

    ``name`` is one of the catalogue, or a path, which may be relative to the recipe's folder
    ``recipe_folder``. Raises FoundationError if there is none, or it cannot be downloaded.
    """
    known = embedded()
    if name in known:
        return known[name]
    if listed(name) is not None:
        return catalogue.fetch(name)
    place = find(name, recipe_folder)
    if place is None:
        raise FoundationError(
            f"no foundation '{name}'.{catalogue.suggested(name)} Give the path of a run, "
            "a stored potential or a model file, or a name that 'piwsl-finetune foundations' lists."
        )
    records = (COMMITTEE, CONFIG, ADAPTER_RECORD)
    if not place.is_dir() or any((place / name).exists() for name in records):
        return place
    inside = place / BUNDLE
    if (inside / CONFIG).exists():
        return inside
    if (place / CHECKPOINTS).is_dir() or (place / MEMBERS).is_dir():
        raise FoundationError(
            f"'{name}' holds a run that is not finished. Resume it first, with --resume auto."
        )
    raise FoundationError(
        f"'{name}' holds no potential: neither '{CONFIG}' nor '{BUNDLE}/{CONFIG}' is there."
    )


def listed(name: str) -> Published | None:
    """Return a published potential by name; None for an embedded one and for a path."""
    local = name in embedded() or Path(name).exists()
    return None if local else catalogue.published().get(name)


def known_elements(name: str, recipe_folder: Path | None = None) -> tuple[int, ...] | None:
    """Return the atomic numbers that a foundation knows, without opening or downloading it.

    None where that takes opening it: a file, an adapter, a committee, or nothing of that name.
    """
    if (entry := listed(name)) is not None:
        return entry.elements
    place = embedded().get(name) or find(name, recipe_folder)
    folders = [] if place is None else [place, place / BUNDLE]
    folder = next((item for item in folders if (item / CONFIG).is_file()), None)
    return read_config(folder).settings.elements_known() if folder else None


def lineage(foundation: Foundation) -> list[dict[str, Any]]:
    """Return the potentials that one descends from, the oldest first, itself last.

    Each has a ``name`` (or path), ``fingerprint`` and ``level_of_theory`` (None where unknown).
    """
    own = {
        "name": foundation.location,
        "fingerprint": foundation.fingerprint,
        "level_of_theory": _level_of_head(foundation),
    }
    return [*ancestors(foundation.metadata), own]


def _level_of_head(foundation: Foundation) -> str | None:
    """Return the level of theory of the head that predicts, None where it is not known.

    A run with the adapter `head` trains its new head alone; the others are its foundation's.
    """
    metadata, head = foundation.metadata, foundation.head
    if head is not None and level_of_theory(metadata) == BY_HEAD:
        return f"head {head}"
    adapter = metadata.get("recipe", {}).get("adapter", {})
    kind = adapter.get("kind")
    adds_head = kind in adapters.builtin and adapter_rules(kind).adds_head
    if not adds_head or head in (None, adapter.get("name")):
        return level_of_theory(metadata)
    before = ancestors(metadata)
    chosen = (metadata.get("foundation") or {}).get("head")
    return before[-1]["level_of_theory"] if before and chosen in (None, head) else None


def level_of_theory(metadata: Mapping[str, Any]) -> str | None:
    """Return the level of theory, or levels, that a stored potential was fitted to."""
    level = metadata.get("level_of_theory")
    if isinstance(level, Sequence) and not isinstance(level, str):
        level = ", ".join(map(str, level))
    return str(level) if level else None


def lineage_labels(ancestors: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Return a label for each potential: its name and its level of theory."""
    return tuple(
        str(item["name"]) + (f" ({item['level_of_theory']})" if item["level_of_theory"] else "")
        for item in ancestors
    )


def ancestors(metadata: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the lineage that a stored potential records; a file may hold anything there."""
    stored, keys = metadata.get("lineage"), ("name", "fingerprint", "level_of_theory")
    if isinstance(stored, list) and all(isinstance(item, Mapping) for item in stored):
        return [{key: item.get(key) for key in keys} for item in stored]
    origin = metadata.get("foundation")  # the first release stored only this
    if isinstance(origin, Mapping):
        return [{key: origin.get(key) for key in keys}]
    return []
