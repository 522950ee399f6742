"""Multiple time steps: forces of a head at every step, −dE/dr at every K-th."""

from __future__ import annotations

from typing import Any

from ase import Atoms

from finetune.data.graphs import GraphBatch
from finetune.evaluation.distances import Array
from finetune.export.calculator import PotentialCalculator, separated, split
from finetune.potentials.potential import Potential


class MixedForces(PotentialCalculator):
    """Forces of a head, and at every ``every``-th step what corrects them to −dE/dr.

    `get_forces` gives F + K (−dE/dr − F) at steps n with n mod K = 0 and F, the head's, at others.
    Velocity Verlet with them is r-RESPA (Tuckerman, Berne and Martyna, J. Chem. Phys. 97, 1990
    (1992)): before and after K steps with the head, half an impulse K Δt (−dE/dr − F). It is
    reversible in time. The same impulses enter ASE's Langevin dynamics.

    Among the results, and so in trajectories, ``forces`` are −dE/dr at steps with an impulse.
    Whoever takes the steps sets ``step`` to the number of the step that new positions belong to.
    """

    def __init__(self, potential: Potential, every: int) -> None:
        super().__init__(potential, forces="head")
        self.every = every
        self.step = 0

    def get_forces(self, atoms: Atoms | None = None) -> Array:
        """Return the forces ``[n, 3]``, eV/Å, that dynamics take at this step."""
        super().get_forces(atoms)
        forces: Array = self.results["forces_of_step"]
        return forces.copy()

    def _predicted(self, batch: GraphBatch, stress: bool) -> list[dict[str, Any]]:
        impulse = self.step % self.every == 0
        found = self.potential(batch, stress=stress, create_graph=False, gradient=impulse)
        results = separated(found, batch)
        for own in results:
            own["forces_of_step"] = own["forces"]
        if impulse:
            for own, gradient in zip(results, split(found.gradient_forces, batch), strict=True):
                own["forces_of_step"] = own["forces"] + self.every * (gradient - own["forces"])
                own["forces"] = gradient
        return results
