"""Open the program that computes a level of theory."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from finetune.core.errors import RecipeError
from finetune.labelling.recipe import Level, PyscfLevel, TbliteLevel
from finetune.labelling.task import Label, Task

EXTRA = "pip install 'piwsl-finetune[label]'"


class Program(Protocol):
    """Computes labels; ``program`` is its name and version."""

    program: str

    def compute(self, task: Task, forces: bool) -> Label:
        """Compute a label.

        Raises:
            LabelError: For what cannot be computed or does not converge.
        """


def check_installed(level: Level) -> None:
    """Refuse a level whose package is missing.

    Raises:
        RecipeError: With how to install it.
    """
    if level.program != "ase" and find_spec(level.program) is None:
        raise RecipeError(f"level.program is {level.program}, which is not installed: {EXTRA}")


def open_program(
    level: Level,
    elements: Sequence[int] = (),
    threads: int = 1,
    memory: int = 4000,
    folder: Path = Path("label-files"),
) -> Program:
    """Open the program of a level in this process.

    Args:
        level: The level of theory.
        elements: Atomic numbers to come.
        threads: Of a calculation; PySCF alone takes it here, others follow ``OMP_NUM_THREADS``.
        memory: MB that PySCF plans with.
        folder: Where calculators that work with files do so.

    Raises:
        RecipeError: If it is not installed, or does not know what the level names.
    """
    check_installed(level)
    if isinstance(level, PyscfLevel):
        from finetune.labelling.pyscf import Molecular

        return Molecular(level, elements, threads, memory)
    from finetune.labelling.calculators import Named, TightBinding

    return TightBinding(level) if isinstance(level, TbliteLevel) else Named(level, folder)
