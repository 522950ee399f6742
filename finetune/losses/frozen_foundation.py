"""The frozen foundation during a run: what depends on a structure alone is computed once."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import torch

from finetune.core.units import Prediction
from finetune.data.graphs import GraphBatch
from finetune.losses.soft_modes import SoftModes, soft_modes, thermal_displacements
from finetune.potentials.potential import Potential
from finetune.recipe.loss_options import DisplacementOptions


class FrozenFoundation:
    """The frozen foundation, in evaluation mode, with a memory.

    What it remembers is computed for each structure alone, so it does not depend on the batch in
    which a structure occurs first: a resumed run finds the same numbers.
    """

    def __init__(self, potential: Potential) -> None:
        self.potential = potential
        self._memory: dict[tuple[Hashable, int], tuple[torch.Tensor, ...]] = {}

    @torch.no_grad()
    def __call__(self, batch: GraphBatch, forces: bool, stress: bool = False) -> Prediction:
        """Predict for displaced copies; nothing is remembered."""
        return self.potential(batch, forces=forces, stress=stress)

    @torch.no_grad()
    def base(self, batch: GraphBatch, forces: bool, stress: bool = False) -> Prediction:
        """Predict for the structures as they are."""

        def compute(single: GraphBatch) -> tuple[torch.Tensor, ...]:
            found = self.potential(single, forces=forces, stress=stress)
            values = (found.energy, found.node_energy, found.forces, found.stress)
            return tuple(value for value in values if value is not None)

        columns = zip(*self._recall(("base", forces, stress), batch, compute), strict=True)
        energy, node_energy, *rest = [torch.cat(column) for column in columns]
        return Prediction(
            energy=energy,
            node_energy=node_energy,
            forces=rest.pop(0) if forces else None,
            stress=rest.pop(0) if stress else None,
        )

    @torch.no_grad()
    def soft_modes(self, batch: GraphBatch, count: int) -> list[SoftModes]:
        """Return the soft modes of each structure."""

        def compute(single: GraphBatch) -> tuple[torch.Tensor, ...]:
            found = soft_modes(self.potential, single, count)
            return found.directions, found.curvatures

        found = self._recall(("soft modes", count), batch, compute)
        return [SoftModes(directions, curvatures) for directions, curvatures in found]

    @torch.no_grad()
    def bursts(self, batch: GraphBatch, options: DisplacementOptions) -> list[torch.Tensor]:
        """Return the frames ``[frames, n, 3]``, Å, of a burst of dynamics from each structure."""
        settings = (options.temperature, options.duration, options.peak_size)

        def compute(single: GraphBatch) -> tuple[torch.Tensor, ...]:
            return (thermal_displacements(self.potential, single, *settings),)

        return [frames for (frames,) in self._recall(("burst", settings), batch, compute)]

    def _recall(
        self,
        what: Hashable,
        batch: GraphBatch,
        compute: Callable[[GraphBatch], tuple[torch.Tensor, ...]],
    ) -> list[tuple[torch.Tensor, ...]]:
        found = []
        for index, identity in enumerate(batch.identity.tolist()):
            key = (what, identity)
            if key not in self._memory:
                self._memory[key] = compute(batch.single(index))
            found.append(self._memory[key])
        return found
