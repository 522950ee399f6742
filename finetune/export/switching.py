"""Several adapters on one loaded foundation: switch between them, disable them, average them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

from finetune.data.graphs import GraphBatch
from finetune.devices import choose_device, choose_dtype
from finetune.environment import versions
from finetune.errors import FoundationError, RunFolderError, suggestion, system_errors
from finetune.export.active_calculator import ActiveCalculator
from finetune.export.averaging import (
    LoadedAdapter,
    average_record,
    check_alike,
    check_weights,
    combined,
)
from finetune.export.calculator import PotentialCalculator
from finetune.foundation import storage
from finetune.foundation.adapter_folder import (
    AdapterRecord,
    adapters_needed,
    locate_adapter,
    read_adapter,
    structure_of,
)
from finetune.foundation.lineage import lineage
from finetune.foundation.loading import Foundation, load_foundation
from finetune.foundation.potential import Potential
from finetune.foundation.sharing import share
from finetune.quantities import Prediction
from finetune.run_files import ADAPTER


class AdaptedFoundation:
    """A foundation with several adapters, of which one is active at a time.

    Adapters are merged as their runs merged them, so that each predicts, bit for bit, what its run
    folder predicts when it is opened alone. Weights that an adapter left as they were are shared
    with the foundation; nothing here is meant to be trained further.

    Args:
        foundation: Name or path, or an opened foundation. One opened in single precision has lost
            digits that adapters trained in double precision need.
        adapters: Name -> run folder or adapter folder, to load at once; the first is active.
        device: ``auto`` (CUDA where there is one), ``cpu``, ``cuda``, ``cuda:1``, …
        dtype: ``float64`` or ``float32``.
        head: Head of a foundation that has several, for predictions without an adapter.

    Raises:
        FoundationError: If there is no such foundation, it is opened with another head already, or
            an adapter belongs to another.
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
                f"the foundation is opened already, with another head than '{head}': open it with "
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
        """The adapters by name, in the order in which they came."""
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
            name: What it is called; the name of the run folder if None.

        Returns:
            The name.

        Raises:
            FoundationError: If there is no adapter, it belongs to another foundation, or the name
                is taken.
            RunFolderError: If its weights are missing or damaged.
        """
        folder = locate_adapter(path)
        if name is None:
            resolved = folder.resolve()
            name = resolved.parent.name if resolved.name == ADAPTER else resolved.name
        self._check_free(name)
        record = read_adapter(folder)
        record.check_foundation(self.foundation.fingerprint, self.foundation.name, folder)
        fresh = self._fresh(record)
        before = structure_of(fresh)
        adapted = record.attach(fresh, folder)
        trained = frozenset(adapted.trainable_parameters())
        tuned = adapted.merge()
        needed = adapters_needed(before, tuned, self.foundation.adapters, record.adapter)
        potential = self._placed(tuned, needed)
        self._keep(name, LoadedAdapter(record, potential, trained, {str(folder): 1.0}, needed))
        return name

    def set_adapter(self, name: str) -> None:
        """Make an adapter the active one.

        Raises:
            FoundationError: If there is none of that name.
        """
        self._known(name)
        self._active = name

    @contextmanager
    def disable_adapter(self) -> Iterator[None]:
        """Predict with the foundation alone, exactly as it was opened, within a ``with`` block.

        After it the adapter that was active before is active again, whatever was chosen within.
        """
        before, self._active = self._active, None
        try:
            yield
        finally:
            self._active = before if before in self._loaded else None

    def delete_adapter(self, name: str) -> None:
        """Forget an adapter; the foundation predicts if it was the active one.

        Raises:
            FoundationError: If there is none of that name.
        """
        self._known(name)
        del self._loaded[name]
        if self._active == name:
            self._active = None

    def add_weighted_adapter(
        self, adapters: Sequence[str], weights: Sequence[float] | None = None, name: str = "average"
    ) -> None:
        """Add an average of adapters: W₀ + Σ wₖ (Wₖ − W₀), of weights and reference energies alike.

        W₀ is the foundation and Wₖ the foundation with adapter k merged. For LoRA that averages the
        changes s·A·B, not the factors, so that ranks may differ. (For weights: Wortsman et al.,
        arXiv 2203.05482; with weights that do not add up to one: Ilharco et al., arXiv 2212.04089.)

        Args:
            adapters: Names of adapters of one kind that train the same parameters.
            weights: One for each, of any sign and sum; equal ones that add up to one if None.
            name: What the average is called.

        Raises:
            FoundationError: For an unknown or taken name, another number of weights than adapters,
                or adapters that cannot be averaged.
        """
        check_weights(adapters, weights)
        self._check_free(name)
        loaded = [self._known(item) for item in adapters]
        if weights is None:
            weights = [1.0 / len(loaded) for _ in loaded]
        first = loaded[0]
        for item, called in zip(loaded, adapters, strict=True):
            check_alike(first, item, adapters[0], called)
        start = first.record.attach(self._fresh(first.record), None).merge()
        start.set_references(self._fresh(first.record).references())
        average = combined(
            self._placed(start, first.needed), [item.potential for item in loaded], weights
        )
        sources: dict[str, float] = {}
        for item, weight in zip(loaded, weights, strict=True):
            for path, part in item.sources.items():
                sources[path] = sources.get(path, 0.0) + weight * part
        record = average_record(loaded, sources)
        self._keep(name, LoadedAdapter(record, average, first.trained, sources, first.needed))

    def calculator(self) -> PotentialCalculator:
        """Return an ASE calculator that follows `set_adapter` and `disable_adapter`."""
        return ActiveCalculator(self)

    @system_errors()
    def save(self, folder: str | Path) -> None:
        """Store the foundation with the active adapter as a potential of its own.

        `load_calculator`, the commands and recipes open the folder as they open a run folder.

        Raises:
            FoundationError: If no adapter is active.
            RunFolderError: If the folder is there already.
        """
        if self._active is None:
            raise FoundationError("no adapter is active: choose one with set_adapter first.")
        place, chosen = Path(folder).expanduser(), self._loaded[self._active]
        if place.exists():
            raise RunFolderError(f"'{place}' exists. Choose another name.")
        metadata = dict(chosen.record.metadata)
        average = metadata.pop("average", None)  # a step of the descent
        metadata = {
            **metadata,
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
                f"an adapter '{name}' is loaded already. Give this one another name, or delete "
                "that one first."
            )

    def _fresh(self, record: AdapterRecord) -> Potential:
        """Return a copy of the foundation as the adapter's run opened it, on the CPU."""
        potential, precision = self.foundation.potential, choose_dtype(record.precision)
        if (potential.dtype, self.foundation.head) == (precision, record.foundation.head):
            return deepcopy(potential).cpu()
        adapters = self.foundation.adapters
        return storage.reopened(potential, precision, record.foundation.head, adapters=adapters)[0]

    def _placed(self, potential: Potential, needed: Sequence[Mapping[str, Any]]) -> Potential:
        """Return a potential on the device, in the dtype, its unchanged weights shared."""
        if potential.dtype != self._dtype:
            potential = storage.reopened(potential, self._dtype, adapters=needed)[0]
        potential = potential.to(self._device).requires_grad_(False).eval()
        share(potential, self._plain)
        return potential
