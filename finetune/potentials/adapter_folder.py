"""A trained adapter in a folder, and the foundation that it belongs to.

The folder contains the weights and ``adapter.json``: the kind of adapter and its options, the
fingerprint of the foundation, and the reference energies that the adapter was trained with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from ase.data import chemical_symbols
from pydantic import Field, ValidationError

from finetune.core.errors import FoundationError, RecipeError, RunFolderError
from finetune.core.files import write_atomically
from finetune.core.options import Options
from finetune.core.resources import expanded
from finetune.core.run_files import ADAPTER, ADAPTER_RECORD
from finetune.potentials.downloads import digest
from finetune.potentials.potential import FamilyPotential, Potential
from finetune.potentials.reference_energies import by_symbol
from finetune.potentials.storage import Metadata, read_record
from finetune.recipe.plugins import adapters


class Origin(Options):
    """The foundation that an adapter was trained on: where it was, its head and its sha256."""

    name: str
    head: str | None = None
    fingerprint: str


class AdapterRecord(Options):
    """What ``adapter.json`` holds.

    ``reference_energies`` (symbol -> eV) are those that the adapter was trained with, ``precision``
    is the one it was trained in. ``sha256`` (file name -> hex) reveals damage to the weights; empty
    in folders of earlier releases. ``metadata`` is free: level of theory, lineage.
    """

    format: Literal["piwsl-finetune/adapter"] = "piwsl-finetune/adapter"
    format_version: Literal[1] = 1
    kind: str
    options: dict[str, Any] = Field(default_factory=dict)
    foundation: Origin
    reference_energies: dict[str, float]
    precision: Literal["float32", "float64"] = "float64"
    sha256: dict[str, str] = Field(default_factory=dict)
    metadata: Metadata = Field(default_factory=dict)

    @property
    def adapter(self) -> dict[str, Any]:
        """Kind and options, as a recipe has them."""
        return {"kind": self.kind, **self.options}

    def check_foundation(self, fingerprint: str, name: str, where: Path) -> None:
        """Refuse a foundation that the adapter was not trained on."""
        if fingerprint != self.foundation.fingerprint:
            raise FoundationError(
                f"the adapter in '{where}' belongs to the foundation '{self.foundation.name}' "
                f"(fingerprint {self.foundation.fingerprint[:12]}…), not to '{name}' (fingerprint "
                f"{fingerprint[:12]}…). Open the foundation that it was trained on."
            )

    def attach(self, potential: Potential, weights: Path | None) -> Any:
        """Attach the adapter to its foundation, which is in the adapter's precision and is changed.

        ``weights`` is the adapter's folder; None for the adapter before any training. Raises
        FoundationError for another kind, other options or a missing reference energy, and
        RunFolderError for weights that are missing, damaged or another adapter's.
        """
        symbols = [chemical_symbols[number] for number in potential.elements]
        missing = [symbol for symbol in symbols if symbol not in self.reference_energies]
        if missing:
            raise FoundationError(
                f"the adapter of the kind '{self.kind}' has no reference energy of "
                f"{', '.join(missing)}: its '{ADAPTER_RECORD}' is damaged. Get a fresh copy of it."
            )
        try:
            potential.set_references(by_symbol(self.reference_energies))
            adapter = adapters.get(self.kind)
            adapted = adapter(adapter.Options.model_validate(self.options)).attach(potential)
        except (RecipeError, ValidationError) as error:
            raise FoundationError(
                f"the adapter of the kind '{self.kind}' cannot be attached: {error} If it is one "
                "of your own, import the module that registers it, as it was when it was trained."
            ) from error
        if weights is not None:
            self.check_files(weights)
            adapted.load(weights)
        return adapted

    def check_files(self, folder: Path) -> None:
        """Refuse weights in ``folder`` that differ from those that were stored."""
        for name, expected in self.sha256.items():
            path = folder / name
            if path.is_file() and digest(path) != expected:  # loading reports a missing file
                raise RunFolderError(
                    f"'{path}' is damaged or was changed: its sha256 is not that in "
                    f"'{ADAPTER_RECORD}'. Get a fresh copy of the folder."
                )


def structure_of(potential: Potential) -> tuple[type[Potential], frozenset[str]]:
    """Return a potential's class and the names of its parameters."""
    return type(potential), frozenset(dict(potential.named_parameters(remove_duplicate=False)))


def adapters_needed(
    before: tuple[type[Potential], frozenset[str]],
    tuned: Potential,
    inside: Sequence[Mapping[str, Any]],
    adapter: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Return the adapters that a tuned potential needs beyond a plain one, in order.

    ``before`` is `structure_of` the foundation, which needs those ``inside`` already. In ``tuned``
    the ``adapter`` (kind and options) is merged, as far as that is possible. A potential that has
    become one of another family is plain: its settings say what was added.
    """
    plain = isinstance(tuned, FamilyPotential) and type(tuned) is not before[0]
    further = [adapter] if structure_of(tuned) != before and not plain else []
    return [dict(item) for item in (*inside, *further)]


def reference_record(energies: Mapping[int, float]) -> dict[str, float]:
    """Return reference energies by symbol instead of atomic number."""
    return {chemical_symbols[number]: energy for number, energy in energies.items()}


def weight_digests(folder: Path) -> dict[str, str]:
    """Return the sha256 (hex) of each file of weights that an adapter has written."""
    return {path.name: digest(path) for path in sorted(folder.glob("*.safetensors"))}


def write_record(folder: Path, record: AdapterRecord) -> None:
    """Write ``adapter.json`` into the folder of the weights."""
    content = record.model_dump_json(indent=2) + "\n"
    write_atomically(folder / ADAPTER_RECORD, content.encode())


def locate_adapter(path: str | Path) -> Path:
    """Return an adapter's folder, given it or a run folder; refuse one without an adapter."""
    place = expanded(str(path))
    for folder in (place, place / ADAPTER):
        if (folder / ADAPTER_RECORD).is_file():
            return folder
    raise FoundationError(
        f"'{path}' holds no adapter: neither '{ADAPTER_RECORD}' nor '{ADAPTER}/{ADAPTER_RECORD}' "
        "is there. Give a run folder (of a run in stages, one of its stages) or a run's "
        f"'{ADAPTER}' folder."
    )


def read_adapter(folder: Path) -> AdapterRecord:
    """Read ``adapter.json``; a `FoundationError` if it is missing, damaged or of another kind."""
    return read_record(folder / ADAPTER_RECORD, AdapterRecord)
