"""An ASE calculator that follows which adapter is active."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ase import Atoms

from finetune.export.calculator import PotentialCalculator

if TYPE_CHECKING:
    from finetune.export.switching import AdaptedFoundation


class ActiveCalculator(PotentialCalculator):
    """Evaluates whatever adapter is active; a switch makes earlier results out of date."""

    def __init__(self, foundation: AdaptedFoundation) -> None:
        super().__init__(foundation.potential)
        self.foundation = foundation

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """Return what has changed since the last calculation; called by ASE."""
        changes = super().check_state(atoms, tol)
        if self.potential is not self.foundation.potential:
            changes.append("adapter")
        return changes

    def calculate(self, *arguments: Any, **options: Any) -> None:
        """Evaluate the active adapter; called by ASE."""
        self.potential = self.foundation.potential
        super().calculate(*arguments, **options)

    def calculate_many(self, *arguments: Any, **options: Any) -> list[dict[str, Any]]:
        """Evaluate structures with the active adapter, in batches."""
        self.potential = self.foundation.potential
        return super().calculate_many(*arguments, **options)
