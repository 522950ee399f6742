"""Which labels each seed trains on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from finetune.data.labels import Structure
from finetune.data.sequences import View
from finetune.data.writing import write_structures
from finetune.errors import DataError
from finetune.tuning.measure import Measure


class Draws:
    """Subsets of a training set by seed and number of labels, nested and the same for all arms.

    Structures without a label that the losses use are in every subset, and so are free atoms that
    give reference energies.

    Args:
        structures: The training set.
        measure: What tells which structures have labels.
        isolated: Whether an arm takes its reference energies from free atoms.
    """

    def __init__(
        self, structures: Sequence[Structure], measure: Measure, isolated: bool = False
    ) -> None:
        self.structures = structures
        judged = [measure.judges(item) and not (isolated and len(item) == 1) for item in structures]
        self.labelled = [index for index, has in enumerate(judged) if has]
        self.others = [index for index, has in enumerate(judged) if not has]

    def check(self, counts: Iterable[int | None]) -> None:
        """Refuse numbers of labels that are not there.

        Args:
            counts: Numbers of labels; None for all.

        Raises:
            DataError: Naming both numbers.
        """
        for count in counts:
            if count is not None and count > len(self.labelled):
                raise DataError(
                    f"labels={count}: the training set has {len(self.labelled)} labelled "
                    "structures. Ask for fewer, or add labels."
                )

    def indices(self, seed: int, count: int) -> list[int]:
        """Return the structures that a seed draws, in their order."""
        order = np.random.default_rng([seed, len(self.labelled)]).permutation(self.labelled)
        return sorted([*order[:count].tolist(), *self.others])

    def structures_of(self, seed: int, count: int | None) -> Sequence[Structure]:
        """Return the structures themselves; all of them where there is no number."""
        if count is None:
            return self.structures
        return View(self.structures, self.indices(seed, count))

    def path(self, folder: Path, seed: int, count: int) -> Path:
        """Return the store of a subset in a folder, written if it is not there."""
        path = folder / f"{count}-seed{seed}.h5"
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            write_structures(path, self.structures_of(seed, count))
        return path.resolve()
