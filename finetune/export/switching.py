"""Several adapters on one loaded foundation: switch between them, disable them, average them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from ase import Atoms

from finetune.core.devices import choose_device, choose_dtype
from finetune.core.errors import FoundationError, RunFolderError, suggestion, system_errors
from finetune.core.run_files import ADAPTER
from finetune.core.units import Prediction
from finetune.data.graphs import GraphBatch
from finetune.export.calculator import Forces, PotentialCalculator
from finetune.potentials import adapter_folder, storage
from finetune.potentials.adapter_folder import AdapterRecord
from finetune.potentials.committee import share
from finetune.potentials.family import versions
from finetune.potentials.loading import Foundation, level_of_theory, lineage, load_foundation
from finetune.potentials.potential import Potential
from finetune.potentials.storage import family_potential

OF_ONE_RUN = ("recipe", "metrics", "trained")
"""Metadata that belong to one run, not to an average."""


class AdaptedFoundation:
    """A foundation with several adapters, of which one is active at a time.

    Adapters are merged as their runs merged them: each predicts, bit for bit, what its run folder
    predicts. Weights that an adapter did not change are shared with the foundation, so train none
    of these potentials further.

    Args:
        foundation: Name or path, or an opened foundation; opened in single precision, it lacks
            digits that adapters trained in double precision need.
        adapters: Name -> run folder or adapter folder, to load at once; the first is active.
        device: ``auto`` (CUDA where there is one), ``cpu``, ``cuda``, ``cuda:1``, …
        dtype: ``float64`` or ``float32``.
        head: Head of a foundation that has several, for predictions without an adapter.

    Raises:
        FoundationError: If there is no such foundation or head, or an adapter belongs to another.
        RunFolderError: If the weights of an adapter are missing or damaged.
        RecipeError: If the device or the dtype is unknown.
    """

    def __init__(
        self,
        foundation: str | Path | Foundation,
        adapters: Mapping[str, str | Path] | None = None,
        *,
        device: str = "auto",
        dtype: str = "float64",
        head: str | None = None,
    ) -> None:
        self._device, self._dtype = choose_device(device), choose_dtype(dtype)
        if isinstance(foundation, Foundation) and head not in (None, foundation.head):
            raise FoundationError(
                f"the foundation is opened already, with another head than '{head}'. Open it with "
                f"load_foundation(…, head='{head}'), or give its path."
            )
        if not isinstance(adapters or {}, Mapping):
            raise FoundationError("give the adapters as a mapping: {name: folder, …}.")
        if not isinstance(foundation, Foundation):
            foundation = load_foundation(foundation, head=head)
        self.foundation = foundation
        self._plain = foundation.potential
        self._plain = self._placed(deepcopy(foundation.potential), foundation.adapters)
        self._loaded: dict[str, LoadedAdapter] = {}
        self._active: str | None = None
        for name, path in (adapters or {}).items():
            self.load_adapter(path, name)

    @property
    def adapters(self) -> dict[str, LoadedAdapter]:
        """The adapters by name, in the order of loading."""
        return dict(self._loaded)

    @property
    def active_adapter(self) -> str | None:
        """Name of the adapter that predicts; None where the foundation does."""
        return self._active

    @property
    def potential(self) -> Potential:
        """The foundation with the active adapter, or without any."""
        return self._plain if self._active is None else self._loaded[self._active].potential

    def __call__(self, batch: GraphBatch, **options: Any) -> Prediction:
        """Predict with the active adapter; arguments and errors of `Potential.forward`."""
        prediction: Prediction = self.potential(batch, **options)
        return prediction

    @system_errors()
    def load_adapter(self, path: str | Path, name: str | None = None) -> str:
        """Load a trained adapter; the first one becomes active.

        Args:
            path: Run folder, or a run's ``adapter`` folder.
            name: Its name, which is returned; the name of the run folder if None.

        Raises:
            FoundationError: If there is no adapter, it belongs to another foundation, or the name
                is taken.
            RunFolderError: If its weights are missing or damaged.
        """
        folder = adapter_folder.locate_adapter(path)
        if name is None:
            resolved = folder.resolve()
            name = resolved.parent.name if resolved.name == ADAPTER else resolved.name
        self._check_free(name)
        record = adapter_folder.read_adapter(folder)
        record.check_foundation(self.foundation.fingerprint, self.foundation.name, folder)
        fresh = self._fresh(record)
        before = adapter_folder.structure_of(fresh)
        adapted = record.attach(fresh, folder)
        trained = frozenset(adapted.trainable_parameters())
        tuned = adapted.merge()
        inherited = self.foundation.adapters
        needed = adapter_folder.adapters_needed(before, tuned, inherited, record.adapter)
        potential = self._placed(tuned, needed)
        self._keep(name, LoadedAdapter(record, potential, trained, {str(folder): 1.0}, needed))
        return name

    def set_adapter(self, name: str) -> None:
        """Make an adapter the active one; raises FoundationError for an unknown name."""
        self._known(name)
        self._active = name

    @contextmanager
    def disable_adapter(self) -> Iterator[None]:
        """Predict with the foundation alone within a ``with`` block, exactly as it was opened."""
        before, self._active = self._active, None
        try:
            yield
        finally:
            self._active = before if before in self._loaded else None

    def delete_adapter(self, name: str) -> None:
        """Remove an adapter by name; if it was active, the foundation predicts."""
        self._known(name)
        del self._loaded[name]
        if self._active == name:
            self._active = None

    def add_weighted_adapter(
        self, adapters: Sequence[str], weights: Sequence[float] | None = None, name: str = "average"
    ) -> None:
        """Add an average of adapters: W₀ + Σ wₖ (Wₖ − W₀), of weights and reference energies alike.

        W₀ is the foundation and Wₖ the foundation with adapter k merged. For LoRA this averages the
        changes s·A·B, not the factors, so ranks may differ. (Averages: Wortsman et al., arXiv
        2203.05482; weights that do not add up to one: Ilharco et al., arXiv 2212.04089.)

        Args:
            adapters: Names of adapters of one kind that train the same parameters.
            weights: One for each, of any sign and sum; equal ones that add up to one if None.
            name: Name of the average.

        Raises:
            FoundationError: For adapters, weights or a name that cannot be used.
        """
        _check_weights(adapters, weights)
        self._check_free(name)
        loaded = [self._known(item) for item in adapters]
        weights = [1.0 / len(loaded)] * len(loaded) if weights is None else weights
        first = loaded[0]
        for item, called in zip(loaded, adapters, strict=True):
            _check_alike(first, item, adapters[0], called)
        start = first.record.attach(self._fresh(first.record), None).merge()
        start.set_references(self._fresh(first.record).references())
        parts = [item.potential for item in loaded]
        average = _combined(self._placed(start, first.needed), parts, weights)
        sources: dict[str, float] = {}
        for item, weight in zip(loaded, weights, strict=True):
            for path, part in item.sources.items():
                sources[path] = sources.get(path, 0.0) + weight * part
        record = _average_record(loaded, sources)
        self._keep(name, LoadedAdapter(record, average, first.trained, sources, first.needed))

    def calculator(self, forces: Forces | None = None) -> PotentialCalculator:
        """Return an ASE calculator that follows `set_adapter` and `disable_adapter`.

        ``forces`` are those of `load_calculator`.
        """
        return _ActiveCalculator(self, forces)

    @system_errors()
    def save(self, folder: str | Path) -> None:
        """Store the foundation with the active adapter merged into it, to open like a run folder.

        Raises:
            FoundationError: If no adapter is active.
            RunFolderError: If the folder exists.
        """
        if self._active is None:
            raise FoundationError("no adapter is active: choose one with set_adapter first.")
        place, chosen = Path(folder).expanduser(), self._loaded[self._active]
        if place.exists():
            raise RunFolderError(f"'{place}' exists. Choose another name.")
        metadata = dict(chosen.record.metadata)
        average = metadata.pop("average", None)  # a step of the lineage
        metadata |= {
            "name": self._active,
            "foundation": chosen.record.foundation.model_dump(),
            "lineage": [*lineage(self.foundation), *filter(None, [average])],
            "adapters": chosen.sources,
            "versions": versions(),
        }
        storage.save(chosen.potential, place, metadata, adapters=chosen.needed)

    def _known(self, name: str) -> LoadedAdapter:
        if not isinstance(name, str) or name not in self._loaded:
            raise FoundationError(
                f"no adapter '{name}' is loaded.{suggestion(str(name), self._loaded)} "
                f"Loaded: {', '.join(self._loaded) or 'none'}."
            )
        return self._loaded[name]

    def _keep(self, name: str, adapter: LoadedAdapter) -> None:
        self._loaded[name] = adapter
        if len(self._loaded) == 1:
            self._active = name

    def _check_free(self, name: str) -> None:
        if name in self._loaded:
            raise FoundationError(
                f"an adapter '{name}' is loaded already. Choose another name, or delete that one "
                "first."
            )

    def _fresh(self, record: AdapterRecord) -> Potential:
        """Return a copy of the foundation as the adapter's run opened it, on the CPU."""
        potential, precision = self.foundation.potential, choose_dtype(record.precision)
        if (potential.dtype, self.foundation.head) == (precision, record.foundation.head):
            return deepcopy(potential).cpu()
        head, adapters = record.foundation.head, self.foundation.adapters
        return storage.reopened(potential, precision, head, adapters=adapters)[0]

    def _placed(self, potential: Potential, needed: Sequence[Mapping[str, Any]]) -> Potential:
        """Return a potential on the device and in the dtype, with unchanged weights shared."""
        if potential.dtype != self._dtype:
            potential = storage.reopened(potential, self._dtype, adapters=needed)[0]
        potential = potential.to(self._device).requires_grad_(False).eval()
        share(potential, self._plain)
        return potential


