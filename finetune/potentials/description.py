"""What is known about one foundation potential, as lines of a table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ase.data import chemical_symbols

from finetune.core.run_files import COMMITTEE
from finetune.potentials import loading
from finetune.potentials.committee import read_committee
from finetune.potentials.family import ABSENT, families, family, release
from finetune.potentials.opening import read_file
from finetune.potentials.potential import block, plain_name
from finetune.potentials.published import Published
from finetune.potentials.storage import CONFIG, read, read_config
from finetune.recipe.plugins import adapter_rules, adapters

LONGEST_TEXT = 1000
"""Letters of a value that are shown."""


def describe(name: str) -> list[tuple[str, str]]:
    """Return what is known of a foundation, by name or path: names and values.

    For one that is not downloaded yet, only the facts of the catalogue are returned. Raises
    FoundationError for an unknown name, or files that are damaged or of another kind.
    """
    entry = loading.listed(name)
    if entry and not entry.file.is_file():
        return [*_listed(entry), *_before(entry), ("file", f"to download: {entry.source}")]
    place = loading.locate(name)
    if (place / COMMITTEE).is_file():
        return _committee(name, place)
    if place.is_file():
        config, weights = read_file(place, entry.sha256 if entry else None)
    elif (place / CONFIG).exists():
        config, weights = read(place)
    else:
        potential, config = loading.merged_adapter(place)
        weights = {plain_name(name): item for name, item in potential.named_parameters()}
    own = {name: item for name, item in weights.items() if "/" not in name}
    rows = [
        *(_listed(entry) if entry else _stored(name, config.metadata)),
        ("path", str(place)),
        ("fingerprint", config.fingerprint),
        ("family", family(config.family).title),
        *config.settings.description(),
        (
            "groups of weights",
            ", ".join(family(config.family).groups_of(config.settings)) or "none",
        ),
        *_weights(own),
    ]
    return [(label, _printable(value)) for label, value in rows]


def _printable(text: str) -> str:
    """Return text that comes from a file without what a terminal would obey."""
    shown = "".join(letter if letter.isprintable() else "?" for letter in text)
    return shown if len(shown) <= LONGEST_TEXT else f"{shown[:LONGEST_TEXT]}…"


def _committee(name: str, place: Path) -> list[tuple[str, str]]:
    """Return what the members have in common, and where they are."""
    folders = [place / member for member in read_committee(place).members]
    configs = [read_config(folder) for folder in folders]
    stored = dict(_stored(name, configs[0].metadata)) | {"name": name}
    return [
        *stored.items(),
        ("committee", f"{len(folders)} members"),
        *(
            (f"  {folder.relative_to(place)}", config.fingerprint)
            for folder, config in zip(folders, configs, strict=True)
        ),
        *configs[0].settings.description(),
    ]


def _listed(entry: Published) -> list[tuple[str, str]]:
    return [
        ("name", entry.name),
        ("level of theory", entry.level_of_theory),
        ("licence", entry.terms),
    ]


def _before(entry: Published) -> list[tuple[str, str]]:
    """Return what is known of a potential before it is downloaded."""
    kind = next(item for item in families.names() if entry.name in family(item).published())
    packages = [f"{name} ({release(name)})" for name in family(kind).packages]
    absent = any(release(name) == ABSENT for name in family(kind).packages)
    extra = f": pip install 'piwsl-finetune[{kind}]'" if absent else ""
    found = [
        ("family", family(kind).title),
        ("package needed", ", ".join(packages) + extra),
        ("elements", " ".join(chemical_symbols[number] for number in entry.elements)),
        ("weights", "" if entry.parameters is None else f"{entry.parameters:,}"),
        ("to download", "" if entry.size is None else f"{entry.size / 1e6:.0f} MB"),
        ("reads charge and spin", " and ".join(sorted(entry.inputs)) or "neither"),
        ("forces", "of a head" if "-direct-" in entry.name else "−dE/dr"),
    ]
    return [(label, value) for label, value in found if value]


def _stored(name: str, metadata: Mapping[str, Any]) -> list[tuple[str, str]]:
    found = [
        ("name", str(metadata.get("name", name))),
        ("level of theory", loading.level_of_theory(metadata) or ""),
        ("descends from", " → ".join(loading.lineage_labels(loading.ancestors(metadata)))),
        ("licence", str(metadata.get("license", ""))),
        ("adapter", _adapter(metadata)),
    ]
    return [(label, value) for label, value in found if value]


def _adapter(metadata: Mapping[str, Any]) -> str:
    """Return the adapter of the run that made a potential, and what it trained."""
    options = metadata.get("recipe", {}).get("adapter", {})
    done = kind = options.get("kind", "")
    if kind in adapters.builtin and adapter_rules(kind).adds_head:
        done = f"{kind}: added '{options.get('name')}', and trained nothing else"
    return "; ".join(str(part) for part in (done, metadata.get("trained")) if part)


def _weights(weights: Mapping[str, torch.Tensor]) -> list[tuple[str, str]]:
    blocks: dict[str, int] = {}
    for name, tensor in weights.items():
        of = block(plain_name(name))
        blocks[of] = blocks.get(of, 0) + tensor.numel()
    types = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in weights.values()})
    return [
        ("dtype", ", ".join(types)),
        ("parameters", f"{sum(blocks.values()):,}"),
        *((f"  {block}", f"{count:,}") for block, count in sorted(blocks.items())),
    ]