@dataclass(frozen=True)
class LoadedAdapter:
    """An adapter in memory."""

    record: AdapterRecord
    potential: Potential  # the foundation with the adapter merged into it
    trained: frozenset[str] = field(repr=False)  # parameters that it could change
    sources: dict[str, float]  # what it was read from or averages: path -> weight
    # adapters that the potential needs beyond a plain one
    needed: list[dict[str, Any]] = field(default_factory=list)


class _ActiveCalculator(PotentialCalculator):
    """Evaluates the active adapter; a switch makes earlier results out of date."""

    def __init__(self, foundation: AdaptedFoundation, forces: Forces | None) -> None:
        super().__init__(foundation.potential, forces=forces)
        self.foundation = foundation

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        changes = super().check_state(atoms, tol)
        if self.potential is not self.foundation.potential:
            changes.append("adapter")
        return changes

    def calculate(self, *arguments: Any, **options: Any) -> None:
        self.potential = self.foundation.potential
        super().calculate(*arguments, **options)

    def calculate_many(self, *arguments: Any, **options: Any) -> list[dict[str, Any]]:
        self.potential = self.foundation.potential
        return super().calculate_many(*arguments, **options)


def _check_weights(names: Any, weights: Any) -> None:
    """Refuse anything but a list of names with a finite weight for each, or no weights at all."""
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise FoundationError(f"give the adapters as a list of names, not {names!r}.")
    if weights is None and names:
        return
    found = list(weights) if hasattr(weights, "__len__") else weights
    numbers = isinstance(found, list) and all(
        isinstance(x, Real) and math.isfinite(x) for x in found
    )
    if not numbers or not names or len(found) != len(names):
        raise FoundationError(
            f"give one finite weight for each of one or more adapters, not {found} for "
            f"{len(names)}."
        )


def _check_alike(first: LoadedAdapter, other: LoadedAdapter, name: str, called: str) -> None:
    """Refuse to average adapters whose weights do not correspond."""
    kinds = (first.record.kind, other.record.kind)
    both = (first.potential, other.potential)
    shapes = [{key: value.shape for key, value in item.named_parameters()} for item in both]
    heads = [(item.heads, item.head) for item in map(family_potential, both)]
    if kinds[0] != kinds[1]:
        differing = f"are of the kinds {kinds[0]} and {kinds[1]}"
    elif first.trained != other.trained:
        differing = "train different parameters"
    elif shapes[0] != shapes[1] or heads[0] != heads[1]:
        differing = "have different heads"
    else:
        return
    raise FoundationError(f"'{name}' and '{called}' cannot be averaged: they {differing}.")


def _combined(start: Potential, potentials: list[Potential], weights: Sequence[float]) -> Potential:
    """Return W₀ + Σ wₖ (Wₖ − W₀) of weights and reference energies, summed in double precision."""
    found = deepcopy(start)
    others = [dict(item.named_parameters()) for item in potentials]
    for name, parameter in found.named_parameters():
        parameter.data = _average(parameter, [other[name] for other in others], weights)
    references = [item.reference_energies for item in potentials]
    energies = _average(start.reference_energies, references, weights)
    found.set_references(dict(zip(found.elements, energies.tolist(), strict=True)))
    return found


def _average(
    start: torch.Tensor, tensors: Sequence[torch.Tensor], weights: Sequence[float]
) -> torch.Tensor:
    if all(torch.equal(tensor, start) for tensor in tensors):
        return start.clone()  # without rounding
    total = (1.0 - math.fsum(weights)) * start.double()
    for weight, tensor in zip(weights, tensors, strict=True):
        total = total + weight * tensor.double()
    return total.to(start)


def _average_record(loaded: Sequence[LoadedAdapter], sources: Mapping[str, float]) -> AdapterRecord:
    """Return the record of an average: what all parts agree on, and the parts in the lineage."""
    records = [item.record for item in loaded]
    first = {key: value for key, value in records[0].metadata.items() if key not in OF_ONE_RUN}
    same = {key for key in first if all(item.metadata.get(key) == first[key] for item in records)}
    metadata = {key: value for key, value in first.items() if key in same}
    for key in ("level_of_theory", "compositions"):
        found = [item.metadata.get(key) or [] for item in records]
        listed = [[value] if isinstance(value, str) else value for value in found]
        metadata[key] = sorted({str(value) for values in listed for value in values}) or None
    parts = ", ".join(f"{weight:g} × {path}" for path, weight in sources.items())
    step = {"name": f"average of {parts}", "fingerprint": None}
    metadata["average"] = {**step, "level_of_theory": level_of_theory(metadata)}
    return records[0].model_copy(update={"metadata": metadata})
